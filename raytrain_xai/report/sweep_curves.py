"""Sensitivity of a sweep: every objective over every swept value, with bands over seeds where seeds were repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raytrain_xai.report.marks import Mark, thinned
from raytrain_xai.report.run_charts import Chart
from raytrain_xai.report.scales import Scale, scale_of, value_text
from raytrain_xai.report.sweep_charts import Curve, curve_chart
from raytrain_xai.report.sweep_planes import MOST_POINTS
from raytrain_xai.report.sweep_view import (
    ABSENT,
    DILATION,
    MEASURED_BY,
    STRATEGY,
    Facet,
    SweepView,
    axis_title,
    baselines_like,
    chooses_nothing,
    facets,
    is_unguided,
    position_of,
    title_of,
    value_of,
)
from raytrain_xai.sweeps.plan import FRACTION, WEIGHT
from raytrain_xai.sweeps.repeats import Stat, stat_of
from raytrain_xai.sweeps.table import TrialRow

_OF_GUIDANCE = (WEIGHT, FRACTION, DILATION, STRATEGY)  # mean nothing without guidance
_MOST_PLACES = 12  # values of an axis, from which on points are not joined
_SCATTER = 0.18  # half the width over which the points of a name are spread


@dataclass(frozen=True)
class Sensitivity:
    """What a swept value does to the objectives.

    Attributes:
        key: that is on the horizontal axes.
        colour: key that colours tell apart; None for one colour.
        charts: one per objective, and per combination of the other swept values where these are few.
        is_joined: whether means are drawn; they are not where points differ in more than is shown, or are too many.
        is_named: whether the values of the key are names, so that means stand side by side.
        has_level: whether a chart shows what the unguided network reaches.
        drawn, points: how many trials the charts show, and how many there are.
    """

    key: str
    colour: str | None
    charts: list[Chart]
    is_joined: bool
    is_named: bool
    has_level: bool
    drawn: int
    points: int


def build_sensitivity(view: SweepView, key: str, colour: str | None) -> Sensitivity | None:
    """Charts of one swept key; None when no finished trial has it together with an objective, or when it comes with the
    colour: where every loss has its own weight, no curve over weights can be drawn."""
    rows = [row for row in view.trials if _counts(row, key)]
    if colour is not None and _comes_with(rows, key, colour):
        return None
    others = [other for other in view.swept if other not in (key, colour)]
    if colour is not None:
        others = [other for other in others if not _comes_with(rows, other, colour)]
    charts: list[Chart] = []
    is_joined = is_named = has_level = False
    drawn = points = 0
    for metric in view.metrics:
        for facet in facets(view, rows, others):
            panel = _panel(view, facet, key, metric, colour, may_join=bool(facet.values) or not others)
            if panel is None:
                continue
            title = f"{title_of(metric)}, {'test' if view.split == 'test' else 'validation'}"
            title += f"; {facet.title}" if facet.title else ""
            label = axis_title(metric, view.split)
            svg = curve_chart(title, panel.scale, panel.curves, panel.marks, label, panel.level)
            charts.append(Chart(title, svg))
            is_joined, has_level = is_joined or bool(panel.curves), has_level or panel.level is not None
            is_named = is_named or panel.scale.kind == "names"
            drawn, points = drawn + len(panel.marks), points + panel.points
    return Sensitivity(key, colour, charts, is_joined, is_named, has_level, drawn, points) if charts else None


@dataclass(frozen=True)
class _Panel:
    """Content of one chart."""

    scale: Scale
    curves: list[Curve]
    marks: list[Mark]
    level: Stat | None
    points: int


def _counts(row: TrialRow, key: str) -> bool:
    """Whether a trial has a value on the axis of a key."""
    if key in _OF_GUIDANCE and is_unguided(row):
        return False
    return value_of(row, key) != ABSENT


def _comes_with(rows: Sequence[TrialRow], key: str, colour: str) -> bool:
    """Whether trials of the same colour have the same value of a key, and those of different colours do not all."""
    values: dict[str, set[str]] = {}
    for row in (row for row in rows if value_of(row, colour) != ABSENT):
        values.setdefault(value_text(value_of(row, colour)), set()).add(value_text(value_of(row, key)))
    return len(values) > 1 and all(len(own) == 1 for own in values.values()) and len(set.union(*values.values())) > 1


def _panel(
    view: SweepView, facet: Facet, key: str, metric: str, colour: str | None, *, may_join: bool
) -> _Panel | None:  # fmt: skip
    known = [(row, value) for row in facet.trials if (value := view.measured(row, metric)) is not None]
    if not known:
        return None
    rows = [row for row, _ in known]
    scale = scale_of(key, [value_of(row, key) for row in rows])
    places = scale.place([value_of(row, key) for row in rows])
    measured = np.array([value for _, value in known], dtype=np.float64)
    names = view.groups(colour)
    curves: list[Curve] = []
    if may_join and len(set(places.tolist())) <= _MOST_PLACES:
        curves = [
            curve
            for group, name in enumerate(names)
            if (curve := _curve(group, scale, [own for own in known if _in_group(own[0], colour, name)], key))
        ]
    if scale.kind == "names":
        places = places + _SCATTER * np.sin(np.arange(len(rows)) * 2.4)
    chosen = np.flatnonzero(thinned(places, measured, np.zeros(len(rows), dtype=np.bool_), MOST_POINTS)).tolist()
    marks = [
        Mark(
            float(places[i]), float(measured[i]), position_of(rows[i], colour, names),
            title=f"{view.describe(rows[i])}; {title_of(metric)} {measured[i]:.4g}",
            href=view.links.get(rows[i].id), faint=bool(curves),
        )
        for i in chosen
    ]  # fmt: skip
    return _Panel(scale, curves, marks, _level(view, facet, metric), len(rows))


def _in_group(row: TrialRow, colour: str | None, name: str) -> bool:
    """Whether a trial is on the curve of a colour; one that annotates everything is on those of all strategies."""
    if colour is None or (colour == STRATEGY and chooses_nothing(row)):
        return True
    return value_text(value_of(row, colour)) == name


def _curve(group: int, scale: Scale, known: Sequence[tuple[TrialRow, float]], key: str) -> Curve | None:
    parts: dict[Any, list[float]] = {}
    for row, value in known:
        parts.setdefault(value_of(row, key), []).append(value)
    if not parts:
        return None
    places = scale.place(list(parts))
    order = np.argsort(places, kind="stable").tolist()
    every = list(parts.values())
    return Curve(group, places[order].tolist(), [stat_of(every[i]) for i in order])


def _level(view: SweepView, facet: Facet, metric: str) -> Stat | None:
    """What the unguided controls of a facet reach, else the baselines; None where there are neither."""
    if any(key in view.swept and key not in facet.values for key in MEASURED_BY):
        return None  # the facet is measured in several ways
    controls = [row for row in view.trials if is_unguided(row) and _is_control(row, facet.values)]
    for rows in (controls, baselines_like(view, facet)):
        values = [value for row in rows if (value := view.measured(row, metric)) is not None]
        if values:
            return stat_of(values)
    return None


def _is_control(row: TrialRow, values: Mapping[str, Any]) -> bool:
    """Whether an unguided trial was trained and is measured as the guided ones of a facet."""
    counts = {key: value for key, value in values.items() if key in MEASURED_BY or not key.startswith("guidance.")}
    return all(value_of(row, key) in (value, ABSENT) for key, value in counts.items() if key != STRATEGY)
