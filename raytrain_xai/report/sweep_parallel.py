"""All trials of a sweep in parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raytrain_xai.report.parallel_chart import Line, parallel_chart
from raytrain_xai.report.scales import Scale, is_number, scale_of
from raytrain_xai.report.sweep_view import ABSENT, SweepView, number, position_of, title_of, unit, value_of
from raytrain_xai.sweeps.fronts import front_rows
from raytrain_xai.sweeps.table import TrialRow

MOST_LINES = 400


@dataclass(frozen=True)
class Parallel:
    """The chart, and how many trials it shows of how many."""

    svg: str
    drawn: int
    trials: int


def build_parallel(view: SweepView) -> Parallel | None:
    """Swept values, then objectives on validation; None where there are fewer than two axes or trials.

    Trials without one of the objectives, or without a swept number, have no line. On top and in full are those that no
    other trial of their colour beats in all objectives; where there are too many lines, of the others every n-th in
    order of the first objective is drawn.
    """
    rows = _complete(view)
    if len(rows) < 2 or len(view.swept) + len(view.metrics) < 2 or not view.swept or not view.metrics:
        return None
    front = _on_front(view, rows)
    chosen = _chosen(view, rows, front)
    scales = [scale_of(key, [value_of(row, key) for row in rows]) for key in view.swept]
    places = [scale.place([value_of(row, key) for row in rows]) for key, scale in zip(view.swept, scales, strict=True)]
    for metric in view.metrics:
        places.append(np.array([row.val[metric] * unit(metric) for row in rows], dtype=np.float64))
        scales.append(Scale(title_of(metric), "linear"))
    names = view.groups(view.colour)
    table = np.stack(places, axis=1)
    lines = [
        Line(
            table[i].tolist(),
            position_of(rows[i], view.colour, names),
            _text(view, rows[i]),
            view.links.get(rows[i].id),
            not front[i],
        )
        for i in chosen
    ]  # fmt: skip
    return Parallel(parallel_chart("Parallel coordinates of the trials", scales, lines), len(lines), len(rows))


def _complete(view: SweepView) -> list[TrialRow]:
    """Trials with all objectives and all swept numbers."""
    numbers = [key for key, values in view.swept.items() if all(is_number(value) for value in values)]
    return [
        row
        for row in view.trials
        if all(metric in row.val for metric in view.metrics) and all(value_of(row, key) != ABSENT for key in numbers)
    ]


def _on_front(view: SweepView, rows: Sequence[TrialRow]) -> list[bool]:
    """Whether no other trial of its colour beats a trial in all objectives."""
    signs = [1.0 if view.config.objectives[metric] == "max" else -1.0 for metric in view.metrics]
    parts: dict[int | None, list[int]] = {}
    names = view.groups(view.colour)
    for i, row in enumerate(rows):
        parts.setdefault(position_of(row, view.colour, names), []).append(i)
    found = [False] * len(rows)
    for own in parts.values():
        points = [[sign * rows[i].val[m] for m, sign in zip(view.metrics, signs, strict=True)] for i in own]
        for i, is_front in zip(own, front_rows(points), strict=True):
            found[i] = is_front
    return found


def _chosen(view: SweepView, rows: Sequence[TrialRow], front: Sequence[bool]) -> list[int]:
    """Positions of the trials that have a line."""
    if len(rows) <= MOST_LINES:
        return list(range(len(rows)))
    kept = [i for i, is_front in enumerate(front) if is_front]
    others = sorted((i for i, is_front in enumerate(front) if not is_front), key=lambda i: rows[i].val[view.metrics[0]])
    room = max(MOST_LINES - len(kept), 0)
    spread = [others[(2 * slot + 1) * len(others) // (2 * room)] for slot in range(min(room, len(others)))]
    return sorted([*kept, *spread])


def _text(view: SweepView, row: TrialRow) -> str:
    metrics = ", ".join(f"{title_of(metric)} {number(metric, row.val[metric])}" for metric in view.metrics)
    return f"{view.describe(row)}; validation: {metrics}"
