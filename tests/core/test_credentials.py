"""No configuration keeps a password, and no message shows one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytrain_xai.cli.main import main
from raytrain_xai.config import parse_config
from raytrain_xai.config_text import validated
from raytrain_xai.credentials import refuse_credentials, without_credentials
from raytrain_xai.errors import ConfigError
from raytrain_xai.sweep_config import SweepConfig
from serve.settings import ServeSettings

SECRET = "h0rse-stap1e"
RUN: dict[str, Any] = {"name": "r", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://alice:pw@host:5000/x", "https://host:5000/x"),
        ("https://token@host", "https://host"),
        ("rediss://:p@ss@cache:6379/0", "rediss://cache:6379/0"),
        ("s3://KEY:a%2Fb@bucket/runs", "s3://bucket/runs"),
        ("s3://b/k?region=eu&secret_key=abc&scheme=http", "s3://b/k?region=eu&secret_key=***&scheme=http"),
        ("https://h/p?X-Amz-Credential=AK%2F1&X-Amz-Signature=ff", "https://h/p?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("cannot read 's3://K:S@b/k': 403; see https://docs.example/@id", "cannot read 's3://b/k': 403; see https://docs.example/@id"),
        ("s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http", None),
        ("file:///home/a@b/data", None),
        ("somebody@example.org", None),
        ("a.b?key=1", None),
    ],
)  # fmt: skip
def test_what_opens_an_address_is_cut_out_and_nothing_else(text: str, shown: str | None) -> None:
    assert without_credentials(text) == (text if shown is None else shown)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tracking": {"mlflow": f"https://alice:{SECRET}@host"}}, "tracking.mlflow holds credentials.*MLFLOW_"),
        ({"storage": f"s3://bucket/runs?access_key=a&secret_key={SECRET}"}, "storage holds credentials.*AWS_SECRET"),
        ({"data": {"path": f"s3://key:{SECRET}@bucket/d"}}, "data.path holds credentials.*out of s3://bucket/d"),
    ],
)  # fmt: skip
def test_a_run_refuses_them_without_showing_them(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_config(RUN | values)
    assert SECRET not in str(raised.value)


def test_so_do_sweeps_and_services() -> None:
    address = f"rediss://:{SECRET}@cache:6379"
    for kind, values in (
        (SweepConfig, {"name": "s", "base": "b.yaml", "fixed": {"tracking.mlflow": f"http://a:{SECRET}@h"}}),
        (ServeSettings, {"checkpoint": "r", "security": {"rate_store": address}}),
        (ServeSettings, {"checkpoint": "r", "security": {"fetch": {"allow": ["https://h/x", f"https://a:{SECRET}@h/"]}}}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="holds credentials") as raised:
            validated(kind, values, "file")
        assert SECRET not in str(raised.value)


def test_wrong_values_are_shown_without_them() -> None:
    with pytest.raises(ConfigError, match="epochs: .*got 'https://host'") as raised:
        parse_config(RUN | {"epochs": "https://host"})
    with pytest.raises(ConfigError) as raised:
        parse_config(RUN | {"epochs": f"https://a:{SECRET}@host"})
    assert SECRET not in str(raised.value)


def test_values_that_are_no_addresses_pass() -> None:
    refuse_credentials({"a": [1, None, "plain", {"b": ("s3://bucket/x", 2.5)}]})


def test_the_last_line_of_a_command_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither from the configuration nor from an address on the command line that only its reader refuses."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(RUN | {"tracking": {"mlflow": f"https://alice:{SECRET}@host"}}))
    for arguments in (["train", str(file)], ["report", f"s3://bucket/run?scheme=http&secret_kye={SECRET}"]):
        monkeypatch.setattr(sys, "argv", ["raytrain-xai", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ")
        assert SECRET not in out + err
