"""What annotation tools export: images, and the boxes that were drawn on them.

The formats that are read (``annotation_coco``, ``annotation_voc``) do not tell an image in which somebody saw nothing
from one that nobody has looked at: either is listed without boxes, or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ExportFormat = Literal["coco", "voc"]
BoxOrigin = Literal["box", "outline", "mask", "rotated"]


@dataclass(frozen=True)
class ExportedBox:
    """A box as it was drawn.

    Attributes:
        name: class, as the tool calls it.
        x0, y0, x1, y1: pixels of the exported image, half-open.
        origin: ``box`` as drawn; the upright box around an ``outline`` (polygons), a ``mask`` or a ``rotated`` box.
    """

    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    origin: BoxOrigin = "box"


@dataclass(frozen=True)
class ExportedImage:
    """An image of an export.

    Attributes:
        names: how the export calls its file, the first that fits is meant.
        size: width and height; None where the export does not know them.
        boxes: drawn on it; none of them says nothing, see the head of this file.
        problems: what could not be read of it.
    """

    names: tuple[str, ...]
    size: tuple[int, int] | None
    boxes: tuple[ExportedBox, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Export:
    """All images of an export, and remarks for the user."""

    address: str
    format: ExportFormat
    images: tuple[ExportedImage, ...]
    notes: tuple[str, ...] = ()


def upright(box: ExportedBox, degrees: float) -> ExportedBox:
    """The smallest upright box around one that is turned about its centre; the sense of the turn does not matter."""
    if degrees % 180 == 0:
        return box
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    width, height = box.x1 - box.x0, box.y1 - box.y0
    half_width, half_height = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return ExportedBox(box.name, x - half_width, y - half_height, x + half_width, y + half_height, "rotated")
