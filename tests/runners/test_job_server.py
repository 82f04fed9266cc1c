"""What answers where a cluster is looked for, and what a cluster is told about this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners import job_probe
from raytrain_xai.runners.job_probe import PACKAGES, digest_of
from raytrain_xai.runners.job_server import connect
from raytrain_xai.runners.submit import storage_names

REPOSITORY = Path(__file__).resolve().parents[2]


class Answers(BaseHTTPRequestHandler):
    """Answers every request alike: what stands at the address instead of a Ray dashboard, or one that wants a token."""

    code, body = 404, b""

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Quiet."""


@pytest.fixture
def answers() -> Iterator[type[Answers]]:
    """A server on loopback; its class says what it answers, ``url`` where it is."""

    class Own(Answers):
        url = ""

    server = HTTPServer(("127.0.0.1", 0), Own)
    Own.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Own
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RunError, match=f"no Ray dashboard at {url}: .*refused; check host, port"):
            connect(url)


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (404, b"", "answers 404 .* it is no Ray dashboard"),
        (200, b"<html>", "answers, but not as a Ray dashboard"),
        (200, b"[]", "answers, but not as a Ray dashboard"),
        (200, b'{"authentication_mode": "kerberos"}', "authentication by 'kerberos'"),
    ],
)
def test_something_else_answers(answers: Any, code: int, body: bytes, message: str) -> None:
    answers.code, answers.body = code, body
    with pytest.raises(RunError, match=message):
        connect(answers.url)


@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, "asks for a token and this shell has none"), ({"RAY_AUTH_MODE": "disabled"}, "switches it off; unset")],
)
def test_a_token_is_asked_for_and_there_is_none(
    answers: Any, environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.code, answers.body = 200, b'{"authentication_mode": "token"}'
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        connect(answers.url)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "not that of a Ray dashboard"),
        ("auto", "not that of a Ray dashboard"),
        ("http://head:port", "not that of a Ray dashboard"),
        (
            "http://me:secret@head:8265",
            "^--address holds a user name or password, which",
        ),
        ("ftp://me:secret@head", "^--address head is not"),
    ],
)
def test_addresses_of_no_dashboard(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        connect(address)


def test_a_job_learns_where_the_storage_is_and_no_keys() -> None:
    environ = {
        "AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "RAY_AUTH_TOKEN": "r", "AWS_DEFAULT_REGION": "",
    }  # fmt: skip
    assert storage_names(environ) == {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-west-1"}
    with pytest.raises(ConfigError, match="^AWS_ENDPOINT_URL_S3 holds a user name or password") as raised:
        storage_names({"AWS_ENDPOINT_URL_S3": "http://me:secret@minio:9000"})
    assert "secret" not in str(raised.value)


def test_the_head_tells_what_it_has(tmp_path: Path) -> None:
    """The file runs by itself, in another folder, and finds this package to be the one that is here."""
    script = shutil.copy(job_probe.__file__, tmp_path)
    done = subprocess.run(
        [sys.executable, script, "torch", "no-such-thing"],
        cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["versions"]["torch"] and found["versions"]["no-such-thing"] is None
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["digest"] == digest_of([REPOSITORY / name for name in PACKAGES])


def test_a_package_is_another_with_any_other_file(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "p", tmp_path / "other" / "p"
    for folder in (one, other):
        (folder / "sub" / "__pycache__").mkdir(parents=True)
        (folder / "sub" / "a.py").write_text("x = 1\n")
    (one / "sub" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert digest_of([one]) == digest_of([other])
    digests = {digest_of([one])}
    (other / "sub" / "a.py").write_text("x = 2\n")
    digests.add(digest_of([other]))
    (other / "sub" / "a.py").rename(other / "sub" / "b.py")
    digests.add(digest_of([other]))
    (other / "b.txt").touch()
    digests.add(digest_of([other]))
    assert len(digests) == 4
