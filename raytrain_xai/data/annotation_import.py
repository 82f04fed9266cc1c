"""Boxes that people drew in an annotation tool, put into a stored data set.

The images that have boxes in the export get these boxes in place of theirs; everything else is carried over bit for
bit. An image that is listed without boxes keeps its own: the formats do not tell whether somebody looked at it.
"""

from __future__ import annotations

import difflib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from PIL import Image

from raytrain_xai.data.annotation_order import Order
from raytrain_xai.data.annotation_records import Export, ExportedBox, ExportedImage
from raytrain_xai.data.boxes import drawn_order
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit, open_dataset
from raytrain_xai.data.exported_names import ImageFinder
from raytrain_xai.data.manifest import BadRecord, Manifest, read_manifest
from raytrain_xai.data.parquet import with_boxes
from raytrain_xai.data.prepare import MIN_SIDE, Progress, check_box
from raytrain_xai.data.records import Box
from raytrain_xai.data.rewrite import StoredShard, rewrite, shards_of
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.storage import locate

_ORIENTATION = 0x0112  # EXIF tag
_SEED = 0  # of the order among annotated images, all of which count the same
_BECAME = {
    "outline": "outlines became the boxes around them",
    "mask": "masks became the boxes around them",
    "rotated": "turned boxes became the upright boxes around them",
}


