"""Draw a planned scene: cut-outs on a cropped photograph, with the exact visible mask and box of every object."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from raytrain_xai.data.records import Box, Content
from raytrain_xai.errors import DataError

_OPAQUE = 128  # alpha from which a pixel belongs to the object
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Placement:
    """One object of a scene; lengths are shares of the image side.

    Attributes:
        cutout: RGBA file.
        label: class of the object.
        x, y: centre.
        length: longest side of the cut-out before it is turned.
        angle: degrees, counter-clockwise.
        is_mirrored: left and right exchanged.
        brightness: factor, 1 leaves it.
    """

    cutout: Path
    label: int
    x: float
    y: float
    length: float
    angle: float
    is_mirrored: bool
    brightness: float


@dataclass(frozen=True)
class Scene:
    """A composed image.

    Attributes:
        background: photograph.
        crop: side of the square taken from it, as a share of its shorter side; its position along x and y in [0, 1].
        is_mirrored: background left and right exchanged.
        brightness: factor for the background.
        size: side of the image in pixels.
        objects: from back to front.
    """

    background: Path
    crop: tuple[float, float, float]
    is_mirrored: bool
    brightness: float
    size: int
    objects: tuple[Placement, ...]

    def load(self) -> Content:
        """Compose it; the image is a JPEG. Objects that others hide completely get no box."""
        canvas = _draw_background(self)
        owner = np.full((self.size, self.size), -1, dtype=np.int16)  # index of the object seen at each pixel
        for index, placement in enumerate(self.objects):
            _paste(canvas, owner, index, placement)
        boxes = tuple(
            _bounding_box(owner == index, placement.label)
            for index, placement in enumerate(self.objects)
            if (owner == index).any()
        )
        mask_value = np.array([p.label + 1 for p in self.objects] + [0], dtype=np.uint8)  # owner -1 picks the 0
        buffer = io.BytesIO()
        canvas.save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return Content(buffer.getvalue(), boxes, mask_value[owner])


def _draw_background(scene: Scene) -> Image.Image:
    photo = _open_photo(scene.background)
    share, x, y = scene.crop
    side = max(1, round(share * min(photo.size)))
    left, top = round(x * (photo.width - side)), round(y * (photo.height - side))
    canvas = photo.resize((scene.size, scene.size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    if scene.is_mirrored:
        canvas = ImageOps.mirror(canvas)
    return ImageEnhance.Brightness(canvas).enhance(scene.brightness)


def _paste(canvas: Image.Image, owner: np.ndarray, index: int, placement: Placement) -> None:
    """Draw one object on ``canvas`` and enter it into ``owner``; parts beyond the edge are lost."""
    cutout = _open_cutout(placement.cutout)
    scale = placement.length * canvas.width / max(cutout.size)
    width, height = (max(1, round(scale * side)) for side in cutout.size)
    # Pillow resizes and turns RGBA with premultiplied alpha: no fringe from the colour of clear pixels
    drawn = cutout.resize((width, height), Image.Resampling.LANCZOS)
    if placement.is_mirrored:
        drawn = ImageOps.mirror(drawn)
    drawn = drawn.rotate(placement.angle, Image.Resampling.BICUBIC, expand=True)
    alpha = drawn.getchannel("A")
    drawn = ImageEnhance.Brightness(drawn.convert("RGB")).enhance(placement.brightness)
    left = round(placement.x * canvas.width - drawn.width / 2)
    top = round(placement.y * canvas.height - drawn.height / 2)
    canvas.paste(drawn, (left, top), alpha)
    stamp = Image.new("L", canvas.size)
    stamp.paste(alpha, (left, top))
    owner[np.asarray(stamp) >= _OPAQUE] = index


def _bounding_box(visible: np.ndarray, label: int) -> Box:
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    return Box(label, float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


@functools.lru_cache(maxsize=64)  # a scene set draws from a few photographs; decoding them again would dominate
def _open_photo(path: Path) -> Image.Image:
    return _open(path, "RGB")


@functools.lru_cache(maxsize=256)
def _open_cutout(path: Path) -> Image.Image:
    return _open(path, "RGBA")


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
