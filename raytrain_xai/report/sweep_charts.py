"""Charts of a sweep: the plane of two metrics with its fronts, curves with bands over seeds, and points over a value.

Every point is a trial, or a checkpoint of one, and opens the page of its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes

from raytrain_xai.report.curves import colour_of
from raytrain_xai.report.drawing import INK, STYLE, canvas, to_svg
from raytrain_xai.report.marks import Mark, include, marks_svg
from raytrain_xai.report.scales import Scale
from raytrain_xai.sweeps.repeats import Stat

_SHADE, _SHADE_ALL = 0.14, 0.4  # opacity of one band, and of all together


@dataclass(frozen=True)
class Front:
    """Points of a group that no other of it beats in the plane.

    Attributes:
        group: position that fixes the colour.
        x, y: their metrics, in any order.
    """

    group: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """Means over seeds, joined in the order of the swept value.

    Attributes:
        group: position that fixes the colour.
        x: coordinates on the scale of the chart.
        y: of the metric, as many as ``x``.
    """

    group: int
    x: Sequence[float]
    y: Sequence[Stat]


def plane_chart(description: str, fronts: Sequence[Front], marks: Sequence[Mark], labels: tuple[str, str]) -> str:
    """Two metrics against each other, higher being better in both, as an ``<svg>`` element.

    Args:
        description: what the chart shows, for screen readers.
        fronts: joined in order of the first metric.
        marks: points.
        labels: of the horizontal and the vertical axis.
    """
    with rc_context(STYLE):
        figure, axes = canvas(height=3.1)
        for front in fronts:
            joined = sorted(zip(front.x, front.y, strict=True))
            axes.plot(*zip(*joined, strict=True), color=colour_of(front.group), linewidth=1.3, alpha=0.85)
        include(axes, marks)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return to_svg(figure, description, marks_svg(figure, axes, marks))


def curve_chart(
    description: str, scale: Scale, curves: Sequence[Curve], marks: Sequence[Mark], label: str,
    level: Stat | None = None,
) -> str:  # fmt: skip
    """A metric over a swept value, with a band around every curve, as an ``<svg>`` element.

    Args:
        description: what the chart shows, for screen readers.
        scale: of the swept value.
        curves: one per group; none draws the marks alone.
        marks: trials.
        label: of the vertical axis.
        level: the unguided run, or what else the curves start from.
    """
    with rc_context(STYLE):
        figure, axes = canvas(height=2.9)
        for curve in curves:
            _draw(axes, curve, joined=scale.kind != "names")  # names have no order to join
        include(axes, marks)
        if level is not None:
            axes.axhline(level.mean, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.75)
        _shade(axes, curves if scale.kind != "names" else (), level)
        _label(axes, scale)
        axes.set_ylabel(label)
        return to_svg(figure, description, marks_svg(figure, axes, marks))


def _draw(axes: Axes, curve: Curve, *, joined: bool) -> None:
    colour, mean = colour_of(curve.group), [stat.mean for stat in curve.y]
    if joined:
        axes.plot(curve.x, mean, color=colour, linewidth=1.8, marker="o", markersize=3.6)
        return
    reach = [high - stat.mean for stat in curve.y for _, high in [_ends(stat)]]
    axes.errorbar(curve.x, mean, reach, color=colour, fmt="_", markersize=16, linewidth=1.6)


def _shade(axes: Axes, curves: Sequence[Curve], level: Stat | None) -> None:
    """Bands, within the limits that points and means ask for: an interval of two seeds is wider than all of them."""
    limits = axes.get_ylim()
    shade = min(_SHADE, _SHADE_ALL / max(len(curves), 1))
    for curve in curves:
        if any(stat.n > 1 for stat in curve.y):
            low, high = zip(*map(_ends, curve.y), strict=True)
            axes.fill_between(curve.x, low, high, color=colour_of(curve.group), alpha=shade, linewidth=0)
    if level is not None and level.n > 1:
        axes.axhspan(*_ends(level), color=INK, alpha=0.07, linewidth=0)
    axes.set_ylim(limits)


def _ends(stat: Stat) -> tuple[float, float]:
    return stat.interval or (stat.mean, stat.mean)


def _label(axes: Axes, scale: Scale) -> None:
    """Ticks of the horizontal axis; names that would run into each other are slanted."""
    axes.set_xlabel(scale.name)
    if scale.ticks:
        crowded = sum(len(label) for label in scale.labels) > 38
        axes.set_xticks(scale.ticks, scale.labels)
        if crowded:
            axes.tick_params(axis="x", labelrotation=30)
            for label in axes.get_xticklabels():
                label.set(horizontalalignment="right", rotation_mode="anchor")
    if scale.kind == "names":
        axes.set_xlim(-0.5, len(scale.names) - 0.5)
        axes.grid(visible=False, axis="x")
