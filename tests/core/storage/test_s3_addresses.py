"""How servers, regions and credentials of S3 are found, as the requests that arrive show it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_storage import FaultyStorage, faulty_storage

from raytrain_xai.errors import ConfigError
from raytrain_xai.storage import Location, exists, locate, read_bytes, write_bytes
from raytrain_xai.storage.address import parse_s3

LOOK = "from raytrain_xai.storage import exists, locate; exists(locate('s3://bucket/x'))"


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyStorage]:
    """It writes down who asks."""
    with faulty_storage(s3_server, lambda *_: None) as state:
        yield state


def signer(proxy: FaultyStorage) -> tuple[str, str]:
    """Access key and region of the last request."""
    _, _, _, signature = proxy.seen[-1]
    key, _, region, *_ = signature.partition("Credential=")[2].split("/")
    return key, region


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_server_of_the_environment(proxy: FaultyStorage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(name, f"http://{proxy.address}/")
    write_bytes(locate("s3://bucket/of environment"), b"1")
    assert read_bytes(locate(f"s3://bucket/of environment?endpoint_override={proxy.address}&scheme=http")) == b"1"
    assert signer(proxy) == ("key", "us-east-1")


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-north-1"}, "eu-north-1"),
        ({"AWS_REGION": "eu-north-1", "AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-3"),
        ({}, "us-east-1"),
    ],
)
def test_regions(proxy: FaultyStorage, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], region: str) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    at = f"s3://bucket/x?endpoint_override={proxy.address}&scheme=http"
    exists(locate(at))
    assert signer(proxy) == ("key", region)
    exists(locate(f"{at}&region=sa-east-1"))
    assert signer(proxy) == ("key", "sa-east-1")


def test_a_profile(proxy: FaultyStorage, tmp_path: Path) -> None:
    """In a process of its own: the client reads these files once."""
    (tmp_path / "config").write_text("[profile team]\nregion = ap-south-1\nendpoint_url = http://127.0.0.1:9\n")
    (tmp_path / "credentials").write_text("[team]\naws_access_key_id = TEAM\naws_secret_access_key = s\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_PROFILE": "team",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_ENDPOINT_URL": f"http://{proxy.address}",
    }
    subprocess.run([sys.executable, "-c", LOOK], env=environment, check=True, timeout=120)
    assert signer(proxy) == ("TEAM", "ap-south-1")


def test_locations_reach_other_processes_whole(proxy: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a server that only this process's environment names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
    write_bytes(locate("s3://bucket/travels"), b"1")
    data = pickle.dumps(locate("s3://bucket"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    there: Location = pickle.loads(data)
    assert read_bytes(there.child("travels")) == b"1"
    assert not there.is_local


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://KEY:S3CR3T@bucket/x", r"s3://bucket/x: an address must not hold credentials"),
        ("s3://bucket/x?access_key=KEY&secret_key=S3CR3T", r"s3://bucket/x: an address must not hold credentials"),
        ("s3://bucket/x?endpoint=a", r"unknown option 'endpoint'; known are endpoint_override, scheme"),
        ("s3://bucket/x?scheme=gopher", r"scheme 'gopher' of the server; expected https or http"),
        ("s3:///x", r"no bucket; expected s3://BUCKET/PATH"),
    ],
)
def test_addresses_that_are_refused(uri: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        locate(uri)
    assert "S3CR3T" not in str(error.value)


def test_a_server_without_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "storage.example:9000")
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL=storage.example:9000: expected https://HOST"):
        locate("s3://bucket/x")


def test_parts_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "own.pem")
    found = parse_s3("s3://bucket/a%20b/c#1/?endpoint_override=h:1&region=eu-north-1&force_virtual_addressing=true")
    assert (found.bucket, found.key, found.path) == ("bucket", "a b/c#1", "bucket/a b/c#1")
    assert (found.endpoint, found.scheme, found.region) == ("h:1", "https", "eu-north-1")
    assert (found.virtual_hosts, found.ca_file) == (True, "own.pem")
    assert parse_s3("s3://bucket").key == ""
