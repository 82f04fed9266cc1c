"""Links, unfinished uploads and listings by page, on a real HTTP S3 server; and what is left on disks."""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from faulty_storage import FaultyStorage, at_random, faulty_storage

from raytrain_xai.cli.main import cli
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.serving.picture_files import find_pictures
from raytrain_xai.storage import exists, list_tree, locate, patience, write_bytes, write_files
from raytrain_xai.storage.bucket import link_to, unfinished_uploads, walk


@pytest.fixture
def address(s3_server: str, request: pytest.FixtureRequest) -> str:
    """Of a folder of the test's own; ``{}`` is the place of a name."""
    return f"s3://bucket/{request.function.__name__}{{}}?endpoint_override={s3_server}&scheme=http"


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyStorage]:
    with faulty_storage(s3_server, lambda *_: None) as state:
        yield state


def client(server: str) -> Any:
    return boto3.client("s3", endpoint_url=f"http://{server}")


def test_a_link_opens_a_page_without_an_account(address: str) -> None:
    page = address.format("/report.html")
    write_bytes(locate(page), b"<p>seen</p>")
    done = CliRunner().invoke(cli, ["storage", "link", page, "--hours", "2"], catch_exceptions=False)
    link = done.output.strip()
    assert re.search(r"X-Amz-Expires=7200\b", link) and "secret" not in link
    with urllib.request.urlopen(link, timeout=60) as answer:
        assert answer.read() == b"<p>seen</p>"
        assert answer.headers["Content-Type"].startswith("text/html")  # else a browser saves it


@pytest.mark.parametrize(
    ("name", "hours", "problem"),
    [
        ("/none.html", "1", "there is no file at s3://"),
        ("/report.html", "169", "at most 168 hours"),
        ("/report.html", "0", "at most 168 hours"),
    ],
)
def test_links_that_cannot_be(address: str, name: str, hours: str, problem: str) -> None:
    done = CliRunner().invoke(cli, ["storage", "link", address.format(name), "--hours", hours])
    assert isinstance(done.exception, (ConfigError, DataError))
    assert problem in str(done.exception)


def test_links_to_disks_and_without_boto3(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is not on S3"):
        link_to(locate(str(tmp_path)), 1)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"needs boto3, which is not installed; pip install 'raytrain-xai\[s3\]'"):
        link_to(locate(address.format("")), 1)


def test_both_clients_speak_to_the_same_server(
    proxy: FaultyStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although boto3 alone would follow the profile."""
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert link_to(locate("s3://bucket/x?region=eu-north-1"), 1).startswith("https://bucket.s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{proxy.address}")
    assert link_to(locate("s3://bucket/x"), 1).startswith(f"http://{proxy.address}/bucket/x?")


def test_pages_are_the_listing(proxy: FaultyStorage, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 23 files, five pages; a third of the requests fail on the way."""
    monkeypatch.setattr("raytrain_xai.storage.bucket.REQUESTS", 1)
    monkeypatch.setattr("raytrain_xai.storage.bucket._PAGE", 5)
    at = locate(f"s3://bucket/pages?endpoint_override={proxy.address}&scheme=http")
    contents = ((f"{n // 8}/é%20{n:04d}.{'png' if n % 2 else 'txt'}", b"x" * (n % 7)) for n in range(23))
    write_files(at, contents)
    expected = list_tree(at)
    assert len(expected) == 23
    asked = len(proxy.seen)
    proxy.choose = at_random(1 / 3, ("500", "503", "reset", "truncate"), seed=3)
    assert dict(walk(at)) == expected
    proxy.choose = lambda *_: None
    assert sum(fault is None for *_, fault, _ in proxy.seen[asked:]) == 5
    assert sum(proxy.faults().values()) > 0
    pictures = find_pictures(at)
    assert list(pictures) == [name for name in expected if name.endswith(".png")]
    monkeypatch.setenv(patience.WAIT, "0")
    proxy.choose = lambda *_: "503"
    with pytest.raises(DataError, match="cannot list s3://bucket/pages.*gave up after 1 attempts"):
        list(walk(at))
    with pytest.raises(DataError, match="cannot list s3://nobody/x.*NoSuchBucket"):
        list(walk(locate(f"s3://nobody/x?endpoint_override={s3_server}&scheme=http")))


def test_unfinished_uploads_are_ended_and_nothing_else(
    s3_server: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, place = client(s3_server), locate(address.format("")).path.partition("/")[2]
    for name in (f"{place}/a/big", f"{place}/b", "elsewhere"):
        begun = s3.create_multipart_upload(Bucket="bucket", Key=name)
        s3.upload_part(Bucket="bucket", Key=name, PartNumber=1, UploadId=begun["UploadId"], Body=b"part")
    write_bytes(locate(address.format("/b")), b"whole")
    at = locate(address.format(""))
    found = list(unfinished_uploads(at, 0))
    assert [upload.name for upload in found] == ["a/big", "b"]
    with monkeypatch.context() as patch:  # the server says of every upload that it began at the same time
        patch.setattr("raytrain_xai.storage.bucket.time", SimpleNamespace(time=lambda: found[0].begun + 1800))
        assert list(unfinished_uploads(at, 3600)) == []
        assert list(unfinished_uploads(at, 900)) == found
    dry = CliRunner().invoke(cli, ["storage", "clean", at.uri, "--dry-run"], catch_exceptions=False)
    assert dry.output.endswith("2 leftovers older than 24 hours found\n")
    assert list(unfinished_uploads(at, 0)) == found
    done = CliRunner().invoke(cli, ["storage", "clean", at.uri], catch_exceptions=False)
    assert done.output.startswith("a/big: begun ") and done.output.endswith("2 leftovers older than 24 hours removed\n")
    left = s3.list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert [upload["Key"] for upload in left] == ["elsewhere"]
    assert exists(at.child("b"))


def test_uploads_that_a_broken_write_left_can_be_cleaned(proxy: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts arrive, the end never does: readers see no file, and the parts are found."""
    monkeypatch.setenv(patience.WAIT, "0")
    at = locate(f"s3://bucket/broken?endpoint_override={proxy.address}&scheme=http")
    proxy.choose = lambda method, path, _: "500" if method == "POST" and "uploadId" in path else None
    with pytest.raises(DataError, match="cannot write s3://bucket/broken/big"):
        write_bytes(at.child("big"), b"x" * (12 << 20))
    proxy.choose = lambda *_: None
    assert not exists(at.child("big"))
    assert [upload.name for upload in unfinished_uploads(at, 0)] == ["big"]


def test_what_killed_writers_left_on_a_disk(tmp_path: Path) -> None:
    old = time.time() - 30 * 3600
    for name in ("run/.unfinished-1", "run/.unfinished-folder/deep/file", "run/kept", "run/.unfinished-young"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        if path.name != ".unfinished-young":
            os.utime(path, (old, old))
    call = ["storage", "clean", str(tmp_path)]
    dry = CliRunner().invoke(cli, [*call, "--dry-run"], catch_exceptions=False)
    assert dry.output.endswith("2 leftovers older than 24 hours found\n")
    assert (tmp_path / "run" / ".unfinished-1").exists()
    done = CliRunner().invoke(cli, call, catch_exceptions=False)
    assert f"{tmp_path}/run/.unfinished-1: 5 bytes" in done.output
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"kept", ".unfinished-young"}
