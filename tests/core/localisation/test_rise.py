"""RISE against its formula written as a loop, and what follows from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raytrain_xai.localisation import rise as module
from raytrain_xai.localisation.grid_pointing import tile_shares
from raytrain_xai.localisation.rise import random_masks, rise


def bilinear_score(x: Tensor) -> Tensor:
    """Two classes that look at the sum of squares of the left and of the right half."""
    left, right = x.square().sum(dim=1).chunk(2, dim=2)
    return torch.stack([left.sum(dim=(1, 2)), right.sum(dim=(1, 2)).sin()], dim=1)


def test_maps_equal_the_formula() -> None:
    inputs = torch.rand(2, 3, 10, 12, dtype=torch.float64)
    targets = torch.tensor([[0, 1], [1, 0]])
    masks = random_masks(40, (10, 12), torch.Generator().manual_seed(module.SEED)).double()
    got = rise(bilinear_score, inputs, targets, num_masks=40)
    for image in range(2):
        for position, target in enumerate(targets[image].tolist()):
            scores = [float(bilinear_score((inputs[image] * mask)[None])[0, target]) for mask in masks]
            mean = sum(scores) / 40
            expected = sum((s - mean) * mask for s, mask in zip(scores, masks, strict=True)) / (40 * 0.5)
            torch.testing.assert_close(got[image, position], expected)


def test_the_batch_does_not_change_the_masks() -> None:
    """Several blocks of masks, and chunks that do not divide them."""
    inputs = torch.rand(3, 3, 9, 9, dtype=torch.float64)
    targets = torch.tensor([[0], [1], [0]])
    together = rise(bilinear_score, inputs, targets, num_masks=300)
    alone = torch.cat([rise(bilinear_score, x, t, num_masks=300) for x, t in zip(inputs.split(1), targets.split(1))])  # noqa: B905
    torch.testing.assert_close(together, alone)


def test_a_constant_score_has_no_map() -> None:
    maps = rise(lambda x: x.new_full((len(x), 1), 7.0), torch.rand(1, 3, 8, 8).double(), torch.zeros(1, 1).long())
    assert float(maps.abs().max()) < 1e-12


def test_evidence_lies_where_the_score_looks() -> None:
    def top_right(x: Tensor) -> Tensor:
        return x[:, :, :16, 16:].mean(dim=(1, 2, 3))[:, None]

    maps = rise(top_right, torch.ones(1, 3, 32, 32), torch.zeros(1, 1).long())
    shares = tile_shares(maps[0, 0], 4)
    assert shares.argmax() == 2  # column 1, row 0
    assert shares[2] > 0.6


def test_masks_are_smooth_and_half_open() -> None:
    masks = random_masks(400, (45, 30), torch.Generator().manual_seed(1))
    assert masks.shape == (400, 45, 30)
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(masks.mean(dim=0).sub(0.5).abs().max()) < 0.1  # no place is visible more often than others
    step = (masks[:, 1:] - masks[:, :-1]).abs().max()
    assert float(step) <= 1 / 6  # a cell is 7 pixels high and enlarged by 8 / 7, so a change takes 8 pixels


def test_one_mask_compares_nothing() -> None:
    with pytest.raises(ValueError, match="two or more, got 1"):
        rise(bilinear_score, torch.rand(1, 3, 8, 8), torch.zeros(1, 1).long(), num_masks=1)
