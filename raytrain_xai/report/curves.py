"""Charts of the report as inline SVG: lines over epochs, the F1 / EPG plane, bars per group, box plots.

Legends are part of the page (one for all charts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from raytrain_xai.report.drawing import INK, STYLE, canvas, to_png, to_svg

# Readable on white and on near-black, and told apart with the common colour deficiencies (after Okabe and Ito).
COLOURS = ("#0a84c6", "#e07b00", "#0b9e73", "#c76fa6", "#d1495b", "#8a7fd6", "#a08a00", "#5b8a9a")
_BOX_WIDTH_INCHES = 6.4  # half of it may be labels
_FADED = 0.4


@dataclass(frozen=True)
class Series:
    """Values of one run in one chart.

    Attributes:
        run: position of the run, which fixes its colour.
        x: epochs, or F1 in the F1 / EPG plane.
        y: values, as many as ``x``.
        front: per point, True where no other point of the run dominates it; empty for lines.
    """

    run: int
    x: Sequence[float]
    y: Sequence[float]
    front: Sequence[bool] = ()


@dataclass(frozen=True)
class Box:
    """Distribution of one quantity in a box plot.

    Attributes:
        label: beside the box.
        group: position of the model, which fixes its colour.
        quantiles: values at 5, 25, 50, 75 and 95 %: lower whisker, box, upper whisker.
        mean: drawn as a point.
    """

    label: str
    group: int
    quantiles: Sequence[float]
    mean: float


@dataclass(frozen=True)
class Distribution:
    """Values of one quantity in a chart of distributions.

    Attributes:
        label: in the legend.
        group: position, which fixes its colour.
        values: one or more.
        mean: drawn as a dashed line.
    """

    label: str
    group: int
    values: Sequence[float]
    mean: float


def colour_of(run: int) -> str:
    """Colour of the run at this position; repeats after eight runs."""
    return COLOURS[run % len(COLOURS)]


def line_chart(description: str, series: Sequence[Series], *, axis: str = "epoch") -> str:
    """Lines over epochs or what else ``axis`` names, one per run, as an ``<svg>`` element."""
    with rc_context(STYLE):
        figure, axes = canvas()
        for line in series:
            colour = colour_of(line.run)
            axes.plot(line.x, line.y, color=colour, linewidth=1.8, marker="o", markersize=3.2)
        low, high = axes.get_ylim()
        if all(value >= 0 for line in series for value in line.y):  # only cosines can be negative
            axes.set_ylim(bottom=max(low, -0.04 * high))
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, description)


def front_chart(description: str, series: Sequence[Series]) -> str:
    """Every evaluated epoch in the F1 / EPG plane; points that another epoch of the run dominates are faint.

    Epochs on the front are joined in order of F1. The front is taken over three metrics, so the joined line need not
    fall from left to right.
    """
    with rc_context(STYLE):
        figure, axes = canvas()
        for points in series:
            colour = colour_of(points.run)
            marked = list(zip(points.x, points.y, points.front, strict=True))
            dominated = [(x, y) for x, y, on_front in marked if not on_front]
            front = sorted((x, y) for x, y, on_front in marked if on_front)
            if dominated:
                axes.scatter(*zip(*dominated, strict=True), color=colour, alpha=_FADED, s=18, linewidths=0)
            axes.plot(*zip(*front, strict=True), color=colour, linewidth=1.2, marker="o", markersize=5)
        axes.set_xlabel("F1 (validation)")
        axes.set_ylabel("EPG (validation)")
        return to_svg(figure, description)


def group_chart(description: str, groups: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """Accuracy per group as horizontal bars.

    Args:
        description: what the chart shows, for screen readers.
        groups: names, G.
        values: per run, G accuracies in [0, 1].
    """
    with rc_context(STYLE):
        figure, axes = canvas(height=0.9 + 0.24 * len(groups) * len(values) + 0.12 * len(groups))
        thickness = 0.8 / len(values)
        for run, accuracies in enumerate(values):
            offsets = [i + (run - (len(values) - 1) / 2) * thickness for i in range(len(groups))]
            bars = axes.barh(offsets, accuracies, height=thickness * 0.9, color=colour_of(run))
            axes.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=8, color=INK)
        axes.set_yticks(range(len(groups)), groups)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        return to_svg(figure, description)


def box_chart(description: str, boxes: Sequence[Box], axis: str, chance: float) -> tuple[str, bytes]:
    """Horizontal box plots of shares in [0, 1], from above in the given order.

    Args:
        description: what the chart shows, for screen readers.
        boxes: one per row.
        axis: label of the horizontal axis.
        chance: drawn as a dashed line: the share of a map that knows nothing.
    Returns:
        An ``<svg>`` element, and the same drawing as a PNG on white.
    """
    with rc_context(STYLE):
        figure, axes = canvas(height=0.75 + 0.27 * len(boxes))
        figure.set_figwidth(_BOX_WIDTH_INCHES)
        for row, box in enumerate(boxes):
            low, first, median, third, high = box.quantiles
            colour = colour_of(box.group)
            spread: dict[str, Any] = {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}
            axes.bxp(
                [{**spread, "mean": box.mean}],
                positions=[row], widths=0.62, orientation="horizontal", patch_artist=True, showfliers=False,
                showmeans=True, boxprops={"facecolor": colour, "edgecolor": colour, "alpha": _FADED},
                whiskerprops={"color": colour, "linewidth": 1.3}, capprops={"color": colour, "linewidth": 1.3},
                medianprops={"color": INK, "linewidth": 1.6},
                meanprops={"marker": "o", "markersize": 4, "markerfacecolor": INK, "markeredgewidth": 0},
            )  # fmt: skip
        axes.axvline(chance, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.7)
        axes.set_yticks(range(len(boxes)), [box.label for box in boxes])
        axes.set_ylim(len(boxes) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel(axis)
        return to_svg(figure, description), to_png(figure)


def step_chart(
    description: str,
    names: Sequence[str],
    steps: Sequence[int],
    values: Sequence[Sequence[float]],
    axes_labels: tuple[str, str],
) -> tuple[str, bytes]:
    """Lines over unevenly spaced numbers, drawn evenly spaced and labelled by name at the right.

    Args:
        description: what the chart shows, for screen readers.
        names: per line.
        steps: numbers on the horizontal axis.
        values: per line, as many as ``steps``.
        axes_labels: horizontal, vertical.
    Returns:
        An ``<svg>`` element, and the same drawing as a PNG on white.
    """
    with rc_context(STYLE):
        figure, axes = canvas()
        for line, (name, own) in enumerate(zip(names, values, strict=True)):
            axes.plot(
                range(len(steps)), own, color=colour_of(line), linewidth=1.8, marker="o", markersize=3.2, label=name
            )
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])
        axes.legend(frameon=False, fontsize=8)
        return to_svg(figure, description), to_png(figure)


def distribution_chart(distributions: Sequence[Distribution], axis: str, chance: float | None) -> bytes:
    """Outlined histograms of values in [-1, 1], each as percent of its own values, as a PNG on white.

    Args:
        distributions: one or more.
        axis: label of the horizontal axis.
        chance: drawn as a dotted line; None where there is none.
    """
    with rc_context(STYLE):
        figure, axes = canvas(height=3.0)
        figure.set_figwidth(_BOX_WIDTH_INCHES)
        edges = [-1 + 0.04 * i for i in range(51)]
        for shown in distributions:
            colour, share = colour_of(shown.group), [100 / len(shown.values)] * len(shown.values)
            label = f"{shown.label}: mean {shown.mean:.3f}"
            axes.hist(shown.values, edges, weights=share, histtype="stepfilled", color=colour, alpha=0.25)
            axes.hist(shown.values, edges, weights=share, histtype="step", color=colour, linewidth=1.5, label=label)
            axes.axvline(shown.mean, color=colour, linewidth=1.3, linestyle=(0, (4, 3)))
        if chance is not None:
            axes.axvline(chance, color=INK, linewidth=1.3, linestyle=(0, (1, 2)), label=f"random: {chance:.3f}")
        least = min(min(shown.values) for shown in distributions)
        axes.set_xlim(min(least, chance or 0.0, 0.0) - 0.04, 1.02)
        axes.set_xlabel(axis)
        axes.set_ylabel("% of the concepts")
        axes.legend(frameon=False, fontsize=8)
        return to_png(figure)


def frequency_chart(description: str, edges: Sequence[float], counts: Sequence[Sequence[float]]) -> str:
    """Outlines of histograms over shares on a logarithmic axis, one per run: between E edges, E - 1 counts each."""
    with rc_context(STYLE):
        figure, axes = canvas()
        for run, own in enumerate(counts):
            axes.stairs(own, [100 * edge for edge in edges], color=colour_of(run), linewidth=1.8)
        axes.set_xscale("log")
        decades = [100 * edge for edge in edges if math.isclose(edge, 10 ** round(math.log10(edge)))]
        axes.set_xticks(decades, [f"{decade:g}" for decade in decades])
        axes.minorticks_off()
        axes.set_xlabel("active at % of the positions")
        axes.set_ylabel("concepts")
        return to_svg(figure, description)
