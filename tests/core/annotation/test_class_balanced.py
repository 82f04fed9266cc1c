"""Turns among classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raytrain_xai.annotation.class_balanced import class_balanced
from raytrain_xai.data.dataset import Annotations


def labelled(*labels: list[int]) -> Annotations:
    lengths = [len(own) for own in labels]
    none = np.zeros(0, dtype=np.int64)
    return Annotations(
        ids=pa.chunked_array([[str(row) for row in range(len(labels))]]),
        size=np.ones((len(labels), 2), dtype=np.int32),
        groups=np.full(len(labels), -1),
        label_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.array([label for own in labels for label in own], dtype=np.int64),
        box_offsets=np.zeros(len(labels) + 1, dtype=np.int64),
        box_labels=none,
        boxes=np.zeros((0, 4), dtype=np.float32),
    )


IMAGES = labelled([0], [0], [0], [1], [0, 1], [2], [])
COVERED_NONE = np.zeros(0, dtype=np.int64)


def test_by_hand() -> None:
    """0, 3 and 5 give each class one; 0 takes its turn with image 1, class 1 with image 4, which shows both; then
    classes 2 and 1 are used up and class 0 has the rest. The image without a label is last.
    """
    assert class_balanced(IMAGES, 3, np.arange(7), COVERED_NONE).tolist() == [0, 3, 5, 1, 4, 2, 6]


def test_the_order_decides_within_a_class() -> None:
    assert class_balanced(IMAGES, 3, np.arange(7)[::-1], COVERED_NONE).tolist()[:3] == [4, 5, 2]


def test_annotated_images_count_and_are_left_out() -> None:
    """Class 1 has one already."""
    assert class_balanced(IMAGES, 3, np.arange(7), np.array([3])).tolist() == [0, 5, 1, 4, 2, 6]


def test_rare_classes_are_as_frequent_as_common_ones() -> None:
    """100 images of class 0, 10 of class 1: among the first 20 there are 10 of each."""
    images = labelled(*[[0]] * 100, *[[1]] * 10)
    order = np.random.default_rng(0).permutation(110)
    rows = class_balanced(images, 2, order, COVERED_NONE)
    assert (rows[:20] >= 100).sum() == 10
    assert sorted(rows.tolist()) == list(range(110))
