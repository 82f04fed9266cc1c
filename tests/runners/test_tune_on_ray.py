"""Sweeps on Ray: what is killed ends as what is not, errors are states, schedulers stop trials, searchers go on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.processes import pids_of
from raytrain_xai.errors import ConfigError, RunError, SupersededError
from raytrain_xai.run_folder import claim_attempt
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.runners.trial import run_trial, trial_of
from raytrain_xai.runners.tune import resume_sweep, start_sweep
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import create_sweep, read_plan, read_states
from raytrain_xai.sweeps.gather import update_results
from raytrain_xai.sweeps.plan import make_plan
from raytrain_xai.sweeps.table import Sweep

MakeSweep = Callable[..., SweepConfig]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
_TRIAL = b"ray::ImplicitFunc"  # title of the actors of Ray Tune


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster for this module, started as the command line starts it."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with connected(Crew(3, ResourcesConfig()), "local", debug=False):
        yield


@pytest.fixture
def make_sweep(birds: Path, tmp_path: Path) -> MakeSweep:
    """A sweep of runs of two epochs without pages, one at a time; keyword arguments replace keys."""

    def make(**changes: Any) -> SweepConfig:
        base = {
            "epochs": 2, "workers": 0, "batch_size": 8, "data": {"path": str(birds), "image_size": 48},
            "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "optim": {"lr": 1e-3},
            "tracking": {"tensorboard": False, "log_every_steps": 1},
        }  # fmt: skip
        raw = {
            "name": "sweep", "storage": str(tmp_path), "galleries": "none", "concurrent": 1, "base": base,
            "objectives": {"f1": "max", "epg": "max"}, **changes,
        }  # fmt: skip
        return SweepConfig.model_validate(raw)

    return make


def table(sweep: Sweep) -> list[Any]:
    """All that a sweep found out; times are not."""
    return [*(replace(row, training_s=0.0, seconds=0.0) for row in sweep.rows), *sweep.points]


@contextlib.contextmanager
def driver_of_its_own(sweep: Path, output: Path) -> Generator[subprocess.Popen[bytes]]:
    """The command line's ``tune`` with a cluster of its own; nothing of either outlives the block."""
    folder = tempfile.mkdtemp(prefix="rx-")  # short, as sockets lie in it; and whose process knows it is one of these
    command = [sys.executable, "-c", "from raytrain_xai.cli.main import main; main()", "tune", str(sweep)]
    with output.open("wb") as lines:
        driver = subprocess.Popen(
            [*command, "--address", "local"], stdout=lines, stderr=lines, env={**os.environ, "TMPDIR": folder}
        )
    try:
        yield driver
    finally:
        until = time.monotonic() + 20
        while (left := processes_that_know(folder)) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            driver.poll()  # lets go of it
            time.sleep(0.1)
        shutil.rmtree(folder)
        assert not left


def processes_that_know(folder: str) -> list[int]:
    """Ids of the processes with this folder in their environment."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone by now
            if process.name.isdigit() and f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(process.name))
    return found


class KillOnce:
    """Kills one trial without warning as soon as it has saved its first epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.killed = 0

    def __call__(self, record: dict[str, Any]) -> None:
        self.seen.append(record)
        if record["kind"] == "epoch" and not record["trial"].startswith("baseline") and not self.killed:
            self.killed = pids_of(_TRIAL)[0]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
def test_killed_trials_and_killed_sweeps_end_as_others_do(make_sweep: MakeSweep, tmp_path: Path) -> None:
    changes = {
        "fixed": {"epochs": 12},  # the driver hears of an epoch while others are to come
        "baseline": {"set": {"epochs": 1}}, "strategies": ["lowest_confidence"],
        "space": {"guidance.weight": [0.05, 1e30], "guidance.annotated_fraction": [0.5]},
    }  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(make_sweep(name="killed", **changes).model_dump(mode="json")))
    output, trials, until = tmp_path / "output.txt", tmp_path / "killed" / "trials", time.monotonic() + 90
    with driver_of_its_own(file, output) as driver:
        while not list(trials.glob("*/checkpoints/*")) and driver.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert driver.poll() is None and list(trials.glob("*/checkpoints/*")), output.read_text()
        driver.kill()  # it alone: what it has started ends when it notices
        driver.wait()
        killed = resume_sweep(str(tmp_path / "killed"), Launch("auto", [].append))

    killer = KillOnce()
    straight = start_sweep(make_sweep(name="straight", **changes), Launch("auto", killer))
    statuses = [row.status for row in straight.rows]
    assert statuses == ["finished", "finished", "failed"], "a baseline, then a trial of each weight"
    assert (straight.rows[-1].error or "").startswith("non-finite")
    assert killer.killed and [r["trial"] for r in killer.seen if r.get("status") == "retried"]
    attempts = [json.loads(f.read_text())["attempts"] for f in (tmp_path / "straight" / "state").glob("*.json")]
    assert sorted(attempts)[-1] == 2, "the killed trial went on"
    assert {row.run for row in straight.rows} >= {"baseline/s0"}
    assert [path.name for path in (tmp_path / "straight" / "orders").iterdir()] == ["lowest_confidence-s0.json"]

    for own, other in zip(table(killed), table(straight), strict=True):
        assert own == other
    with pytest.raises(ConfigError, match="name 'straight' is taken: .* continue it with"):
        start_sweep(make_sweep(name="straight", **changes), Launch("auto", [].append))


