"""What a reader hands to ``prepare``: a list of entries per split, each able to load its own content.

Readers parse annotations up front (fast, so that classes can be counted before anything is written); pixels are
read later, in parallel, by ``entry.recipe.load()``. No torch here: preparing processes start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from raytrain_xai.data.decode import read_mask
from raytrain_xai.errors import DataError

Task = Literal["multilabel", "multiclass"]
Option = str | int | float | bool | None
SPLITS = ("train", "val", "test")
VOID = 255  # mask value of pixels that belong to no known class and are not background


@dataclass(frozen=True)
class Box:
    """Box of one object, pixels of the stored image, half-open: covers x0 <= x < x1."""

    label: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Content:
    """One image with what is drawn on it.

    Attributes:
        image: encoded bytes as found (JPEG, PNG, WebP or BMP).
        boxes: unchecked; ``prepare`` refuses those outside the image.
        mask: (H, W) uint8, 0 background, c + 1 class c, 255 void; None when the image has none.
    """

    image: bytes
    boxes: tuple[Box, ...]
    mask: np.ndarray | None


class Recipe(Protocol):
    """How to get the content of an entry; frozen dataclasses, so that they travel and have a stable ``repr``."""

    def load(self) -> Content:
        """Read or make the content.

        Raises:
            DataError: it cannot be had; the message is the reason shown for the bad record.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """One record of a split.

    Attributes:
        id: unique within the data set.
        file: what the user should look at when the record is bad.
        labels: sorted class indices.
        recipe: how to load it; None when ``problem`` is set.
        group: sub-population, or None.
        problem: why the annotation could not be read, or None.
    """

    id: str
    file: str
    labels: tuple[int, ...]
    recipe: Recipe | None
    group: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set as a reader found it; ``options`` are kept with the stored form, ``notes`` are for the user."""

    kind: str
    task: Task
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    splits: Mapping[str, Sequence[Entry]]
    options: Mapping[str, Option]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRecipe:
    """An image file, boxes read from its annotation, and a class-index mask file when there is one."""

    image: Path
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None

    def load(self) -> Content:
        """See :class:`Recipe`."""
        mask = None if self.mask is None else read_mask(read_file(self.mask))
        return Content(read_file(self.image), self.boxes, mask)


@dataclass(frozen=True)
class Relabelled:
    """A recipe whose classes are renumbered; classes with a negative new number are dropped (void in masks)."""

    recipe: Recipe
    new_label: tuple[int, ...]

    def load(self) -> Content:
        """See :class:`Recipe`."""
        content = self.recipe.load()
        boxes = tuple(
            Box(self.new_label[b.label], b.x0, b.y0, b.x1, b.y1) for b in content.boxes if self.new_label[b.label] >= 0
        )
        mask = content.mask
        if mask is not None:
            table = np.full(256, VOID, dtype=np.uint8)
            table[0] = 0
            for old, new in enumerate(self.new_label):
                table[old + 1] = new + 1 if new >= 0 else VOID
            mask = table[mask]
        return Content(content.image, boxes, mask)


def bad_entry(record_id: str, file: Path | str, problem: str) -> Entry:
    """An entry that only reports why it cannot be used."""
    return Entry(record_id, str(file), (), None, problem=problem)


def drop_unlabelled(splits: Mapping[str, Sequence[Entry]]) -> tuple[dict[str, list[Entry]], tuple[str, ...]]:
    """Leave out images without any object, since a positive class is drawn for every image; and say how many."""
    kept = {split: [e for e in entries if e.labels or e.problem] for split, entries in splits.items()}
    num_dropped = sum(map(len, splits.values())) - sum(map(len, kept.values()))
    return kept, (f"{num_dropped} images without annotated objects left out",) if num_dropped else ()


def read_file(path: Path) -> bytes:
    """Bytes of a file.

    Raises:
        DataError: missing or unreadable; the message names the file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"missing file {path}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
