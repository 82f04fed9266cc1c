"""``config show`` of every shipped recipe, of whatever kind: what it prints describes the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.config import load_job, parse_job
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.load import load_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(file for file in CONFIGS.glob("*/*.yaml") if file.parent.name != "scaling")  # those describe machines


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_is_shown_describes_the_same(file: Path) -> None:
    shown = CliRunner().invoke(cli, ["config", "show", str(file)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    raw = yaml.safe_load(shown.stdout)
    if "base" in raw:
        assert SweepConfig.model_validate(raw) == load_sweep(file)
    else:
        assert parse_job(raw) == load_job(file)
