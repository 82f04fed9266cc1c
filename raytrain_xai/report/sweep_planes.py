"""Trade-offs of a sweep: every evaluated checkpoint in planes of two metrics, and the selected ones on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raytrain_xai.report.marks import Mark, thinned
from raytrain_xai.report.run_charts import Chart
from raytrain_xai.report.sweep_charts import Front, plane_chart
from raytrain_xai.report.sweep_view import (
    MEASURED_BY,
    Facet,
    SweepView,
    axis_title,
    baselines_like,
    facets,
    is_unguided,
    number,
    position_of,
    title_of,
    unit,
)
from raytrain_xai.sweeps.fronts import front_rows
from raytrain_xai.sweeps.table import TrialRow

MOST_POINTS = 1500
"""Points of one chart, from which on those that lie beside others are left out."""
_UNGUIDED, _UNCOLOURED = -1, -2  # groups that have no colour of their own
PLANES = (("f1", "epg"), ("f1", "iou"), ("worst_group", "epg"))
"""Pairs of metrics that are set against each other where they were measured; the last one if both are objectives."""


@dataclass(frozen=True)
class Plane:
    """Two metrics against each other.

    Attributes:
        title: names them.
        charts: on validation and, where measured, on test; a pair per layer or attribution that was swept.
        drawn, points: how many points the charts show, and how many there are.
    """

    title: str
    charts: list[Chart]
    drawn: int
    points: int


@dataclass(frozen=True)
class _Cloud:
    """Checkpoints of one chart, n of them.

    Attributes:
        rows: of each.
        measured: metrics of each, as shares.
        names: what each is: epoch and split.
        places: (n, 2) metrics in the unit of the chart.
        groups: (n,) int64 position of the colour, or one of the two below 0.
        full: (n,) bool drawn in full.
    """

    rows: Sequence[TrialRow]
    measured: Sequence[Mapping[str, float]]
    names: Sequence[str]
    places: NDArray[np.float64]
    groups: NDArray[np.int64]
    full: NDArray[np.bool_]


def build_planes(view: SweepView) -> list[Plane]:
    """Every pair of :data:`PLANES` that the sweep measured."""
    known = {name for points in view.points.values() for point in points for name in point.val}
    pairs = [pair for pair in PLANES if known >= set(pair) and (pair in PLANES[:2] or set(view.metrics) >= set(pair))]
    parts = facets(view, view.trials, [key for key in MEASURED_BY if key in view.swept])
    return [_plane(view, pair, parts) for pair in pairs]


def _plane(view: SweepView, pair: tuple[str, str], parts: Sequence[Facet]) -> Plane:
    names = (title_of(pair[0]), title_of(pair[1]))
    charts: list[Chart] = []
    drawn = points = 0
    for facet in parts:
        own = f"{names[0]} and {names[1]}" + (f", {facet.title}" if facet.title else "")
        cloud = _checkpoints(view, facet, pair)
        if cloud is None:
            continue
        for split, shown in (("val", cloud), ("test", _selected(view, facet, pair, cloud))):
            if shown is None:
                continue
            chosen = _chosen(shown)
            drawn, points = drawn + int(chosen.sum()), points + len(chosen)
            fronts = _fronts(shown) if split == "val" else []
            title = f"{own}: {'all checkpoints, validation' if split == 'val' else 'selected checkpoints, test'}"
            labels = (axis_title(pair[0], split), axis_title(pair[1], split))
            charts.append(Chart(title, plane_chart(title, fronts, _marks(view, shown, chosen), labels)))
    return Plane(f"{names[0]} against {names[1]}", charts, drawn, points)


def _checkpoints(view: SweepView, facet: Facet, pair: tuple[str, str]) -> _Cloud | None:
    """All evaluations of a facet and its baselines; in full those that no other of their colour beats."""
    found = [
        (row, point.val, f"epoch {point.epoch}, validation")
        for row in (*facet.trials, *baselines_like(view, facet))
        for point in view.points.get(row.id, ())
        if pair[0] in point.val and pair[1] in point.val
    ]
    if not found:
        return None
    cloud = _cloud(view, pair, found)
    full = np.zeros(len(found), dtype=np.bool_)
    for group in np.unique(cloud.groups).tolist():
        own = np.flatnonzero(cloud.groups == group)
        full[own] = front_rows(cloud.places[own].tolist())
    return replace(cloud, full=full)


def _selected(view: SweepView, facet: Facet, pair: tuple[str, str], cloud: _Cloud) -> _Cloud | None:
    """Test metrics of the trials; in full those with a checkpoint that is in full on validation."""
    rows = (*facet.trials, *baselines_like(view, facet))
    found = [(row, row.test, "test") for row in rows if pair[0] in row.test and pair[1] in row.test]
    if not found:
        return None
    chosen = {cloud.rows[i].id for i in np.flatnonzero(cloud.full).tolist()}
    own = _cloud(view, pair, found)
    return replace(own, full=np.array([row.id in chosen for row in own.rows], dtype=np.bool_))


def _cloud(
    view: SweepView, pair: tuple[str, str], found: Sequence[tuple[TrialRow, Mapping[str, float], str]]
) -> _Cloud:
    """Points that are all drawn in full, from row, metrics and name of each."""
    rows, measured, names = zip(*found, strict=True)
    places = [(own[pair[0]] * unit(pair[0]), own[pair[1]] * unit(pair[1])) for own in measured]
    full = np.ones(len(found), dtype=np.bool_)
    return _Cloud(rows, measured, names, np.array(places, dtype=np.float64), _groups(view, rows), full)


def _groups(view: SweepView, rows: Sequence[TrialRow]) -> NDArray[np.int64]:
    names = view.groups(view.colour)

    def group(row: TrialRow) -> int:
        position = position_of(row, view.colour, names)
        return _UNGUIDED if row.is_baseline or is_unguided(row) else _UNCOLOURED if position is None else position

    known = {row.id: group(row) for row in rows}
    return np.array([known[row.id] for row in rows], dtype=np.int64)


def _fronts(cloud: _Cloud) -> list[Front]:
    fronts: list[Front] = []
    for group in np.unique(cloud.groups[cloud.groups >= 0]).tolist():
        own = cloud.places[cloud.full & (cloud.groups == group)]
        fronts.append(Front(group, own[:, 0].tolist(), own[:, 1].tolist()))
    return fronts


def _chosen(cloud: _Cloud) -> NDArray[np.bool_]:
    """Points that are drawn: all in full and all unguided ones, of the rest those that stand apart."""
    return thinned(cloud.places[:, 0], cloud.places[:, 1], cloud.full | (cloud.groups == _UNGUIDED), MOST_POINTS)


def _marks(view: SweepView, cloud: _Cloud, chosen: NDArray[np.bool_]) -> list[Mark]:
    marks: list[Mark] = []
    for i in np.flatnonzero(chosen).tolist():
        row, group = cloud.rows[i], int(cloud.groups[i])
        marks.append(Mark(
            x=float(cloud.places[i, 0]), y=float(cloud.places[i, 1]), group=None if group < 0 else group,
            title=f"{view.describe(row)}; {cloud.names[i]}: {_metrics(view, cloud.measured[i])}",
            href=view.links.get(row.id), faint=not cloud.full[i], shape="diamond" if group == _UNGUIDED else "circle",
        ))  # fmt: skip
    return marks


def _metrics(view: SweepView, metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{title_of(name)} {number(name, metrics[name])}" for name in view.metrics if name in metrics)
