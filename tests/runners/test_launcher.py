"""Files for `ray up`: valid by Ray's own schema, with the token on, and nothing open to others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHER = Path(__file__).resolve().parents[2] / "cluster" / "launcher"
FILES = ("hosts.yaml", "aws.yaml")


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load((LAUNCHER / request.param).read_text(encoding="utf-8"))


def test_all_files_are_looked_at() -> None:
    assert {file.name for file in LAUNCHER.iterdir()} == set(FILES)


def test_ray_takes_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]


@pytest.mark.parametrize("key", ["provider", "auth", "head_start_ray_commands", "idle_timeout_minutes"])
def test_a_misspelt_key_is_caught(config: dict[str, Any], key: str) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    prepared[f"{key}x"] = prepared.pop(key)
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared)


def test_every_start_asks_for_the_token(config: dict[str, Any]) -> None:
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start" in command for command in starts)
    assert "--num-cpus=0" in starts[0]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert not any("RAY_AUTH_TOKEN" in command for command in starts)  # in a file, never on a command line


def test_no_work_on_the_head_and_gpus_from_zero() -> None:
    config = prepare_config(yaml.safe_load((LAUNCHER / "aws.yaml").read_text(encoding="utf-8")))
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert {name for name, kind in types.items() if kind.get("min_workers", 0) == 0} >= {"data", "train", "spot"}
    assert sum(types[name]["max_workers"] for name in ("data", "train")) <= config["max_workers"]
    assert types["spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all(kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for kind in types.values())
