"""What a trial of a sweep does, without Ray Tune: train, go on, fail with a word, leave crashes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import parse_job
from raytrain_xai.errors import DataError, RunError, SupersededError
from raytrain_xai.run_folder import claim_attempt
from raytrain_xai.runners import trial as trial_module
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.sweep_paths import absolute_sweep
from raytrain_xai.runners.trial import Trial, baseline_of, find_trial, measured_of, run_trial, trial_of
from raytrain_xai.storage import Location
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import create_sweep, read_state
from raytrain_xai.sweeps.plan import make_plan


def make_sweep(data: Path, storage: Path, **changes: Any) -> SweepConfig:
    raw = {
        "name": "sweep", "storage": str(storage), "galleries": "none", "objectives": {"f1": "max", "epg": "max"},
        "base": {
            "epochs": 2, "workers": 0, "batch_size": 8, "data": {"path": str(data), "image_size": 48},
            "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "optim": {"lr": 1e-3},
            "tracking": {"tensorboard": False},
        },
        "space": {"guidance.weight": [0.05, 1e30]},
    }  # fmt: skip
    return SweepConfig.model_validate({**raw, **changes})


@pytest.fixture
def sweep(birds: Path, tmp_path: Path) -> tuple[Location, SweepConfig]:
    config = make_sweep(birds, tmp_path)
    return create_sweep(config, make_plan(config)), config


def test_a_trial_ends_as_finished_and_is_a_run(sweep: tuple[Location, SweepConfig]) -> None:
    at, config = sweep
    spec = make_plan(config)[0]
    seen: list[dict[str, Any]] = []
    evaluations: list[dict[str, float]] = []
    launch = Launch("local", seen.append, report=evaluations.append)
    trial = trial_of(at, config, spec)
    assert trial == find_trial(at, config, spec.id)
    state = run_trial(at, trial, launch)
    assert state == read_state(at, spec.id)
    assert (state.status, state.error, state.attempts) == ("finished", None, 1) and state.seconds > 0
    run = Path(at.path) / "trials" / spec.id
    metrics = json.loads((run / "metrics.json").read_text())
    assert measured_of(at, spec.id) == metrics["val"]
    assert [(e["epoch"], e["step"]) for e in evaluations] == [(1, 3), (2, 6)]
    assert [r["status"] for r in seen if r["kind"] == "trial"] == ["running", "finished"]
    assert seen[0]["values"] == {"guidance.weight": 0.05} and seen[-1]["val"] == metrics["val"]
    assert not (run / "report.html").exists(), "galleries are off"
    before = (run / "metrics.jsonl").read_bytes()
    again = run_trial(at, trial, launch)
    assert again.status == "finished" and (run / "metrics.jsonl").read_bytes() == before, "nothing was left to train"
    assert again.seconds < state.seconds


def test_an_error_of_our_own_is_an_end(sweep: tuple[Location, SweepConfig]) -> None:
    at, config = sweep
    spec = make_plan(config)[1]
    seen: list[dict[str, Any]] = []
    state = run_trial(at, trial_of(at, config, spec), Launch("local", seen.append))
    assert state.status == "failed" and state == read_state(at, spec.id) and not state.retryable
    assert state.error is not None and state.error.startswith("non-finite") and "\n" not in state.error
    assert seen[-1] == {"kind": "trial", "status": "failed", "error": state.error, "val": {}}
    assert measured_of(at, spec.id) == {}


def test_a_trial_that_stopped_in_the_middle_goes_on_bit_by_bit(sweep: tuple[Location, SweepConfig]) -> None:
    at, config = sweep
    spec = make_plan(config)[0]
    trial = trial_of(at, config, spec)

    def stop(metrics: dict[str, float]) -> None:  # noqa: ARG001
        raise SystemExit(0)  # as Tune ends the thread of a trial that its scheduler stops

    with pytest.raises(SystemExit):
        run_trial(at, trial, Launch("local", [].append, report=stop))
    assert read_state(at, spec.id) is None, "who stopped it says so"
    stopped = measured_of(at, spec.id)
    assert stopped, "the evaluation before is in the log"
    told: list[dict[str, float]] = []
    assert run_trial(at, trial, Launch("local", [].append, report=told.append)).attempts == 2
    assert [metrics["epoch"] for metrics in told] == [2]
    other = config.model_copy(update={"name": "straight"})
    there = create_sweep(other, make_plan(other))
    run_trial(there, trial_of(there, other, spec), Launch("local", [].append))
    runs = [Path(place.path) / "trials" / spec.id for place in (at, there)]
    a, b = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert a == b
    a, b = ((run / "checkpoints" / "step-00000006" / "model.safetensors").read_bytes() for run in runs)
    assert a == b


@pytest.mark.parametrize("error", [KeyError("a bug"), SupersededError("attempt 2 owns the run")])
def test_crashes_and_lost_races_leave_no_state(
    sweep: tuple[Location, SweepConfig], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    at, config = sweep
    trial = trial_of(at, config, make_plan(config)[0])

    def fail(config: Any, launch: Launch) -> None:  # noqa: ARG001
        raise error

    monkeypatch.setattr(trial_module, "start_run", fail)
    with pytest.raises(type(error)):
        run_trial(at, trial, Launch("local", [].append))
    assert read_state(at, trial.key) is None


def test_an_error_that_another_process_caused_is_no_end(
    sweep: tuple[Location, SweepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    at, config = sweep
    trial, driver = trial_of(at, config, make_plan(config)[0]), claim_attempt(at)

    def fail(config: Any, launch: Launch) -> None:  # noqa: ARG001
        claim_attempt(at)
        raise DataError("cannot write checkpoints/step-00000003: it does not exist")

    monkeypatch.setattr(trial_module, "start_run", fail)
    with pytest.raises(SupersededError):
        run_trial(at, trial, Launch("local", [].append), before_end=driver.check)
    assert read_state(at, trial.key) is None


def test_trials_start_from_the_baseline_of_their_seed(birds: Path, tmp_path: Path) -> None:
    changes = {"baseline": {"each_seed": True, "set": {"epochs": 1}}, "seeds": [3, 5], "strategies": ["random"]}
    space = {"guidance.weight": [0.05], "guidance.annotated_fraction": [0.5]}
    config = make_sweep(birds, tmp_path, space=space, **changes)
    plan = make_plan(config)
    at = create_sweep(config, plan)
    trial = trial_of(at, config, next(spec for spec in plan if spec.seed == 5))
    run = trial.config
    assert run.job == "classify" and run.model.weights == str(tmp_path / "sweep" / "baseline" / "s5")
    assert run.guidance.annotation_order == str(tmp_path / "sweep" / "orders" / "random-s5.json")
    shown = {"guidance.weight": 0.05, "guidance.annotated_fraction": 0.5, "strategy": "random", "seed": 5}
    assert trial.values == shown
    baseline = baseline_of(config, 3)
    assert (baseline.key, baseline.config.seed, baseline.config.epochs) == ("baseline/s3", 3, 1)
    assert baseline == find_trial(at, config, "baseline/s3")
    assert run_trial(at, baseline, Launch("local", [].append)).status == "finished"
    assert read_state(at, "baseline/s3") is not None and (tmp_path / "sweep" / "baseline" / "s3").is_dir()


def test_local_paths_are_absolute_wherever_they_are(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = make_sweep(birds, tmp_path).base
    base["data"] = {**base["data"], "path": "birds"}
    config = make_sweep(
        birds, Path("runs"), base=base, fixed={"data.measured": None, "model.weights": "start.safetensors"},
        space={"guidance.loss": ["energy", "l1"], "guidance.annotation_order": ["a.json", "s3://bucket/b.json"]},
    )  # fmt: skip
    found = absolute_sweep(config)
    assert found.storage == str(tmp_path / "runs") and found.base["data"]["path"] == str(tmp_path / "birds")
    assert found.fixed == {"data.measured": None, "model.weights": str(tmp_path / "start.safetensors")}
    assert found.space["guidance.annotation_order"].values == (str(tmp_path / "a.json"), "s3://bucket/b.json")
    assert found.space["guidance.loss"].values == ("energy", "l1"), "words are no paths"
    assert absolute_sweep(found) == found
    assert config.base["data"]["path"] == "birds", "the argument is left as it is"


def test_a_page_that_cannot_be_written_is_no_finished_trial(
    sweep: tuple[Location, SweepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    at, config = sweep
    spec = make_plan(config)[0]

    def fail(run: str) -> None:
        raise RunError(f"no page of {run}")

    monkeypatch.setattr(trial_module, "write_page", fail)
    trial = trial_of(at, config, spec)
    own = parse_job({**trial.config.model_dump(mode="json"), "epochs": 1})
    state = run_trial(at, Trial(trial.key, own, {}, has_page=True), Launch("local", [].append))
    assert state.status == "failed" and state.error == f"no page of {at.path}/trials/{spec.id}"
