"""Runs on Ray workers: they survive a killed worker bit by bit, and stop at errors that a restart would repeat."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.train import ControllerError, WorkerGroupError
from written import folder, records

from bench.processes import train_worker_pids
from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import DataError, RunError
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.ray_train import error_to_show
from raytrain_xai.runners.train import Launch, start_run

MakeConfig = Callable[..., RunConfig]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster for this module, started as the command line starts it."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    two_cpus = {"name": "x", "epochs": 1, "workers": 2, "data": {"path": "x"}, "model": {"name": "x"}}
    with connected(parse_config(two_cpus), "local", debug=False):
        yield


def weights(config: RunConfig, step: int) -> bytes:
    at = folder(config) / "checkpoints" / f"step-{step:08d}"
    return (at / "model.safetensors").read_bytes() + (at / "optimizer.safetensors").read_bytes()


class KillOnce:
    """Kills one worker without warning as soon as the driver sees optimiser step ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen: list[dict[str, Any]] = []
        self.killed_at: int | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        self.seen.append(record)
        if record["kind"] == "step" and record["step"] >= self.step and self.killed_at is None:
            self.killed_at = record["step"]
            os.kill(train_worker_pids()[-1], signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_does_not_change_the_result(make_config: MakeConfig) -> None:
    changes = {"workers": 2, "epochs": 8, "checkpoint": {"every_steps": 2}, "data": {"image_size": 64}}
    straight, killed = make_config(name="straight", **changes), make_config(name="killed", **changes)
    seen: list[dict[str, Any]] = []
    outcome = start_run(straight, Launch("local", seen.append))
    assert [r["step"] for r in seen if r["kind"] == "step"] == list(range(1, 25))
    assert outcome.metrics == json.loads((folder(straight) / "metrics.json").read_text())

    killer = KillOnce(step=3)  # the checkpoint of step 2 is written by then
    start_run(killed, Launch("local", killer))
    starts = [r["step"] for r in killer.seen if r.get("event") == "start"]
    assert len(starts) == 2 and 0 < starts[1] < 24, "the worker died in the middle of the run, which then resumed"
    assert len(list((folder(killed) / "attempts").iterdir())) == 2
    assert weights(killed, 24) == weights(straight, 24)
    a, b = (json.loads((folder(config) / "metrics.json").read_text()) for config in (killed, straight))
    assert a == b
    assert [r["step"] for r in records(killed, "step")] == list(range(1, 25))


@pytest.mark.usefixtures("cluster")
def test_a_non_finite_loss_ends_the_run_at_the_first_attempt(make_config: MakeConfig) -> None:
    config = make_config(
        workers=1,
        model={"name": "squeezenet1_1", "weights": "imagenet", "norm_statistics": "frozen"},
        guidance={"attribution": "gradcam", "layer": "Final"},
        optim={"name": "sgd", "lr": 1e20},
    )
    with pytest.raises(RunError, match="^non-finite loss part loss at step 1"):
        start_run(config, Launch("local", [].append))
    assert len(list((folder(config) / "attempts").iterdir())) == 1
    assert (folder(config) / "failure" / "step-00000001.json").is_file()


def test_errors_are_shown_as_what_they_are(make_config: MakeConfig) -> None:
    config = make_config(resources={"max_failures": 1})
    own = DataError("shard 3 is gone")
    assert error_to_show(ControllerError(own), config) is own
    assert error_to_show(WorkerGroupError("text", {0: RuntimeError("peer"), 1: own}), config) is own
    crash = error_to_show(WorkerGroupError("text", {1: RuntimeError("boom\n  File x")}), config)
    assert isinstance(crash, RunError)
    assert str(crash).startswith("the workers failed 2 time(s), last with worker 1: RuntimeError: boom; continue with")
    assert "`raytrain-xai resume " in str(crash)
