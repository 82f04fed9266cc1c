"""Trials on Ray Tune: each in an actor of its own, or in one that starts the workers of its run.

Tune decides which trial runs where and when; it is told the names of trials and gives back nothing. What a trial is,
how far it is and how it ended is in the sweep's folder. Checkpoints are those of the runs.
"""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import XaiError
from raytrain_xai.runners.capacity import DRIVER_CPUS
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.ray_train import send
from raytrain_xai.runners.trial import Trial, find_trial, measured_of, num_attempts, run_trial
from raytrain_xai.storage import Location
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import TrialState, read_state, write_state

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no tables of Tune beside ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are in the run folders
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep now; every trial goes on from its newest checkpoint
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are in the states
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep have in common; picklable.

    Attributes:
        at: folder of the sweep.
        config: of the sweep.
        run: configuration of any of its runs, for workers and resources.
        board: actor that takes their records.
        concurrent: trials at a time.
        debug: show what goes on inside Ray.
    """

    at: Location
    config: SweepConfig
    run: AnyRunConfig
    board: Any
    concurrent: int
    debug: bool


def run_trials(
    trials: Trials, keys: Sequence[str], *, scheduler: TrialScheduler | None = None, searcher: Searcher | None = None,
    total: int | None = None,
) -> None:  # fmt: skip
    """Train trials; when this returns, each has a state unless Tune gave up on it.

    Args:
        trials: of the sweep.
        keys: their names; empty with a searcher.
        scheduler: told of every evaluation; nothing: trials take all their epochs and tell nobody.
        searcher: names them one by one.
        total: how many it names at most.
    Raises:
        KeyboardInterrupt: the processes of the trials are still there; they end with the connection to Ray.
    """
    space: dict[str, Any] = {} if searcher is not None else {"trial": tune.grid_search(list(keys))}
    train = _Trainable(trials, is_watched=scheduler is not None)
    resources = _resources(trials.run)
    with tempfile.TemporaryDirectory(prefix="rx-") as storage, _quiet(debug=trials.debug):
        tuner = tune.Tuner(
            tune.with_resources(train.function(), resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=1 if total is None else total,
                max_concurrent_trials=trials.concurrent,
                scheduler=scheduler or FIFOScheduler(),
                search_alg=searcher,
                reuse_actors=trials.run.workers == 0,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=trials.config.retries),
                callbacks=[TrialEnds(trials)],
                verbose=0,
            ),
        )
        tuner.fit()


def _resources(run: AnyRunConfig) -> dict[str, float]:
    if run.workers > 0:
        return {"CPU": DRIVER_CPUS}
    own = run.resources
    return {"CPU": own.cpus_per_worker} | ({"GPU": own.gpus_per_worker} if own.gpus_per_worker > 0 else {})


def _folder_name(trial: Any) -> str:
    return trial.config["trial"].replace("/", "-")


@dataclass(frozen=True)
class _Trainable:
    """What the actor of a trial does."""

    trials: Trials
    is_watched: bool

    def function(self) -> Callable[[dict[str, Any]], None]:
        """As Tune wants it: a function of the values it chose."""

        def train(values: dict[str, Any]) -> None:
            self.run(values["trial"])

        return train

    def run(self, key: str) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # last words of a stopped trial
        trials = self.trials  # (the trial after it, in the same actor, fails when it has to wait longer)
        try:
            trial = find_trial(trials.at, trials.config, key)
            torch.set_num_threads(max(1, int(trial.config.resources.cpus_per_worker)))
            run_trial(trials.at, trial, self._launch(trial))
        except XaiError:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RuntimeError(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})") from error
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # the next trial of this actor may be of another size

    def _launch(self, trial: Trial) -> Launch:
        epochs = trial.config.epochs
        publish = partial(_publish, self.trials.board, trial.key)
        if not self.is_watched:
            return Launch("auto", publish, self.trials.debug)
        if trial.config.workers > 0:
            return Launch("auto", publish, self.trials.debug, callbacks=(TellTune(epochs),))
        return Launch("auto", publish, self.trials.debug, report=partial(_tell_tune, epochs))


def _publish(board: Any, key: str, record: dict[str, Any]) -> None:
    send(board, {**record, "trial": key})


def _tell_tune(epochs: int, metrics: dict[str, float]) -> None:
    """Tune answers when its scheduler has decided, or ends this thread. The last epoch is not up for decision."""
    if metrics["epoch"] < epochs:
        tune.report(dict(metrics))


class TellTune(TuneReportCallback):
    """The same for a run on its own workers, from Ray Train's controller."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called with the metrics of every worker."""
        if metrics[0]["epoch"] < self._epochs:
            super().after_report(run_context, metrics, checkpoint)


class TrialEnds(TrialProgressCallback):
    """Writes the states that trials cannot write themselves: of those that were stopped, and of those that crashed.

    It takes the place of Tune's callback that prints results.
    """

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """The run itself told."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a trial ended, or was ended by the scheduler: then it has no state."""
        key = trial.config["trial"]
        if read_state(self._trials.at, key) is None:
            self._end(key, "stopped", None, float(trial.last_result.get("time_total_s", 0.0)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a crashed trial is tried again."""
        record = {"kind": "trial", "status": "retried", "error": _crash(trial)}
        _publish(self._trials.board, trial.config["trial"], record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a trial crashed for the last time."""
        seconds = float(trial.last_result.get("time_total_s", 0.0))
        self._end(trial.config["trial"], "failed", _crash(trial), seconds)

    def _end(self, key: str, status: Any, error: str | None, seconds: float) -> None:
        at, config = self._trials.at, self._trials.config
        attempts = num_attempts(find_trial(at, config, key).config)
        write_state(at, key, TrialState(status, error, attempts, seconds, retryable=status == "failed"))
        val = measured_of(at, key)
        _publish(self._trials.board, key, {"kind": "trial", "status": status, "error": error, "val": val})


def _crash(trial: Any) -> str:
    """Why a trial crashed, in one line: the last of a stack trace, the first of Ray's words about a lost process."""
    lines = [line.strip() for line in Path(trial.error_file).read_text(encoding="utf-8").splitlines() if line.strip()]
    newest = lines[max(i for i, line in enumerate(lines) if line.startswith("Failure # ")) + 1 :]
    has_trace = any(line.startswith("File ") for line in newest)
    return (newest[-1] if has_trace else newest[0])[:500] if newest else "the process of the trial was lost"


@contextmanager
def _quiet(*, debug: bool) -> Generator[None]:
    """Tune without output of its own; the settings are read when a Tuner fits."""
    before = {name: os.environ.get(name) for name in _SETTINGS}
    loggers = [] if debug else [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    os.environ.update(_SETTINGS)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
