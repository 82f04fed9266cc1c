"""What a sweep does besides training: annotation orders before its trials, pages of the best ones after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from raytrain_xai.data.annotation_order import write_order
from raytrain_xai.runners.tasks import Crew, Result, Task, run_tasks
from raytrain_xai.runners.tracking import Record
from raytrain_xai.runners.trial import write_page
from raytrain_xai.runners.tune_trials import Trials
from raytrain_xai.sections import StrategyName
from raytrain_xai.storage import Location, exists
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import baseline_run, order_file, trial_run
from raytrain_xai.sweeps.fronts import LOSS, sweep_fronts
from raytrain_xai.sweeps.gather import gather
from raytrain_xai.sweeps.plan import baseline_seeds


@dataclass(frozen=True)
class _Order:
    """An annotation order that is missing."""

    strategy: StrategyName
    seed: int
    num_images: int = 1

    @property
    def key(self) -> str:
        return f"{self.strategy}-s{self.seed}"


@dataclass(frozen=True)
class _Page:
    """A trial without a page of its own."""

    key: str
    num_images: int = 1


def order_images(trials: Trials) -> None:
    """Ask every baseline for the annotation order of every strategy, where it is missing.

    Raises:
        ConfigError: a strategy does not fit the network.
    """
    config = trials.config
    missing = [
        _Order(strategy, seed)
        for seed in baseline_seeds(config)
        for strategy in config.strategies
        if not exists(order_file(trials.at, config, strategy, seed))
    ]
    crew = _crew(trials, missing)
    run_tasks(partial(_asker, trials.at, config, crew), missing, crew, _nobody)


def write_pages(trials: Trials) -> None:
    """Write ``report.html`` of the trials on the front that have none; nothing unless the sweep asks for these."""
    if trials.config.galleries != "front":
        return
    sweep = gather(trials.at)
    by = LOSS if any(LOSS in row.values for row in sweep.rows) else None
    best = [trial for front in sweep_fronts(sweep, by) for trial in front.trials]
    missing = [_Page(trial) for trial in best if not exists(trial_run(trials.at, trial).child("report.html"))]
    run_tasks(partial(_writer, trials.at), missing, _crew(trials, missing), _nobody)


def _crew(trials: Trials, tasks: Sequence[Task]) -> Crew:
    """As many workers as trials run together; those of a trial with workers of its own idle by now."""
    return Crew(max(1, min(len(tasks), trials.concurrent)), trials.run.resources, "auto", debug=trials.debug)


def _asker(at: Location, config: SweepConfig, crew: Crew) -> Callable[[_Order], Result]:
    from raytrain_xai.annotation.suggest import suggest  # imports torchvision

    def ask(task: _Order) -> Result:
        run = baseline_run(at, config, task.seed).uri
        order = suggest(run, strategy=task.strategy, seed=task.seed, device=crew.device)
        write_order(order_file(at, config, task.strategy, task.seed), order)
        return {}

    return ask


def _writer(at: Location) -> Callable[[_Page], Result]:
    def write(task: _Page) -> Result:
        write_page(trial_run(at, task.key).uri)
        return {}

    return write


def _nobody(record: Record) -> None:  # noqa: ARG001
    """These take seconds, nobody watches."""
