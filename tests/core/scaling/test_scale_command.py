"""``raytrain-xai scale`` on the shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.errors import ConfigError
from raytrain_xai.scaling_config import load_scaling

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "scaling"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_files_are_valid(file: Path) -> None:
    assert load_scaling(file).reduce.bytes > 0


def test_a_table_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    files = [str(file) for file in FILES]
    result = CliRunner().invoke(cli, ["scale", *files, "--devices", "8,1", "--out", str(picture)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["1", "8"], "sizes in ascending order"
    assert sum("largest loss" in line for line in lines) == len(FILES)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_value_can_be_overridden_and_a_billion_images_come_with_advice() -> None:
    result = CliRunner().invoke(cli, ["scale", str(FILES[0]), "--devices", "1", "--set", "index.images=1000000000"])
    assert "1,953,125 files" in result.output
    assert "--shard-rows 8192" in result.output


@pytest.mark.parametrize(("devices", "message"), [("1,x", "no list of numbers"), ("0", "no run on 0 devices")])
def test_sizes_that_are_none_are_refused(devices: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["scale", str(FILES[0]), "--devices", devices])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_unknown_values_are_named() -> None:
    with pytest.raises(ConfigError, match="step.sampels_per_s"):
        load_scaling(FILES[0], ["step.sampels_per_s=3"])
