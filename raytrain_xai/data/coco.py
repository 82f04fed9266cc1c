"""MS COCO in its own layout: ``annotations/instances_<split>[<year>].json`` beside the image folders.

Crowd regions (``iscrowd``) are one rough outline around many objects: they make the image positive for the class but
give no box, and their pixels are void in the mask. Images without any annotated object are left out and counted,
since a positive class is drawn for every image.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raytrain_xai.data.records import SPLITS, VOID, Box, Content, Entry, Source, bad_entry, drop_unlabelled, read_file
from raytrain_xai.errors import DataError

_YEARS = ("2014", "2017", "")


@dataclass(frozen=True)
class Outline:
    """Shape of one object: polygons or run lengths, in the pixels of the image."""

    label: int
    area: float
    is_crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class CocoRecipe:
    """An image file with boxes and outlines from the annotation file."""

    image: Path
    size: tuple[int, int]  # height, width, as annotated
    boxes: tuple[Box, ...]
    outlines: tuple[Outline, ...]

    def load(self) -> Content:
        """See :class:`raytrain_xai.data.records.Recipe`."""
        return Content(read_file(self.image), self.boxes, draw_outlines(self.outlines, self.size))


def read_coco(src: str) -> Source:
    """List the records of every split whose annotation file is there.

    Raises:
        DataError: no annotation file, two years in one folder, damaged JSON, or splits with different categories.
    """
    root = Path(src)
    files = _find_annotations(root)
    splits: dict[str, list[Entry]] = {}
    classes: tuple[str, ...] | None = None
    for split, (file, year) in files.items():
        index = _load_index(file)
        categories = sorted(index.loadCats(index.getCatIds()), key=lambda c: c["id"])
        names = tuple(str(c["name"]) for c in categories)
        if classes is not None and names != classes:
            raise DataError(f"{file} has other categories than the first split; use files of one release")
        classes = names
        label_of = {c["id"]: label for label, c in enumerate(categories)}
        images = _image_folder(root, split, year)
        splits[split] = [_read_entry(index, image, images, label_of) for image in index.dataset["images"]]
    assert classes is not None
    labelled, notes = drop_unlabelled(splits)
    return Source("coco", "multilabel", classes, None, labelled, options={}, notes=notes)


def draw_outlines(outlines: Sequence[Outline], size: tuple[int, int]) -> np.ndarray:
    """Class mask of an image.

    Returns:
        (H, W) uint8 as in :class:`Content`: crowds first (void), then objects from large to small, so that the
        smaller of two overlapping objects is seen.
    Raises:
        DataError: an outline that is neither polygons nor run lengths of this size.
    """
    from pycocotools import mask as runs

    mask = np.zeros(size, dtype=np.uint8)
    for outline in sorted(outlines, key=lambda o: (not o.is_crowd, -o.area)):
        shape = outline.segmentation
        try:
            if isinstance(shape, list):
                shape = runs.merge(runs.frPyObjects(shape, *size))
            elif isinstance(shape["counts"], list):
                shape = runs.frPyObjects(shape, *size)
            mask[runs.decode(shape).astype(bool)] = VOID if outline.is_crowd else outline.label + 1
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise DataError(f"unreadable segmentation: {' '.join(str(error).split())}") from error
    return mask


def _find_annotations(root: Path) -> dict[str, tuple[Path, str]]:
    folder = root / "annotations"
    found: dict[str, tuple[Path, str]] = {}
    for split in SPLITS:
        present = [(folder / f"instances_{split}{year}.json", year) for year in _YEARS]
        present = [(file, year) for file, year in present if file.is_file()]
        if len(present) > 1:
            names = " and ".join(file.name for file, _ in present)
            raise DataError(f"{folder} holds {names}; give a folder with one of them (links will do)")
        if present:
            found[split] = present[0]
    if not found:
        raise DataError(f"no annotations/instances_*.json in {root}; give the COCO root, with annotations/ and images")
    return found


def _image_folder(root: Path, split: str, year: str) -> Path:
    candidates = [root / f"{split}{year}", root / "images" / f"{split}{year}", root / "images"]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataError(f"no images of split {split} in {root}; expected one of {', '.join(str(c) for c in candidates)}")


def _load_index(file: Path) -> Any:
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            index = COCO(str(file))
        _ = index.dataset["images"], index.dataset["categories"], index.dataset["annotations"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"{file} is not a COCO instances file: {' '.join(str(error).split())}") from error
    return index


def _read_entry(index: Any, image: Mapping[str, Any], folder: Path, label_of: Mapping[int, int]) -> Entry:
    record_id = str(image["id"])
    file = folder / str(image["file_name"])
    annotations = index.imgToAnns.get(image["id"], [])
    boxes: list[Box] = []
    outlines: list[Outline] = []
    for annotation in annotations:
        label = label_of.get(annotation["category_id"])
        if label is None:
            return bad_entry(record_id, file, f"unknown category id {annotation['category_id']}")
        is_crowd = bool(annotation.get("iscrowd", 0))
        outlines.append(Outline(label, float(annotation["area"]), is_crowd, annotation["segmentation"]))
        if not is_crowd:
            x, y, width, height = (float(v) for v in annotation["bbox"])
            boxes.append(Box(label, x, y, x + width, y + height))
    labels = tuple(sorted({o.label for o in outlines}))
    recipe = CocoRecipe(file, (int(image["height"]), int(image["width"])), tuple(boxes), tuple(outlines))
    return Entry(record_id, str(file), labels, recipe)
