"""One trial of a sweep: an ordinary run in the sweep's folder, taken up where it is, and how it ended.

Nothing here knows Ray Tune: a trial is a function of the sweep's configuration and of the run folders in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import SupersededError, XaiError
from raytrain_xai.run_folder import ATTEMPTS, CONFIG, LOG, METRICS, read_json, read_log, run_location
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.train import Outcome, resume_run, start_run
from raytrain_xai.storage import Location, exists, list_names
from raytrain_xai.sweep_config import Scalar, SweepConfig
from raytrain_xai.sweeps.folder import (
    TrialState,
    baseline_run,
    order_file,
    read_spec,
    trial_run,
    write_state,
)
from raytrain_xai.sweeps.plan import BASELINE, TrialSpec, baseline_config, baseline_name, trial_config


@dataclass(frozen=True)
class Trial:
    """A run of a sweep; picklable.

    Attributes:
        key: name of its state and in everything that is shown: the id of a trial, ``baseline/s<seed>`` of a baseline.
        config: of the run, complete.
        values: dotted path -> value, what tells it from the others.
        has_page: whether the run gets a ``report.html`` of its own as soon as it is finished.
    """

    key: str
    config: AnyRunConfig
    values: Mapping[str, Scalar]
    has_page: bool


def trial_of(at: Location, config: SweepConfig, spec: TrialSpec) -> Trial:
    """The trial that a specification describes.

    Args:
        at: folder of the sweep.
        config: of the sweep.
        spec: from its plan.
    Raises:
        ConfigError: its values are no configuration.
    """
    baseline = None if config.baseline is None else baseline_run(at, config, spec.seed).uri
    order = None if spec.strategy is None else order_file(at, config, spec.strategy, spec.seed).uri
    own = trial_config(config, spec, baseline=baseline, order=order)
    shown = {**spec.values, **({"strategy": spec.strategy} if spec.strategy else {})}
    if len(config.seeds) > 1:
        shown["seed"] = spec.seed
    return Trial(spec.id, own, shown, has_page=config.galleries == "all")


def find_trial(at: Location, config: SweepConfig, key: str) -> Trial:
    """The trial, or baseline, with a key.

    Raises:
        ConfigError: its values are no configuration.
        CheckpointError: the plan is damaged.
    """
    if key.startswith(f"{BASELINE}/"):
        return baseline_of(config, int(key.removeprefix(f"{BASELINE}/s")))
    return trial_of(at, config, read_spec(at, key))


def baseline_of(config: SweepConfig, seed: int) -> Trial:
    """The baseline of a seed, as a trial."""
    key = f"{BASELINE}/{baseline_name(config, seed)}"
    return Trial(key, baseline_config(config, seed), {"seed": seed}, has_page=config.galleries != "none")


def run_trial(
    at: Location, trial: Trial, launch: Launch, *, before_end: Callable[[], object] = lambda: None
) -> TrialState:
    """Train a trial to its end, from its newest checkpoint where it has one, and write down how it went.

    An error that another attempt would only repeat (a loss that is not finite, a configuration that does not fit the
    data) is such an end. Anything else is raised and leaves no state, so that the trial can be tried again.

    Args:
        at: folder of the sweep.
        trial: in it.
        launch: takes the records of the run, and one of ``kind`` ``trial`` at the start and at the end.
        before_end: called when only the state is missing; raises to leave it to another process. Whoever takes a run
            over deletes files of it, which to the process before looks like any other error.
    Returns:
        What was written: finished, or failed with the error in one line.
    Raises:
        SupersededError: another process has taken the trial over; it will say how it ends.
    """
    start = time.monotonic()
    launch.publish({"kind": "trial", "status": "running", "epochs": trial.config.epochs, "values": dict(trial.values)})
    status, error, metrics = "finished", None, dict[str, Any]()
    try:
        outcome = _train(trial.config, launch)
        metrics = outcome.metrics
        if trial.has_page:
            write_page(outcome.run)
    except SupersededError:
        raise
    except XaiError as problem:
        status, error = "failed", " ".join(str(problem).split())
    state = TrialState(status, error, num_attempts(trial.config), round(time.monotonic() - start, 3))
    before_end()
    write_state(at, trial.key, state)
    launch.publish({"kind": "trial", "status": status, "error": error, "val": metrics.get("val", {})})
    return state


def measured_of(at: Location, key: str) -> dict[str, float]:
    """Validation metrics of a trial: of its selected checkpoint once it is finished, else of its newest evaluation.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    run = trial_run(at, key)
    if exists(run.child(METRICS)):
        return read_json(run.child(METRICS))["val"]
    log = read_log(run) if exists(run.child(LOG)) else []
    return next((record["val"] for record in reversed(log) if record["kind"] == "epoch"), {})


def num_attempts(config: AnyRunConfig) -> int:
    """Groups of workers that claimed a run, at least 1: the first may have failed before it could."""
    return max(1, len(list_names(run_location(config).child(ATTEMPTS))))


def _train(config: AnyRunConfig, launch: Launch) -> Outcome:
    run = run_location(config)
    if exists(run.child(CONFIG)):
        return resume_run(run.uri, (), launch)
    return start_run(config, launch)


def write_page(run: str) -> None:
    """Write the ``report.html`` of a run."""
    from raytrain_xai.report.page import write_report  # imports matplotlib

    write_report([run])
