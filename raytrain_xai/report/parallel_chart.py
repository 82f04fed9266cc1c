"""Parallel coordinates: every swept value and every objective is an axis, every trial a line through its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray

from raytrain_xai.report.curves import colour_of
from raytrain_xai.report.drawing import INK, STYLE, canvas, to_svg
from raytrain_xai.report.marks import drawing_places, linked
from raytrain_xai.report.scales import Scale

_HEIGHT_INCHES = 3.6
_PER_AXIS_INCHES = 1.35
_FEW_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One trial.

    Attributes:
        places: coordinate on the scale of every axis.
        group: position that fixes the colour; None is the colour of the text.
        title: shown while the pointer is over it.
        href: page that it opens; None opens nothing.
        faint: drawn lightly.
    """

    places: Sequence[float]
    group: int | None
    title: str
    href: str | None = None
    faint: bool = False


def parallel_chart(description: str, scales: Sequence[Scale], lines: Sequence[Line]) -> str:
    """Lines from axis to axis as an ``<svg>`` element, faint ones below.

    Args:
        description: what the chart shows, for screen readers.
        scales: axes from left to right, two or more.
        lines: one or more, each with a coordinate for every axis.
    """
    places = np.array([line.places for line in lines], dtype=np.float64)
    ends = np.array([_ends(scale, own) for scale, own in zip(scales, places.T, strict=True)])
    low, high = ends[:, 0], ends[:, 1]
    span = np.where(high > low, high - low, 1.0)
    low = np.where(high > low, low, low - 0.5)  # an axis with a single value has it in the middle
    with rc_context(STYLE):
        figure, axes = canvas(height=_HEIGHT_INCHES, width=max(4.4, _PER_AXIS_INCHES * len(scales)))
        _draw_axes(axes, scales, low, span)
        heights = (places - low) / span
        columns = np.broadcast_to(np.arange(len(scales), dtype=np.float64), heights.shape)
        corners = drawing_places(figure, axes, np.stack([columns, heights], axis=2).reshape(-1, 2))
        corners = corners.reshape(len(lines), len(scales), 2)
        order = sorted(range(len(lines)), key=lambda i: not lines[i].faint)
        return to_svg(figure, description, behind="".join(_element(lines[i], corners[i]) for i in order))


def _ends(scale: Scale, values: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest and highest coordinate of an axis, that of its labels included."""
    return min([values.min(), *scale.ticks]), max([values.max(), *scale.ticks])


def _draw_axes(axes: Axes, scales: Sequence[Scale], low: NDArray[np.float64], span: NDArray[np.float64]) -> None:
    axes.set_xlim(-0.35, len(scales) - 0.65)
    axes.set_ylim(-0.06, 1.06)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(scales)), [_wrapped(scale.name) for scale in scales])
    axes.tick_params(axis="x", length=0)
    for column, scale in enumerate(scales):
        axes.plot([column, column], [0, 1], color=INK, linewidth=1, alpha=0.5)
        ticks, labels = _ticks(scale, float(low[column]), float(span[column]))
        for place, label in zip(ticks, labels, strict=True):
            height = (place - low[column]) / span[column]
            axes.annotate(
                label, (column, height), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=7.5
            )
            axes.plot([column - 0.02, column + 0.02], [height, height], color=INK, linewidth=1, alpha=0.5)


def _ticks(scale: Scale, low: float, span: float) -> tuple[Sequence[float], Sequence[str]]:
    if scale.ticks:
        return scale.ticks, scale.labels
    ticks = [low + span * step / (_FEW_TICKS - 1) for step in range(_FEW_TICKS)]
    return ticks, [f"{tick:.3g}" for tick in ticks]


def _wrapped(name: str) -> str:
    """A dotted path on two lines."""
    section, dot, key = name.rpartition(".")
    return f"{section}{dot}\n{key}" if dot else name


def _element(line: Line, corners: NDArray[np.float64]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners.tolist())
    kind = "faint" if line.faint else "full"
    colour = "currentColor" if line.group is None else colour_of(line.group)
    title = f"<title>{escape(line.title)}</title>"
    shape = f'<polyline class="trial {kind}" points="{points}" stroke="{colour}">{title}</polyline>'
    return linked(shape, line.href)