@dataclass(frozen=True)
class NewBoxes:
    """What an export says of a data set.

    Attributes:
        boxes: id -> boxes, of all images with boxes, in the order of the data set.
        splits: id -> split, of the same images.
        labels: id -> sorted class indices, of those images that have one class more now.
        bad_records: images whose annotation cannot be used.
        notes: remarks for the user.
    """

    boxes: Mapping[str, tuple[Box, ...]]
    splits: Mapping[str, str]
    labels: Mapping[str, tuple[int, ...]]
    bad_records: tuple[BadRecord, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where an image lies in its data set."""

    stored: StoredSplit
    split: str
    row: int

    @property
    def labels(self) -> set[int]:
        notes = self.stored.annotations
        return set(notes.labels[notes.label_offsets[self.row] : notes.label_offsets[self.row + 1]].tolist())


def match_export(dataset: str, export: Export, names: Mapping[str, str] | None = None) -> NewBoxes:
    """Find the images and classes of a data set that an export means, and check its boxes.

    In a multilabel data set a class of which somebody drew a box is added to the labels of the image; in a multiclass
    one such a box is refused.

    Args:
        dataset: address of a stored data set.
        export: read by :func:`raytrain_xai.data.annotation_export.read_export`.
        names: class of the tool -> class of the data set, where they differ.
    Raises:
        ConfigError: ``names`` names an unknown class.
        DataError: the data set cannot be read, or no image of it has usable boxes in the export.
    """
    info = open_dataset(dataset)
    label_of = _label_of(info, export, names or {})
    places = {
        id: _Place(stored, split, row)
        for split, stored in ((split, StoredSplit(dataset, split)) for split in info.splits)
        for row, id in enumerate(stored.annotations.ids.to_pylist())
    }
    found, bad = _find(export, places)
    boxes: dict[str, tuple[Box, ...]] = {}
    origins: Counter[str] = Counter()
    for id, image in found:
        try:
            drawn = _checked(image, places[id], info, label_of)
            if boxes.setdefault(id, drawn) != drawn:
                raise DataError(f"{id} is in the export more than once, with different boxes; keep one of them")
        except DataError as error:
            bad.append(BadRecord("export", image.names[0], str(error)))
            continue
        origins.update(box.origin for box in image.boxes)
    if not boxes:
        raise DataError(f"no image of {dataset} has usable boxes in {export.address}: {_first(bad)}")
    labels = {id: places[id].labels | {box.label for box in drawn} for id, drawn in boxes.items()}
    more = {id: tuple(sorted(new)) for id, new in labels.items() if new != places[id].labels}
    return NewBoxes(
        boxes=boxes,
        splits={id: places[id].split for id in boxes},
        labels=more,
        bad_records=tuple(bad),
        notes=(*export.notes, *_notes(export, origins, len(more))),
    )


def import_annotations(
    dataset: str, new: NewBoxes, dest: str, *, origin: str, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Write the data set with the new boxes.

    Args:
        dataset: address of a stored data set; it is not changed.
        new: of :func:`match_export`.
        dest: where the new data set is written.
        origin: kept among its options, as what the boxes come from.
        overwrite: replace a finished data set at ``dest``.
        progress: called after each shard.
    Raises:
        DataError: ``dest`` is the data set itself or holds something else, or a shard is damaged.
    """
    at = locate(dataset)
    manifest = read_manifest(at)
    earlier = manifest.options.get("annotations")
    described = replace(
        manifest,
        options={**manifest.options, "annotations": origin if earlier is None else f"{earlier}; {origin}"},
        bad_records=(*manifest.bad_records, *new.bad_records),
    )

    def edit(_shard: StoredShard, table: pa.Table) -> pa.Table:
        rows = {id: row for row, id in enumerate(table["id"].to_pylist()) if id in new.boxes}
        if not rows:
            return table
        labels = {row: new.labels[id] for id, row in rows.items() if id in new.labels}
        return with_boxes(table, {row: new.boxes[id] for id, row in rows.items()}, labels)

    return rewrite(shards_of(at, manifest), locate(dest), described, edit=edit, overwrite=overwrite, progress=progress)


def annotated_order(dataset: str, new: NewBoxes) -> Order:
    """The training images that were annotated, as a file for ``guidance.annotation_order`` of runs on the data set.

    Args:
        dataset: the data set that the runs use, with the boxes in it.
        new: of :func:`match_export` with the same data set.
    Returns:
        The images in the order in which chance would draw them, so that a smaller budget is a fair sample of them.
    Raises:
        DataError: none of the images is in train.
    """
    stored = StoredSplit(dataset, "train")
    known = stored.annotations.ids.to_pylist()
    chosen = [known[row] for row in drawn_order(len(known), _SEED)]
    ids = tuple(id for id in chosen if new.splits.get(id) == "train")
    if not ids:
        raise DataError(f"no training image of {dataset} has boxes in the export; guidance uses those of train")
    return Order("annotated", _SEED, run="", checkpoint=None, data=stored.info.fingerprint, ids=ids)


def _label_of(info: DatasetInfo, export: Export, names: Mapping[str, str]) -> Callable[[str], int]:
    """Function from the name of a class in the tool to its index."""
    used = {box.name for image in export.images for box in image.boxes}
    for name, target in names.items():
        if target not in info.classes:
            raise ConfigError(f"--map {name}={target}: no class {target!r}{_near(target, info.classes)}")
        if name not in used:
            raise ConfigError(f"--map {name}={target}: no box in the export is called {name!r}{_near(name, used)}")

    def label_of(name: str) -> int:
        target = names.get(name, name)
        if target not in info.classes:
            raise DataError(f"unknown class {name!r}{_near(name, info.classes)}; --map {name}=CLASS tells what it is")
        return info.classes.index(target)

    return label_of


def _find(export: Export, places: Mapping[str, _Place]) -> tuple[list[tuple[str, ExportedImage]], list[BadRecord]]:
    """The images that the export says anything of, in stored order (read fastest so); and those it does not know."""
    finder = ImageFinder(places)
    number = {id: k for k, id in enumerate(places)}
    found: list[tuple[str, ExportedImage]] = []
    bad: list[BadRecord] = []
    for image in export.images:
        if image.boxes or image.problems:
            try:
                found.append((finder.find(image.names), image))
            except DataError as error:
                bad.append(BadRecord("export", image.names[0], str(error)))
    return sorted(found, key=lambda pair: number[pair[0]]), bad


def _near(name: str, choices: Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(choices), n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f"; there are {', '.join(sorted(choices)[:20])}" if choices else ""


def _checked(image: ExportedImage, place: _Place, info: DatasetInfo, label_of: Callable[[str], int]) -> tuple[Box, ...]:
    """
    Raises:
        DataError: with everything that is wrong with the image.
    """
    size: tuple[int, int] = tuple(place.stored.annotations.size[place.row].tolist())
    problems = [*image.problems, *_frame_problems(image, place, size)]
    boxes: list[Box] = []
    for box in image.boxes:
        try:
            label = label_of(box.name)
            if info.task == "multiclass" and label not in place.labels:
                shown = ", ".join(info.classes[known] for known in sorted(place.labels))
                raise DataError(f"box of {info.classes[label]} in an image whose one class is {shown}")
            boxes.append(_fitted(box, label, size))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("; ".join(dict.fromkeys(problems)))
    return tuple(boxes)


def _frame_problems(image: ExportedImage, place: _Place, size: tuple[int, int]) -> list[str]:
    """Why boxes drawn on the exported image would not fit the stored one."""
    if image.size is not None and image.size != size:
        shapes = [f"{width} x {height}" for width, height in (image.size, size)]
        return [f"drawn on an image of {shapes[0]} pixels, the stored one has {shapes[1]}"]
    with Image.open(io.BytesIO(place.stored.encoded(place.row)[0])) as file:
        orientation = file.getexif().get(_ORIENTATION, 1)
    # `annotate suggest` writes a turned file as a PNG that every program shows as training sees it
    if orientation != 1 and not any(name.lower().endswith(".png") for name in image.names):
        return [
            f"its file is turned (EXIF orientation {orientation}), which tools undo and training does not; draw on the "
            "PNG that `annotate suggest` writes of it"
        ]
    return []


def _fitted(box: ExportedBox, label: int, size: tuple[int, int]) -> Box:
    """The box with its corners inside the image.

    Raises:
        DataError: empty, inverted or outside.
    """
    corners = np.array([box.x0, box.y0, box.x1, box.y1])
    if box.origin == "rotated":  # the turned box may lie inside while the upright one around it does not
        corners = corners.clip(0, [*size, *size])
    checked = check_box(Box(label, *corners.tolist()), *size)
    if checked.x1 - checked.x0 < MIN_SIDE or checked.y1 - checked.y0 < MIN_SIDE:
        raise DataError(f"box of {box.name} is thinner than a pixel")
    return checked


def _notes(export: Export, origins: Counter[str], num_relabelled: int) -> list[str]:
    notes = [f"{origins[origin]} {text}" for origin, text in _BECAME.items() if origins[origin]]
    num_empty = sum(not image.boxes and not image.problems for image in export.images)
    if num_empty:
        notes.append(f"{num_empty} images without boxes in the export are left as they are: nobody may have seen them")
    if num_relabelled:
        notes.append(f"{num_relabelled} images have a class more now: somebody drew a box of it")
    return notes


def _first(bad: Sequence[BadRecord]) -> str:
    return f"{len(bad)} cannot be used, the first is {bad[0].file}: {bad[0].reason}" if bad else "it has no boxes"
