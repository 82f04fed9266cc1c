"""Ray Tune's schedulers, as a sweep's configuration describes them."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raytrain_xai.sweep_config import AshaScheduler, SweepConfig
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
