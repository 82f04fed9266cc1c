"""What the annotations of an image say is in it, ready to be put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import ConfigError


@dataclass(frozen=True)
class Thing:
    """A category of an image.

    Attributes:
        name: singular.
        count: objects of it, 1 or more.
        area: of their boxes, as a share of the areas of all boxes of the image, in (0, 1].
    """

    name: str
    count: int
    area: float


Scene = tuple[Thing, ...]
"""Things of an image, the largest area first."""


def category_names(classes: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Names to use in sentences for the classes of a data set, in their order.

    Raises:
        ConfigError: ``renamed`` has a class that the data set has not.
    """
    unknown = sorted(renamed.keys() - set(classes))
    if unknown:
        raise ConfigError(f"names has {', '.join(unknown)}; the classes of the data set are {', '.join(classes)}")
    return tuple(renamed.get(name, name) for name in classes)


def read_scenes(stored: StoredSplit, names: tuple[str, ...]) -> list[Scene]:
    """The scene of every image of a split that has a label, in the order of rows.

    Boxes count objects and give areas; a class without a box (labels of images only) counts as one object, and where
    an image has no box at all its classes share the area equally.
    """
    notes = stored.annotations
    scenes: list[Scene] = []
    for row in range(len(stored)):
        labels = notes.labels[notes.label_offsets[row] : notes.label_offsets[row + 1]]
        own = slice(notes.box_offsets[row], notes.box_offsets[row + 1])
        if len(labels):
            scenes.append(_scene(labels, notes.box_labels[own], notes.boxes[own], names))
    return scenes


def _scene(labels: np.ndarray, box_labels: np.ndarray, boxes: np.ndarray, names: tuple[str, ...]) -> Scene:
    counts = np.bincount(box_labels, minlength=len(names))
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.bincount(box_labels, weights=sizes, minlength=len(names))
    smallest = areas[areas > 0].min(initial=1.0)  # of a class that has no box: it is not what the image is about
    present = sorted(set(labels.tolist()))
    weights = {label: float(areas[label]) or float(smallest) for label in present}
    total = sum(weights.values())
    things = [Thing(names[label], max(int(counts[label]), 1), weights[label] / total) for label in present]
    return tuple(sorted(things, key=lambda thing: (-thing.area, thing.name)))
