"""The results of a sweep: one row per trial, one point per evaluated checkpoint; gathered from run folders, or stored.

``trials.parquet`` has the columns trial, status, …, the dotted paths of the values, ``val/<metric>`` and
``test/<metric>``; ``points.parquet`` has trial, step, epoch, ``val/<metric>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raytrain_xai.storage import Location
from raytrain_xai.sweep_config import Scalar, SweepConfig


@dataclass(frozen=True)
class TrialRow:
    """What became of a trial, or of a baseline.

    Attributes:
        id: of the trial; ``baseline/s<seed>`` of a baseline.
        status: finished, stopped, failed, or unfinished.
        seed: of its run.
        strategy: as of the trial's specification.
        values: dotted path -> value.
        val, test: metrics of the selected checkpoint; of the newest evaluation where the run is not finished, then
            without test; empty where there was none.
        run: run folder relative to the sweep, with ``/``; None when there is none.
        epochs: epochs done at the newest evaluation.
        training_s: seconds of training and validation, over all attempts.
        seconds: of the trial's processes together, start and tables included; 0 for baselines and before the end.
        error: one line, None unless failed.
        is_baseline: whether it is a baseline.
    """

    id: str
    status: str
    seed: int
    strategy: str | None
    values: Mapping[str, Scalar]
    val: Mapping[str, float]
    test: Mapping[str, float]
    run: str | None
    epochs: int
    training_s: float
    seconds: float
    error: str | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class PointRow:
    """An evaluated checkpoint.

    Attributes:
        trial: ``id`` of its row.
        step, epoch: done before it.
        val: metrics of the validation split.
        is_selected: whether it is the one that was measured on the test split.
    """

    trial: str
    step: int
    epoch: int
    val: Mapping[str, float]
    is_selected: bool


@dataclass(frozen=True)
class Sweep:
    """A sweep as reports see it.

    Attributes:
        at: its folder.
        config: with the name and storage of where it lies.
        rows: baselines, then trials in the order of the plan.
        points: in the order of their rows, then by step.
    """

    at: Location
    config: SweepConfig
    rows: Sequence[TrialRow]
    points: Sequence[PointRow]
