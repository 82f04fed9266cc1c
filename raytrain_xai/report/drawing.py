"""What all charts of a page share: a canvas, and its drawing as a part of the page.

Axes and text are drawn in the colour of the surrounding page, so one drawing serves a light and a dark page. No chart
holds a user's text unescaped: matplotlib escapes what it writes and its formula syntax is off.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # stands for the text colour of the page until the drawing is finished
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
}
"""Settings of matplotlib while a chart is made: ``with rc_context(STYLE)``."""
POINTS_PER_INCH = 72  # units of a drawing
_FOR_THE_PAGE = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<style.*?</style>", ""),  # would apply to the whole page
    (r'(<svg[^>]*?) (?:width|height)="[^"]*"' + r'([^>]*?) (?:width|height)="[^"]*"', r"\1\2"),
    (r' xmlns(?::xlink)?="[^"]*"', ""),
    (r"xlink:href", "href"),
    (r"font-family: [^;]*;", ""),
    (INK, "currentColor"),
)
_SIZE_INCHES = (4.4, 2.6)


def canvas(height: float = _SIZE_INCHES[1], width: float = _SIZE_INCHES[0]) -> tuple[Figure, Axes]:
    """An empty chart of a size in inches; text keeps its size relative to it."""
    figure = Figure(figsize=(width, height), dpi=POINTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_svg(figure: Figure, description: str, marks: str = "", *, behind: str = "") -> str:
    """The drawing as part of a page: as wide as its container, in the colour and font around it.

    Args:
        figure: made by :func:`canvas`.
        description: what it shows, for screen readers.
        marks: SVG elements laid over it, in its units: points from the upper left.
        behind: the same below it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, replacement in _FOR_THE_PAGE:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    role = "group" if marks or behind else "img"  # what is inside an image cannot be reached with the keyboard
    opened = svg.replace("<svg", f'<svg role="{role}" aria-label="{escape(description)}"', 1)
    end = opened.index(">") + 1
    return f"{opened[:end]}{behind}{opened[end:]}".replace("</svg>", f"{marks}</svg>")


def to_png(figure: Figure) -> bytes:
    """The drawing on white, black where it has the colour of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
