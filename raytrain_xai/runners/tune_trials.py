"""Trials on Ray Tune: each in an actor of its own, or in one that starts the workers of its run.

Tune decides which trial runs where and when; it is told the names of trials and gives back nothing. What a trial is,
how far it is and how it ended is in the sweep's folder. Checkpoints are those of the runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import tempfile
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ray import tune
from ray.tune.error import TuneError
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import XaiError
from raytrain_xai.run_folder import Attempt
from raytrain_xai.runners.capacity import DRIVER_CPUS
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.population import Pointer, initial_values, num_segments, prepare
from raytrain_xai.runners.trial import Trial, find_trial, run_trial
from raytrain_xai.runners.trial_ends import TrialEnds, publish
from raytrain_xai.storage import Location, delete_tree
from raytrain_xai.sweep_config import PbtScheduler, SweepConfig

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
        attempt: the right to drive the sweep.
        config: of the sweep.
        run: configuration of any of its runs, for workers and resources.
        board: actor that takes their records.
        concurrent: trials at a time.
        debug: show what goes on inside Ray.
    """

    attempt: Attempt
    config: SweepConfig
    run: AnyRunConfig
    board: Any
    concurrent: int
    debug: bool

    @property
    def at(self) -> Location:
        """Folder of the sweep."""
        return self.attempt.run


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
        SupersededError: another process drives the sweep by now; the same holds of the processes.
        DataError: a state cannot be written.
    """
    space: dict[str, Any] = {} if searcher is not None else {"trial": tune.grid_search(list(keys))}
    is_population = isinstance(scheduler, PopulationBasedTraining)
    if is_population:
        space |= _population_values(trials, keys)
    train = _Trainable(trials, is_watched=scheduler is not None)
    resources = _resources(trials.run)
    with _tune_folder(trials, scheduler) as place, _quiet(debug=trials.debug):
        tuner = tune.Tuner(
            tune.with_resources(train.function(), resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=1 if total is None else total,
                max_concurrent_trials=None if is_population else trials.concurrent,  # it has to know all of its trials
                scheduler=scheduler or FIFOScheduler(),
                search_alg=searcher,
                reuse_actors=trials.run.workers == 0 or scheduler is None,  # an end by force leaves workers behind
                trial_name_creator=_key,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="trials",
                **place,
                failure_config=tune.FailureConfig(max_failures=trials.config.retries),
                callbacks=[TrialEnds(trials.attempt, trials.config, trials.board)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:
            if isinstance(error.__context__, XaiError):  # raised in one of our callbacks; Tune keeps but its text
                raise error.__context__ from error
            raise


def _resources(run: AnyRunConfig) -> dict[str, float]:
    if run.workers > 0:
        return {"CPU": DRIVER_CPUS}
    own = run.resources
    return {"CPU": own.cpus_per_worker} | ({"GPU": own.gpus_per_worker} if own.gpus_per_worker > 0 else {})


def _key(trial: Any) -> str:
    """Name of a trial from now on; population based training copies the values of others over its own."""
    return trial.config["trial"]


def _folder_name(trial: Any) -> str:
    return _key(trial).replace("/", "-")


@dataclass(frozen=True)
class _Trainable:
    """What the actor of a trial does."""

    trials: Trials
    is_watched: bool

    def function(self) -> Callable[[dict[str, Any]], None]:
        """As Tune wants it: a function of the values it chose."""

        def train(values: dict[str, Any]) -> None:
            self.run(tune.get_context().get_trial_name() or values["trial"], values)

        return train

    def run(self, key: str, values: Mapping[str, Any]) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # last words of a stopped trial
        trials = self.trials  # (the trial after it, in the same actor, fails when it has to wait longer)
        try:
            trials.attempt.check()  # a trial that outlived its sweep must not take a run from those that go on
            trial = find_trial(trials.at, trials.config, key)
            if self.is_watched and isinstance(trials.config.scheduler, PbtScheduler):
                own = {path: values[path] for path in trials.config.scheduler.mutate}
                trial = prepare(trials.at, trials.config, trial, own, _pointer())
            torch.set_num_threads(max(1, int(trial.config.resources.cpus_per_worker)))
            run_trial(trials.at, trial, self._launch(trial), before_end=trials.attempt.check)
        except XaiError:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RuntimeError(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})") from error
        finally:
            _give_memory_back()

    def _launch(self, trial: Trial) -> Launch:
        epochs = trial.config.epochs
        tell = partial(publish, self.trials.board, trial.key)
        if not self.is_watched:
            return Launch("auto", tell, self.trials.debug)
        if trial.config.workers > 0:
            return Launch("auto", tell, self.trials.debug, callbacks=(TellTune(epochs),))
        at = self.trials.at if isinstance(self.trials.config.scheduler, PbtScheduler) else None
        return Launch("auto", tell, self.trials.debug, report=partial(_tell_tune, trial.key, epochs, at))


def _give_memory_back() -> None:
    """The next trial of this actor may be of another size; without, an actor grows by tens of megabytes per trial."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # keeps what is freed, in pieces that no later trial fits in


def _tell_tune(key: str, epochs: int, at: Location | None, metrics: dict[str, float]) -> None:
    """Tune answers when its scheduler has decided, or ends this thread. The last epoch is not up for decision.

    Args:
        key: of the trial.
        epochs: that it trains.
        at: folder of the sweep, where the trial's checkpoint may become another one's; else None.
        metrics: with ``epoch`` and ``step``.
    """
    if metrics["epoch"] >= epochs:
        return
    if at is None:
        tune.report(dict(metrics))
        return
    with tempfile.TemporaryDirectory(prefix="rx-") as folder:
        Pointer(key, num_segments(at, key), int(metrics["step"])).write(folder)
        tune.report(dict(metrics), checkpoint=tune.Checkpoint.from_directory(folder))


def _pointer() -> Pointer | None:
    """The checkpoint that Tune wants the trial to go on from."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Pointer.read(folder)


def _population_values(trials: Trials, keys: Sequence[str]) -> dict[str, Any]:
    """Where every trial begins, in the space that is changed."""
    at, config = trials.at, trials.config
    own = {key: initial_values(at, config, find_trial(at, config, key)) for key in keys}
    paths = own[keys[0]]
    return {path: tune.sample_from(partial(_value_of, own, path)) for path in paths}


def _value_of(own: Mapping[str, Mapping[str, Any]], path: str, spec: Any) -> Any:
    return own[spec.config["trial"]][path]


@contextmanager
def _tune_folder(trials: Trials, scheduler: TrialScheduler | None) -> Generator[dict[str, Any]]:
    """Where Tune keeps its own files while it runs: here, or where every node sees the pointers of a population."""
    if isinstance(scheduler, PopulationBasedTraining):
        folder = trials.at.child("tune")
        delete_tree(folder)
        yield {"storage_path": folder.path, "storage_filesystem": folder.filesystem}
        delete_tree(folder)
        return
    with tempfile.TemporaryDirectory(prefix="rx-", ignore_cleanup_errors=True) as folder:  # trials may still write
        yield {"storage_path": folder}


class TellTune(TuneReportCallback):
    """The same for a run on its own workers, from Ray Train's controller."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called with the metrics of every worker."""
        if metrics[0]["epoch"] < self._epochs:
            super().after_report(run_context, metrics, checkpoint)


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