@pytest.mark.usefixtures("cluster")
def test_a_stopped_trial_keeps_what_it_measured(make_sweep: MakeSweep) -> None:
    sweep = start_sweep(
        make_sweep(
            space={"optim.lr": [1e-2, 1e-9, 1e-8]},
            scheduler={"kind": "asha", "metric": "f1", "reduction_factor": 2}, seeds=[1],
        ),
        Launch("auto", [].append),
    )  # fmt: skip
    rows = {row.values["optim.lr"]: row for row in sweep.rows}
    assert rows[1e-2].status == "finished" and rows[1e-2].epochs == 2 and rows[1e-2].test
    f1 = [point.val["f1"] for point in sweep.points if point.epoch == 1]
    assert f1[0] > f1[1] == f1[2], "without learning, nothing is found"
    for lr in (1e-9, 1e-8):
        assert (rows[lr].status, rows[lr].epochs, rows[lr].test, rows[lr].val["f1"]) == ("stopped", 1, {}, f1[1])


@pytest.mark.usefixtures("cluster")
def test_weak_trials_go_on_from_strong_ones(make_sweep: MakeSweep, tmp_path: Path) -> None:
    mutate = {"optim.lr": {"loguniform": [1e-3, 1e-2]}}
    sweep = start_sweep(
        make_sweep(
            base={**make_sweep().base, "epochs": 4}, space={"optim.lr": [1e-2, 5e-3, 1e-8, 1e-9]}, concurrent=None,
            scheduler={"kind": "pbt", "metric": "f1", "interval": 1, "quantile": 0.5, "mutate": mutate},
        ),
        Launch("auto", [].append),
    )  # fmt: skip
    assert [(row.status, row.epochs) for row in sweep.rows] == [("finished", 4)] * 4
    left = {path.name.rpartition("-")[0] for path in (tmp_path / "sweep" / "segments").iterdir()}
    assert left, "at least one trial left its own run for a better one"
    for row, spec in zip(sweep.rows, read_plan(sweep.at), strict=True):
        lr, log = row.values["optim.lr"], (tmp_path / "sweep" / "trials" / row.id / "metrics.jsonl").read_text()
        assert isinstance(lr, float) and (row.id in left or lr == spec.values["optim.lr"])
        assert row.id not in left or (1e-3 <= lr <= 1e-2 and '"branched"' in log)
    assert not (tmp_path / "sweep" / "tune").exists(), "nothing of Tune's stays"


@pytest.mark.usefixtures("cluster")
def test_optuna_goes_on_with_what_it_has_learned(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(
        base={**make_sweep().base, "epochs": 1}, search={"kind": "optuna", "trials": 3},
        cases=[
            {"guidance.loss": "energy", "guidance.weight": {"loguniform": [0.01, 0.1]}},
            {"guidance.loss": "l1", "guidance.weight": {"loguniform": [1e28, 1e30]}},
        ],
    )  # fmt: skip
    at = locate(str(tmp_path / "sweep"))

    def take_over(record: dict[str, Any]) -> None:
        if record["kind"] == "trial" and record["status"] in ("finished", "failed") and len(claims()) == 1:
            claim_attempt(at)

    def claims() -> list[Path]:
        return list((tmp_path / "sweep" / "attempts").iterdir())

    with pytest.raises(SupersededError, match=r"^attempt attempt-0001-\w+ of .*sweep was superseded by attempt-0002"):
        start_sweep(config, Launch("auto", take_over))
    plan, ended = read_plan(at), read_states(at)
    assert 1 <= len(ended) < 3 and ended.keys() <= {spec.id for spec in plan}
    sweep = resume_sweep(str(tmp_path / "sweep"), Launch("auto", [].append))
    assert read_plan(at)[: len(plan)] == plan and [row.id[:4] for row in sweep.rows] == ["0000", "0001", "0002"]
    assert len(claims()) == 3
    for row in sweep.rows:
        assert row.status == ("finished" if row.values["guidance.loss"] == "energy" else "failed")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads of torch in this process as in a trial's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cluster", "one_thread")
def test_trials_with_workers_of_their_own(make_sweep: MakeSweep) -> None:
    base = {**make_sweep().base, "workers": 1}
    changes = {"base": base, "space": {"guidance.weight": [0.05]}, "seeds": [0]}
    nested = start_sweep(make_sweep(name="nested", **changes), Launch("auto", [].append))
    alone = make_sweep(name="alone", **{**changes, "base": {**base, "workers": 0}})
    [spec] = make_plan(alone)
    at = create_sweep(alone, [spec])
    run_trial(at, trial_of(at, alone, spec), Launch("auto", [].append))
    assert table(nested) == table(update_results(at.uri)), "as in this process"
    too_many = {**base, "workers": 4, "batch_size": 8}
    with pytest.raises(ConfigError, match=r"one trial needs 4.1 CPU \(4 worker.s.\), this cluster has 3; set fewer"):
        start_sweep(make_sweep(name="large", **{**changes, "base": too_many}), Launch("auto", [].append))


@pytest.mark.usefixtures("cluster")
def test_a_baseline_that_fails_ends_the_sweep(make_sweep: MakeSweep, tmp_path: Path) -> None:
    base = {**make_sweep().base, "model": {"name": "squeezenet1_1"}, "optim": {"name": "sgd", "lr": 1e30}}
    bad = make_sweep(base=base, baseline={}, space={"guidance.weight": [0.05]})
    with pytest.raises(RunError, match=r"^baseline/s0 failed, and every trial starts from it: non-finite.*--resume"):
        start_sweep(bad, Launch("auto", [].append))
    assert not (tmp_path / "sweep" / "trials").exists()
