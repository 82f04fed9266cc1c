"""Annotations exported as COCO: by CVAT (``annotations/instances_*.json``) or Label Studio (``result.json``).

Boxes are x, y, width, height in pixels from the corner of the image. CVAT gives the box of a turned rectangle as it was
before the turn, with the angle beside it, and marks every mask as a crowd; Label Studio gives upright boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raytrain_xai.data.annotation_records import Export, ExportedBox, ExportedImage, upright
from raytrain_xai.errors import DataError

_PARTS = ("images", "categories", "annotations")


def parse_coco(address: str, files: Mapping[str, bytes]) -> Export:
    """Images of all files together.

    Args:
        address: of the export, for messages.
        files: name -> content.
    Raises:
        DataError: a file is not a COCO instances file.
    """
    images = [image for name, data in files.items() for image in _parse_file(f"{address}: {name}", data)]
    return Export(address, "coco", tuple(images))


def _parse_file(name: str, data: bytes) -> list[ExportedImage]:
    raw = _load(name, data)
    try:
        classes = {category["id"]: str(category["name"]).strip() for category in raw["categories"]}
        records = {image["id"]: image for image in raw["images"]}
        names = {number: (str(image["file_name"]),) for number, image in records.items()}
        owners = [annotation["image_id"] for annotation in raw["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{name} is not a COCO instances file: {error!r} in its list; export it again") from error
    stray = sorted({str(owner) for owner in owners if owner not in records})
    if stray:
        raise DataError(f"{name} has annotations of images that it does not list: {', '.join(stray[:5])}")
    boxes: dict[Any, list[ExportedBox]] = {number: [] for number in records}
    problems: dict[Any, list[str]] = {number: [] for number in records}
    for owner, annotation in zip(owners, raw["annotations"], strict=True):
        try:
            boxes[owner].append(_read_box(annotation, classes))
        except DataError as error:
            problems[owner].append(str(error))
    return [
        ExportedImage(names[number], _size(record), tuple(boxes[number]), tuple(problems[number]))
        for number, record in records.items()
    ]


def _load(name: str, data: bytes) -> dict[str, Any]:
    try:
        raw: Any = json.loads(data)
    except ValueError as error:  # also text that is not UTF-8
        raise DataError(f"{name} is not JSON: {error}; export it again") from error
    if isinstance(raw, list):
        raise DataError(f"{name} is a list, as of Label Studio's own export; export it as COCO or Pascal VOC")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(part), list) for part in _PARTS):
        raise DataError(f"{name} is not a COCO instances file, which has the lists {', '.join(_PARTS)}")
    return raw


def _size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Label Studio writes null and CVAT 0 where they have not seen the image."""
    width, height = record.get("width"), record.get("height")
    return (int(width), int(height)) if width and height else None


def _read_box(annotation: Mapping[str, Any], classes: Mapping[Any, str]) -> ExportedBox:
    """
    Raises:
        DataError: unknown category, or no box.
    """
    category = annotation.get("category_id")
    if category not in classes:
        raise DataError(f"annotation {annotation.get('id')} has category {category}, which is not listed")
    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
        degrees = float((annotation.get("attributes") or {}).get("rotation", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"annotation {annotation.get('id')} has no box of four numbers ({error!r})") from error
    shape = annotation.get("segmentation")
    origin = "mask" if isinstance(shape, dict) else "outline" if shape else "box"
    box = ExportedBox(classes[category], x, y, x + width, y + height, origin)
    return upright(box, degrees) if origin == "box" else box
