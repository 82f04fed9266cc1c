"""Ray Tune's schedulers, as a sweep's configuration describes them."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from raytrain_xai.sweep_config import AshaScheduler, Axis, PbtScheduler, SweepConfig
from raytrain_xai.sweeps.table import PointRow

TIME = "epoch"  # absolute, so that a resumed trial goes on where it was; Tune's own count starts again


def build_scheduler(config: SweepConfig, epochs: int, past: Iterable[PointRow]) -> TrialScheduler:
    """The scheduler of a sweep.

    Args:
        config: of the sweep.
        epochs: the most that a trial trains.
        past: evaluations of trials that have ended before; they fill the rungs, so that what is resumed is compared
            with all.
    """
    own = config.scheduler
    if isinstance(own, PbtScheduler):
        return _population(own)
    if not isinstance(own, AshaScheduler):
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr=TIME,
        metric=own.metric,
        mode=own.mode,
        max_t=max(own.max_t or epochs, own.grace_period),
        grace_period=own.grace_period,
        reduction_factor=own.reduction_factor,
        stop_last_trials=False,  # who reaches the end is measured on the test split, and ends by itself
    )
    seen: dict[str, Any] = {}
    for point in past:
        trial = seen.get(point.trial)
        if trial is None:
            trial = seen[point.trial] = SimpleNamespace(trial_id=point.trial)
            asha.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType] - neither looks at the controller
        asha.on_trial_result(None, trial, {TIME: point.epoch, **point.val})  # pyright: ignore[reportArgumentType]
    return asha


def _population(own: PbtScheduler) -> TrialScheduler:
    def explore(values: dict[str, Any]) -> dict[str, Any]:
        """Changed by a fifth, values may have left their range."""
        return values | {path: _within(axis, values[path]) for path, axis in own.mutate.items()}

    return PopulationBasedTraining(
        time_attr=TIME,
        metric=own.metric,
        mode=own.mode,
        perturbation_interval=own.interval,
        hyperparam_mutations={path: _domain(axis) for path, axis in own.mutate.items()},
        quantile_fraction=own.quantile,
        custom_explore_fn=explore,
        log_config=False,
    )


def _domain(axis: Axis) -> Any:
    values: list[Any] = list(axis.values)
    match axis.kind:
        case "uniform":
            return tune.uniform(*values)
        case "loguniform":
            return tune.loguniform(*values)
        case "randint":
            return tune.randint(values[0], values[1] + 1)
        case _:
            return values


def _within(axis: Axis, value: Any) -> Any:
    ends: list[Any] = list(axis.values)
    return min(max(value, ends[0]), ends[1]) if axis.is_range else value
