"""Points of a chart that are links with a text to hover over, and which of very many points are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raytrain_xai.report.curves import colour_of
from raytrain_xai.report.drawing import POINTS_PER_INCH

Floats = NDArray[np.float64]
Shape = Literal["circle", "diamond"]

_RADIUS = {"full": 3.1, "faint": 2.4}
_DIAMOND = 4.4  # half of its diagonal
_FAINT = 0.38
_COARSEST = 8  # cells along an axis


@dataclass(frozen=True)
class Mark:
    """One point of a chart.

    Attributes:
        x, y: coordinates in the data of the chart.
        group: position that fixes the colour; None is the colour of the text.
        title: shown while the pointer is over it.
        href: page that it opens; None opens nothing.
        faint: drawn lightly.
        shape: circle; diamond for what the others are compared with.
    """

    x: float
    y: float
    group: int | None
    title: str
    href: str | None = None
    faint: bool = False
    shape: Shape = "circle"


def include(axes: Axes, marks: Sequence[Mark]) -> None:
    """Let the limits of a chart hold the marks, which matplotlib does not know of."""
    if marks:
        axes.update_datalim([(mark.x, mark.y) for mark in marks])
        axes.autoscale_view()


def marks_svg(figure: Figure, axes: Axes, marks: Sequence[Mark]) -> str:
    """The marks as SVG elements, faint ones first; nothing of the chart may change its place any more after this."""
    if not marks:
        return ""
    places = drawing_places(figure, axes, [(mark.x, mark.y) for mark in marks])
    order = sorted(range(len(marks)), key=lambda i: (not marks[i].faint, marks[i].shape == "diamond"))
    return "".join(linked(_element(marks[i], places[i]), marks[i].href) for i in order)


def drawing_places(figure: Figure, axes: Axes, points: Any) -> Floats:
    """Coordinates of a chart -> points from the upper left of its drawing; the layout is fixed from here on.

    Args:
        points: (n, 2).
    Returns:
        (n, 2) float64.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    pixels = np.asarray(axes.transData.transform(np.asarray(points, dtype=np.float64)))
    height = figure.get_figheight() * POINTS_PER_INCH
    scale = POINTS_PER_INCH / figure.dpi
    return np.stack([pixels[:, 0] * scale, height - pixels[:, 1] * scale], axis=1)


def linked(element: str, href: str | None) -> str:
    """An SVG element as a link, or as it is."""
    return element if href is None else f'<a href="{escape(href)}">{element}</a>'


def thinned(x: Floats, y: Floats, keep: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Which points to draw so that at most ``most`` are, or as many as must be kept.

    The plane is divided into ever fewer cells, of which each shows its first point, until few enough are left: what
    goes lies beside a point that stays, so the outline of the cloud stays.

    Args:
        x, y: (n,) coordinates.
        keep: (n,) points that are drawn in any case.
        most: number of points from which on others are left out.
    Returns:
        (n,) bool.
    """
    if len(x) <= most:
        return np.ones(len(x), dtype=np.bool_)
    cells, drawn = 128, keep.copy()
    while cells >= _COARSEST:
        drawn = keep | _first_of_cells(x, y, cells)
        if drawn.sum() <= most:
            return drawn
        cells = int(cells * 0.8)
    return drawn


def _first_of_cells(x: Floats, y: Floats, cells: int) -> NDArray[np.bool_]:
    column, row = (_cell(values, cells) for values in (x, y))
    _, first = np.unique(column * cells + row, return_index=True)
    chosen = np.zeros(len(x), dtype=np.bool_)
    chosen[first] = True
    return chosen


def _cell(values: Floats, cells: int) -> NDArray[np.int64]:
    span = float(np.ptp(values))
    return np.minimum((values - values.min()) / (span or 1.0) * cells, cells - 1).astype(np.int64)


def _element(mark: Mark, place: Floats) -> str:
    x, y = float(place[0]), float(place[1])
    colour = "currentColor" if mark.group is None else colour_of(mark.group)
    style = f'fill="{colour}"' + (f' fill-opacity="{_FAINT}"' if mark.faint else "")
    title = f"<title>{escape(mark.title)}</title>"
    if mark.shape == "diamond":
        d = _DIAMOND
        return f'<path d="M{x:.1f} {y - d:.1f}l{d} {d}l-{d} {d}l-{d}-{d}z" {style}>{title}</path>'
    radius = _RADIUS["faint" if mark.faint else "full"]
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}>{title}</circle>'
