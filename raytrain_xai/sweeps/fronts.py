"""Pareto fronts of a sweep: of its trials, and of all its evaluated checkpoints as Rao et al., ICCV 2023, select them.

Written as ``fronts.json``::

    {"objectives": {"f1": "max", ...}, "by": "guidance.loss",
     "groups": [{"value": "energy", "trials": [id, ...], "checkpoints": [[id, step], ...]}, ...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from raytrain_xai.guidance.pareto import RESOLUTION, pareto_front
from raytrain_xai.run_folder import write_json
from raytrain_xai.storage import Location
from raytrain_xai.sweep_config import Direction, Scalar
from raytrain_xai.sweeps.table import PointRow, Sweep, TrialRow

FRONTS = "fronts.json"
LOSS = "guidance.loss"
Measured = TypeVar("Measured", TrialRow, PointRow)


@dataclass(frozen=True)
class Front:
    """What nothing else of a group beats in the objectives.

    Attributes:
        value: of the path that tells the groups apart, None without one or where a trial has none.
        trials: finished trials, by the metrics of their selected checkpoints on the validation split.
        checkpoints: (trial, step) of the evaluated checkpoints of all its trials, unfinished ones included.
    """

    value: Scalar
    trials: tuple[str, ...]
    checkpoints: tuple[tuple[str, int], ...]


def front_rows(points: Sequence[Sequence[float]], resolution: float | None = None) -> list[bool]:
    """Per point, whether no other beats it; higher is better. See :func:`raytrain_xai.guidance.pareto.pareto_front`."""
    if not points:
        return []
    return pareto_front(torch.tensor(points, dtype=torch.float64), resolution).tolist()


def sweep_fronts(sweep: Sweep, by: str | None = None) -> list[Front]:
    """Fronts of the trials that share a value, in the order of the plan; baselines are in none.

    Trials and checkpoints that lack one of the objectives are left out. As in the released code of Rao et al., metrics
    are rounded to multiples of .005 first: smaller differences are noise between epochs.

    Args:
        sweep: with its results.
        by: dotted path, one front per value of it; None: one front.
    """
    groups: dict[Scalar, list[TrialRow]] = {}
    for row in sweep.rows:
        if not row.is_baseline:
            groups.setdefault(None if by is None else row.values.get(by), []).append(row)
    by_trial: dict[str, list[PointRow]] = {}
    for point in sweep.points:
        by_trial.setdefault(point.trial, []).append(point)
    objectives = sweep.config.objectives
    found: list[Front] = []
    for value, rows in groups.items():
        finished = [row for row in rows if row.status == "finished"]
        points = [point for row in rows for point in by_trial.get(row.id, [])]
        found.append(
            Front(
                value,
                tuple(row.id for row in _unbeaten(finished, objectives)),
                tuple((point.trial, point.step) for point in _unbeaten(points, objectives)),
            )
        )
    return found


def write_fronts(sweep: Sweep) -> Location:
    """Write ``fronts.json`` into the sweep's folder, one front per loss where losses are compared."""
    by = LOSS if any(LOSS in row.values for row in sweep.rows) else None
    content: dict[str, Any] = {
        "objectives": dict(sweep.config.objectives),
        "by": by,
        "groups": [asdict(front) for front in sweep_fronts(sweep, by)],
    }
    at = sweep.at.child(FRONTS)
    write_json(at, content)
    return at


def _unbeaten(items: Sequence[Measured], objectives: Mapping[str, Direction]) -> list[Measured]:
    known = [item for item in items if all(name in item.val for name in objectives)]
    points = [[item.val[name] * (1 if way == "max" else -1) for name, way in objectives.items()] for item in known]
    return [item for item, is_front in zip(known, front_rows(points, RESOLUTION), strict=True) if is_front]
