"""Parts of a sweep that decide: how many trials fit, what Optuna proposes, what schedulers remember, what PBT moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.capacity import Capacity, check_machine, crew_of_trials, trials_at_a_time
from raytrain_xai.runners.cluster import machine_cpus
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.population import Pointer, initial_values, num_segments, prepare, run_of
from raytrain_xai.runners.schedulers import build_scheduler
from raytrain_xai.runners.searchers import PlannedOptuna, parameters, propose
from raytrain_xai.runners.trial import run_trial, trial_of
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import TrialState, create_sweep, read_plan, write_state
from raytrain_xai.sweeps.plan import make_plan
from raytrain_xai.sweeps.table import PointRow

CASES = (
    {"guidance.loss": ["energy"], "guidance.weight": {"loguniform": [0.01, 1]}},
    {"guidance.loss": ["l1"], "guidance.weight": {"loguniform": [0.001, 0.1]}},
)


def run(workers: int, cpus: float = 1.0, gpus: float = 0.0) -> RunConfig:
    resources = {"cpus_per_worker": cpus, "gpus_per_worker": gpus}
    return parse_config({
        "name": "x", "epochs": 1, "workers": workers, "batch_size": 12, "resources": resources,
        "data": {"path": "x"}, "model": {"name": "x"},
    })  # fmt: skip


def sweep(storage: Path, data: str = "x", **changes: Any) -> SweepConfig:
    base = {
        "epochs": 4, "workers": 0, "batch_size": 8, "data": {"path": data, "image_size": 48},
        "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "tracking": {"tensorboard": False},
    }  # fmt: skip
    raw = {"name": "s", "storage": str(storage), "galleries": "none", "base": base, **changes}
    return SweepConfig.model_validate(raw)


def test_trials_and_their_workers_share_the_cluster() -> None:
    node = {"CPU": 8.0, "GPU": 2.0}
    cluster = Capacity({"CPU": 16.0, "GPU": 4.0}, [node, node])
    assert trials_at_a_time(run(0), cluster, None) == 16
    assert trials_at_a_time(run(0, cpus=3), cluster, None) == 5
    assert trials_at_a_time(run(0, cpus=1, gpus=0.5), cluster, None) == 8
    assert trials_at_a_time(run(0), cluster, 3) == 3
    assert trials_at_a_time(run(2), cluster, None) == 7, "2 workers and a tenth of a CPU to wait with: 16 / 2.1"
    assert trials_at_a_time(run(3, gpus=1), cluster, None) == 1
    assert trials_at_a_time(run(12), cluster, 9) == 1, "never more than fit"


def test_a_machine_alone_is_no_larger_than_it_is() -> None:
    most = machine_cpus()
    check_machine(run(0, cpus=most))
    with pytest.raises(
        ConfigError, match=rf"^one trial needs {12 * most} CPU \(12 worker\(s\)\), this machine has {most};"
    ):
        check_machine(run(12, cpus=most))


def test_what_never_fits_is_refused() -> None:
    cluster = Capacity({"CPU": 4.0}, [{"CPU": 2.0}, {"CPU": 2.0}])
    with pytest.raises(
        ConfigError,
        match=r"^one trial needs 4.1 CPU \(4 worker.s.\), this cluster has 4; set fewer workers or less in resources$",
    ):
        trials_at_a_time(run(4), cluster, None)
    with pytest.raises(ConfigError, match="this cluster has 4; set fewer"):
        trials_at_a_time(run(4), cluster, 3)
    with pytest.raises(
        ConfigError, match="^a worker needs 3 CPU .resources.cpus_per_worker., the largest node .* has 2"
    ):
        trials_at_a_time(run(0, cpus=3), cluster, None)
    with pytest.raises(
        ConfigError, match="^a worker needs 1 GPU .resources.gpus_per_worker., the largest node .* has 0"
    ):
        trials_at_a_time(run(0, gpus=1), cluster, None)


def test_an_autoscaler_may_bring_the_first_nodes() -> None:
    head = Capacity({"memory": 1.0}, [{"memory": 1.0}])
    assert trials_at_a_time(run(4), head, 3) == 3
    for asked, wanted in ((run(4), None), (run(0), 3)):
        with pytest.raises(ConfigError, match="^a worker needs 1 CPU .* has 0"):
            trials_at_a_time(asked, head, wanted)
    only_cpus = Capacity({"CPU": 8.0}, [{"CPU": 8.0}])
    assert trials_at_a_time(run(1, gpus=1), only_cpus, 2) == 2
    with pytest.raises(ConfigError, match="has 0; .* concurrent$"):
        trials_at_a_time(run(1, gpus=1), only_cpus, None)


def test_a_local_cluster_is_made_large_enough() -> None:
    alone, nested = crew_of_trials(run(0), 3, "local", debug=False), crew_of_trials(run(2), 3, "local", debug=False)
    assert (alone.workers, alone.resources.cpus_per_worker) == (3, 1.0)
    assert nested.workers * nested.resources.cpus_per_worker == pytest.approx(3 * 2.1)


def test_optuna_proposes_points_of_one_case_and_recognises_them(tmp_path: Path) -> None:
    config = sweep(tmp_path, cases=CASES, space={"optim.name": ["adam", "sgd"]}, search={"kind": "optuna", "trials": 9})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [propose(study.ask(), config) for _ in range(20)]
    assert {point["guidance.loss"] for point in points} == {"energy", "l1"}
    for point in points:
        low, high = (0.01, 1) if point["guidance.loss"] == "energy" else (0.001, 0.1)
        weight = point["guidance.weight"]
        assert isinstance(weight, float) and low <= weight <= high and point["optim.name"] in ("adam", "sgd")
        study.enqueue_trial(parameters(point, config))
        assert propose(study.ask(), config) == point


def test_the_search_goes_on_where_the_plan_ends(tmp_path: Path) -> None:
    objectives = {"f1": "max", "epg": "max"}
    config = sweep(tmp_path, cases=CASES, search={"kind": "optuna", "trials": 4, "seed": 1}, objectives=objectives)
    at = create_sweep(config, make_plan(config))
    measured: dict[str, dict[str, float]] = {}
    first = PlannedOptuna(at, config, measured.__getitem__, [])
    names = [first.suggest(f"tune-{n}")["trial"] for n in range(3)]
    plan = read_plan(at)
    assert [spec.id for spec in plan] == names, "in the plan before Tune hears of them"
    measured |= {names[0]: {"f1": 0.5, "epg": 0.25, "map": 0.1}, names[1]: {"f1": 0.75}}
    first.on_trial_complete("tune-0")
    first.on_trial_complete("tune-1")  # lacks an objective
    write_state(at, names[0], TrialState("finished", None, 1, 1.0))
    write_state(at, names[1], TrialState("failed", "no", 1, 1.0))

    second = PlannedOptuna(at, config, measured.__getitem__, [plan[2]])
    told = second._study.trials  # pyright: ignore[reportPrivateUsage]
    assert [trial.state.name for trial in told] == ["COMPLETE", "FAIL"] and told[0].values == [0.5, 0.25]
    assert told[0].params[
        "guidance.weight (0)" if plan[0].values["guidance.loss"] == "energy" else "guidance.weight (1)"
    ]
    assert second.suggest("tune-3") == {"trial": names[2]}, "what never ended comes first"
    fresh = second.suggest("tune-4")["trial"]
    assert fresh.startswith("0003-") and read_plan(at)[:3] == plan and read_plan(at)[3].id == fresh
    assert read_plan(at)[3].values != plan[0].values, "other draws than those of the first call"


def asha(storage: Path, past: list[PointRow]) -> Any:
    own = {"kind": "asha", "metric": "f1", "grace_period": 1, "reduction_factor": 2}
    return build_scheduler(sweep(storage, space={"optim.lr": [1.0]}, scheduler=own), 4, past)


class Stub:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def test_a_resumed_sweep_compares_with_all_trials(tmp_path: Path) -> None:
    def verdict(scheduler: Any, f1: float, epoch: int = 1) -> str:
        scheduler.on_trial_add(None, Stub("new"))
        return scheduler.on_trial_result(None, Stub("new"), {"epoch": epoch, "f1": f1})

    past = [PointRow("a", 3, 1, {"f1": 0.8}, False), PointRow("b", 3, 1, {"f1": 0.6}, False)]
    assert verdict(asha(tmp_path, []), 0.5) == TrialScheduler.CONTINUE, "the first of its rung"
    assert verdict(asha(tmp_path, past), 0.65) == TrialScheduler.STOP, "below the median .7"
    assert verdict(asha(tmp_path, past), 0.75) == TrialScheduler.CONTINUE
    assert verdict(asha(tmp_path, past), 0.1, epoch=2) == TrialScheduler.CONTINUE, "nobody has been at epoch 2"
    later = [*past, PointRow("a", 12, 4, {"f1": 0.9}, True)]
    assert verdict(asha(tmp_path, later), 0.95, epoch=4) == TrialScheduler.CONTINUE, "the end is reached by itself"
    plain = sweep(tmp_path, space={"optim.lr": [1.0]})
    assert type(build_scheduler(plain, 4, [])) is FIFOScheduler


def test_changed_values_stay_in_their_range(tmp_path: Path) -> None:
    own = {"kind": "pbt", "metric": "f1", "mutate": {"data.crop_area": {"uniform": [0.5, 1.0]}, "optim.lr": [0.1, 0.2]}}
    scheduler = build_scheduler(sweep(tmp_path, space={"optim.lr": [0.1, 0.2]}, scheduler=own), 4, [])
    assert isinstance(scheduler, PopulationBasedTraining)
    explore = scheduler._custom_explore_fn
    assert explore({"trial": "a", "data.crop_area": 1.08, "optim.lr": 0.1}) == {
        "trial": "a", "data.crop_area": 1.0, "optim.lr": 0.1,
    }  # fmt: skip


def test_a_trial_goes_on_from_another_one(birds: Path, tmp_path: Path) -> None:
    own = {"kind": "pbt", "metric": "f1", "interval": 2, "mutate": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}}
    config = sweep(tmp_path, str(birds), space={"optim.lr": [1e-3, 1e-2]}, scheduler=own)
    plan = make_plan(config)
    at = create_sweep(config, plan)
    weak, strong = (trial_of(at, config, spec) for spec in plan)

    def until(epoch: int) -> Launch:
        def report(metrics: dict[str, float]) -> None:
            if metrics["epoch"] == epoch:
                raise SystemExit(0)

        return Launch("local", [].append, report=report)

    for trial, lr in ((weak, 1e-3), (strong, 1e-2)):
        ready = prepare(at, config, trial, {"optim.lr": lr}, None)
        assert ready.config.checkpoint.keep == 4, "any checkpoint may be asked for"
        with pytest.raises(SystemExit):
            run_trial(at, ready, until(2))
    pointer = Pointer(strong.key, num_segments(at, strong.key), step=6)
    pointer.write(str(tmp_path))
    assert Pointer.read(str(tmp_path)) == pointer == Pointer(strong.key, 0, 6)

    moved = prepare(at, config, weak, {"optim.lr": 5e-3}, pointer)
    assert moved.config.job == "classify" and moved.config.optim.lr == 5e-3 and moved.values == {"optim.lr": 5e-3}
    assert num_segments(at, weak.key) == 1 and (tmp_path / "s" / "segments" / f"{weak.key}-0" / "config.yaml").is_file()
    assert initial_values(at, config, weak) == {"optim.lr": 5e-3}, "as the run has it now"
    copied, source = (
        (tmp_path / "s" / "trials" / key / "checkpoints" / "step-00000006" / "model.safetensors").read_bytes()
        for key in (weak.key, strong.key)
    )
    assert copied == source
    old = Pointer(weak.key, 0, 6)
    assert run_of(at, old).path.endswith(f"segments/{weak.key}-0"), "others can still go on from what it was"
    assert run_of(at, Pointer(weak.key, 1, 9)).path.endswith(f"trials/{weak.key}")
    again = prepare(at, config, weak, {"optim.lr": 9e-9}, None)
    assert again.values == {"optim.lr": 5e-3}, "a killed trial goes on with the values it had"
    assert run_trial(at, again, Launch("local", [].append)).status == "finished"
