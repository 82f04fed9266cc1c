"""Look at a stored data set: counts, box statistics, and a contact sheet with the boxes drawn."""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from raytrain_xai.data.dataset import DatasetInfo, StoredSplit, open_dataset
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.manifest import Manifest, read_manifest
from raytrain_xai.storage import locate

_TILE = 192  # pixels
_COLUMNS = 6


@dataclass(frozen=True)
class SplitStatistics:
    """Numbers of one split.

    Attributes:
        images, boxes, masks: how many.
        images_per_class, boxes_per_class: by class index.
        images_per_group: by group index; empty without groups.
        boxes_per_image: mean.
        box_share: 5 %, 50 % and 95 % quantile of the share of its image that a box covers; zeros without boxes.
        image_size: median width and height, pixels.
    """

    images: int
    boxes: int
    masks: int
    images_per_class: tuple[int, ...]
    boxes_per_class: tuple[int, ...]
    images_per_group: tuple[int, ...]
    boxes_per_image: float
    box_share: tuple[float, float, float]
    image_size: tuple[int, int]


@dataclass(frozen=True)
class DatasetReport:
    """What ``data info`` shows."""

    info: DatasetInfo
    manifest: Manifest
    splits: dict[str, SplitStatistics]


def inspect_dataset(path: str) -> DatasetReport:
    """Read the annotations (not the images) of all splits and count.

    Raises:
        DataError: no such data set, or a file is damaged.
    """
    info = open_dataset(path)
    splits = {split: _count(StoredSplit(path, split)) for split in info.splits}
    return DatasetReport(info, read_manifest(locate(path)), splits)


def contact_sheet(path: str, split: str, count: int, seed: int = 0) -> bytes:
    """PNG of ``count`` images of a split, drawn at random by the seed, with boxes and class names.

    Raises:
        DataError: no such data set or split, or a stored image is damaged.
    """
    stored = StoredSplit(path, split)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(stored))[:count])
    num_rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, num_rows * _TILE), "white")
    for place, index in enumerate(chosen):
        row, column = divmod(place, _COLUMNS)
        sheet.paste(_tile(stored, int(index)), (column * _TILE, row * _TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _count(stored: StoredSplit) -> SplitStatistics:
    info, notes = stored.info, stored.annotations
    num_classes = len(info.classes)
    owner = np.repeat(np.arange(len(stored)), np.diff(notes.box_offsets))  # image of each box
    sides = notes.boxes[:, 2:] - notes.boxes[:, :2]
    shares = sides.prod(axis=1) / notes.size[owner].prod(axis=1)
    quantiles = np.quantile(shares, (0.05, 0.5, 0.95)) if len(shares) else np.zeros(3)
    groups = np.bincount(notes.groups[notes.groups >= 0], minlength=len(info.groups or ()))
    width, height = np.median(notes.size, axis=0)
    return SplitStatistics(
        images=len(stored),
        boxes=len(shares),
        masks=sum(shard.masks for shard in stored.shards),
        images_per_class=tuple(np.bincount(notes.labels, minlength=num_classes).tolist()),
        boxes_per_class=tuple(np.bincount(notes.box_labels, minlength=num_classes).tolist()),
        images_per_group=tuple(groups.tolist()),
        boxes_per_image=len(shares) / len(stored),
        box_share=(float(quantiles[0]), float(quantiles[1]), float(quantiles[2])),
        image_size=(int(width), int(height)),
    )


def _tile(stored: StoredSplit, index: int) -> Image.Image:
    """One image scaled into a square, boxes in the colour of their class, names of its labels below."""
    notes, classes = stored.annotations, stored.info.classes
    picture = Image.fromarray(decode_rgb(stored.encoded(index)[0]))
    scale = (_TILE - 4) / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    draw = ImageDraw.Draw(picture)
    for k in range(notes.box_offsets[index], notes.box_offsets[index + 1]):
        x0, y0, x1, y1 = (float(corner) * scale for corner in notes.boxes[k])
        colour = _colour(int(notes.box_labels[k]), len(classes))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
    names = ", ".join(classes[k] for k in notes.labels[notes.label_offsets[index] : notes.label_offsets[index + 1]])
    text_box = draw.textbbox((2, 2), names)
    draw.rectangle((0, 0, text_box[2] + 2, text_box[3] + 2), fill="black")
    draw.text((2, 2), names, fill="white")
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    tile.paste(picture, (2, 2))
    return tile


def _colour(label: int, num_classes: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label / num_classes, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
