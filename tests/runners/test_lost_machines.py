"""A run on a cluster loses, one after the other, everything that can be lost, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from driver import driver
from full_disk import train_on_a_full_disk
from mortal import train_together
from ray_nodes import nodes
from written import folder, records, results

from bench.processes import pids_of, train_worker_pids
from raytrain_xai.config import RunConfig

MakeConfig = Callable[..., RunConfig]
pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(600)]
_STEP = r"^epoch \d+ step \d+:"
_PATIENCE_S, _KILLS = 60, 20


def test_a_run_outlives_board_node_driver_newest_checkpoint_and_head(make_config: MakeConfig, tmp_path: Path) -> None:
    changes = {"workers": 2, "epochs": 40, "evaluation": {"every_epochs": 10}}
    straight = make_config(name="straight", **changes)
    moved = make_config(name="moved", checkpoint={"every_steps": 2}, **changes)
    run = folder(moved)
    (tmp_path / "moved.yaml").write_text(json.dumps(moved.model_dump(mode="json")))
    train_together(straight)

    with nodes(2) as cluster:
        where = ("--address", cluster.address)
        with driver("train", str(tmp_path / "moved.yaml"), *where, env=cluster.env) as first:
            first.wait_for(_STEP)
            [board] = pids_of(b"ray::ProgressBoard")
            os.kill(board, signal.SIGKILL)
            first.wait_for(_STEP)  # another board took its place

            cluster.workers[0].kill()
            cluster.add()
            first.wait_for("^start: attempt 2 on 2 worker")
            first.wait_for(r"^epoch \d+ step ([5-9]|\d{2,}):")  # the checkpoints of steps 2 and 4 are there
            first.process.kill()
        until = time.monotonic() + _PATIENCE_S
        while train_worker_pids() and time.monotonic() < until:
            time.sleep(0.1)
        assert not train_worker_pids(), "workers do not outlive their driver"
        assert not (run / "metrics.json").exists()

        newest = max((run / "checkpoints").glob("*/manifest.json")).parent / "model.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
        with driver("resume", str(run), *where, env=cluster.env) as second:
            second.wait_for(
                f"^fallback: .*{newest.parent.name} is damaged: model.safetensors has .*; resumed from step "
            )
            second.wait_for("^start: attempt 3 ")
            second.wait_for(_STEP)
            cluster.head.kill()
            code, lines = second.end()
    assert code == 1, lines
    assert lines[-1].startswith("error: lost the Ray cluster, or the machine that runs this on it"), lines
    assert lines[-1].endswith(f"continue with `raytrain-xai resume {run}`")
    assert not any("Traceback" in line for line in lines)
    assert not (run / "metrics.json").exists()

    with nodes(2) as cluster, driver("resume", str(run), "--address", cluster.address, env=cluster.env) as third:
        code, lines = third.end()
    assert code == 0, lines
    assert len(list((run / "attempts").iterdir())) == 4
    assert results(moved) == results(straight)
    assert [record["step"] for record in records(moved, "step")] == list(range(1, 121))


def test_twenty_killed_workers_do_not_change_a_run(make_config: MakeConfig, tmp_path: Path) -> None:
    """One command from beginning to end, on a cluster of its own; of two workers either may be hit."""
    changes = {"workers": 2, "epochs": 100, "evaluation": {"every_epochs": 25}, "resources": {"max_failures": _KILLS}}
    straight = make_config(name="straight", **changes)
    killed = make_config(name="killed", checkpoint={"every_steps": 1}, **changes)
    (tmp_path / "killed.yaml").write_text(json.dumps(killed.model_dump(mode="json")))
    train_together(straight)
    with driver("train", str(tmp_path / "killed.yaml"), env=os.environ) as running:
        for number in range(1, _KILLS + 1):
            running.wait_for(f"^start: attempt {number} on 2 worker")
            running.wait_for(_STEP)
            os.kill(train_worker_pids()[number % 2], signal.SIGKILL)
        code, lines = running.end()
    assert code == 0, lines
    assert len(list((folder(killed) / "attempts").iterdir())) == _KILLS + 1
    assert results(killed) == results(straight)
    assert [record["step"] for record in records(killed, "step")] == list(range(1, 301))


def test_a_full_disk_ends_a_run_in_one_line_and_costs_nothing_that_was_kept(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The workers are Ray's; others fill the disk when the driver hears of a step."""
    changes = {"workers": 2, "epochs": 60, "checkpoint": {"every_steps": 2}, "evaluation": {"every_epochs": 20}}
    straight = make_config(name="straight", **changes)
    full = make_config(name="full", storage=str(tmp_path / "disk"), **changes)
    train_together(straight)
    report = train_on_a_full_disk(full, tmp_path)
    assert 2 <= max(report["steps"]) < 180
    left = make_config(name="full", storage=str(tmp_path), **changes)
    assert results(left) == results(straight)
    assert [record["step"] for record in records(left, "step")] == list(range(1, 181))
