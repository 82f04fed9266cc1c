"""Pixel counts against numbers by hand, a loop over classes, and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from raytrain_xai.errors import DataError
from raytrain_xai.insight.segmentation_score import PixelCounts


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 4, (3, 9, 7), generator=generator)
    found = torch.where(torch.rand(3, 9, 7, generator=generator) < 0.6, masks, masks.flip(1))
    masks[torch.rand(3, 9, 7, generator=generator) < 0.1] = 255
    return found, masks.to(torch.uint8)


def test_by_hand() -> None:
    """Six pixels: background found as class 2; class 1 found, missed; class 2 found; void; background found."""
    counts = PixelCounts.empty(2, 2)
    masks = torch.tensor([[[0, 1, 1, 2, 255, 0]]], dtype=torch.uint8)
    counts.add(torch.tensor([[[2, 1, 0, 2, 1, 0]]]), masks)
    assert counts.iou(with_background=True).tolist() == [1 / 3, 1 / 2, 1 / 2]
    assert counts.iou(with_background=False).tolist() == [1 / 2, 1]  # the wrong class 2 lies on background
    assert counts.accuracy(with_background=True) == 3 / 5
    assert counts.accuracy(with_background=False) == 2 / 3


def test_equals_torchmetrics() -> None:
    found, masks = drawn()
    counts = PixelCounts.empty(3, 3)
    counts.add(found, masks)
    expected = multiclass_jaccard_index(found, masks.long(), num_classes=4, average="none", ignore_index=255)
    torch.testing.assert_close(counts.iou(with_background=True).float(), expected)


def test_parts_merge_to_the_whole() -> None:
    found, masks = drawn()
    whole, first, second = (PixelCounts.empty(3, 3) for _ in range(3))
    whole.add(found, masks)
    first.add(found[:1], masks[:1])
    second.add(found[1:], masks[1:])
    first.merge(second)
    assert torch.equal(first.counts, whole.counts)


def test_other_texts_only_take_pixels_away() -> None:
    """Class 1 has four pixels, of which one is found as a text that is no class of the data."""
    counts = PixelCounts.empty(1, 3)
    counts.add(torch.tensor([[[1, 1, 1, 3]]]), torch.ones(1, 1, 4, dtype=torch.uint8))
    assert counts.iou(with_background=False).tolist() == [3 / 4]
    assert counts.accuracy(with_background=False) == 3 / 4


def test_a_class_that_is_nowhere_has_no_score() -> None:
    counts = PixelCounts.empty(2, 2)
    counts.add(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert counts.iou(with_background=True)[0] == 1
    assert counts.iou(with_background=True)[1:].isnan().all()


def test_unknown_classes_are_refused() -> None:
    with pytest.raises(DataError, match="differ in size"):
        PixelCounts.empty(2, 2).add(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 3, dtype=torch.uint8))
    for found, mask in ((0, 3), (3, 0), (3, 255)):
        with pytest.raises(DataError, match="at most 2 and 2"):
            PixelCounts.empty(2, 2).add(torch.full((1, 1, 1), found), torch.full((1, 1, 1), mask, dtype=torch.uint8))
