"""The folder of a sweep: what is written is read back, on disk and on S3, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import validated
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.storage import locate, write_bytes
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import (
    TrialState,
    append_plan,
    baseline_run,
    create_sweep,
    find_sweep,
    order_file,
    read_plan,
    read_spec,
    read_state,
    read_states,
    read_sweep,
    trial_run,
    write_state,
)
from raytrain_xai.sweeps.plan import make_plan, trial_spec

FINISHED = TrialState("finished", None, 1, 12.5)
FAILED = TrialState("failed", "non-finite loss", 2, 3.0, retryable=True)


def sweep(storage: str, **keys: Any) -> SweepConfig:
    base = {"epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}}
    space = {"guidance.weight": [0.5, 1, None, "x", True]}
    return validated(SweepConfig, {"name": "s", "storage": storage, "base": base, "space": space, **keys}, "sweep")


def check_round_trip(config: SweepConfig) -> None:
    plan = make_plan(config)
    at = create_sweep(config, plan)
    assert find_sweep(at.uri) == at and read_sweep(at) == config
    assert read_plan(at) == plan and read_states(at) == {}
    added = trial_spec(len(plan), {"guidance.weight": 3}, 0)
    append_plan(at, added)
    assert read_plan(at) == (*plan, added)
    assert [read_spec(at, spec.id) for spec in (*plan, added)] == [*plan, added]
    write_state(at, "baseline/s0", FINISHED)
    write_state(at, plan[0].id, FAILED)
    assert read_states(at) == {plan[0].id: FAILED} and read_state(at, plan[0].id) == FAILED
    assert read_state(at, "baseline/s0") == FINISHED and read_state(at, plan[1].id) is None
    with pytest.raises(ConfigError, match="name 's' is taken: .*tune --resume.*--set name=NAME"):
        create_sweep(config, plan)


def test_round_trip_on_disk(tmp_path: Path) -> None:
    check_round_trip(sweep(str(tmp_path)))


def test_round_trip_on_s3(s3_storage: str) -> None:
    check_round_trip(sweep(s3_storage))


def test_a_sweep_that_was_moved_lives_where_it_lies(tmp_path: Path) -> None:
    create_sweep(sweep(str(tmp_path / "a")), ())
    (tmp_path / "a" / "s").rename(tmp_path / "moved")
    config = read_sweep(find_sweep(str(tmp_path / "moved")))
    assert (config.storage, config.name) == (str(tmp_path), "moved")


def test_places(tmp_path: Path) -> None:
    config = sweep(str(tmp_path), baseline={}, seeds=[3, 4])
    at = locate(str(tmp_path / "s"))
    own = [trial_run(at, "0001-abc"), baseline_run(at, config, 4), order_file(at, config, "random", 4)]
    assert [Path(place.path).relative_to(tmp_path / "s").as_posix() for place in own] == [
        "trials/0001-abc", "baseline/s3", "orders/random-s3.json",
    ]  # fmt: skip


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a sweep: it has no sweep.yaml"):
        find_sweep(str(tmp_path))
    at = create_sweep(sweep(str(tmp_path)), make_plan(sweep(str(tmp_path))))
    for file, text, read in (
        ("plan.jsonl", '{"id": 1}\n', read_plan),
        ("plan.jsonl", "{", read_plan),
        ("plan.jsonl", "{", lambda at: read_spec(at, "0000-3fa91c")),
        ("plan.jsonl", "", lambda at: read_spec(at, "0000-3fa91c")),
        ("plan.jsonl", '{"id": "0000-other", "values": {}, "seed": 0}', lambda at: read_spec(at, "0000-3fa91c")),
        ("state/x.json", "{}", read_states),
        ("state/x.json", "{}", lambda at: read_state(at, "x")),
        ("sweep.yaml", "name: s", read_sweep),
        ("sweep.yaml", "a: [", read_sweep),
    ):
        write_bytes(at.child(*file.split("/")), text.encode())
        with pytest.raises(CheckpointError, match=f"{file} is damaged"):
            read(at)
