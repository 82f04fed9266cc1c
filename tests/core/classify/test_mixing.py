"""Mixing against per-pair loops; the Beta distribution against torch's; nothing depends on the spread of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raytrain_xai.classify.mixing import mix_pairs, symmetric_beta
from raytrain_xai.draws import uniform

SIZE = (24, 20)


def make(num_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Constant images, so that a pixel tells where it came from; one class each."""
    images = torch.arange(1.0, num_images + 1)[:, None, None, None].expand(-1, 3, *SIZE).contiguous()
    return images, torch.eye(num_images), torch.arange(num_images) * 7 + 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_symmetric_beta(alpha: float) -> None:
    """Kolmogorov-Smirnov distance to torch's samples, and mean and variance by formula."""
    index = torch.arange(20000)
    drawn = symmetric_beta(alpha, *(uniform(index, stream) for stream in range(4)))
    torch.manual_seed(0)
    reference = torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha)).sample((20000,)).double()
    grid = torch.linspace(0, 1, 501, dtype=torch.float64)
    distance = [torch.searchsorted(values.sort().values, grid, right=True) / 20000 for values in (drawn, reference)]
    assert (distance[0] - distance[1]).abs().max() < 1.95 * math.sqrt(2 / 20000)  # 1 in 1000
    variance = 1 / (4 * (2 * alpha + 1))
    assert drawn.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 20000))
    assert drawn.var().item() == pytest.approx(variance, rel=0.05)


def test_beta_survives_the_corners() -> None:
    corner = torch.tensor([0.0, 1 - 2.0**-32], dtype=torch.float64)
    combinations = torch.cartesian_prod(corner, corner, corner, corner).T
    for alpha in (0.01, 0.2, 1.0):
        drawn = symmetric_beta(alpha, *combinations)
        assert drawn.isfinite().all() and drawn.min() >= 0 and drawn.max() <= 1


def test_mix_up_blends_each_pair_and_its_labels() -> None:
    images, labels, index = make(8)
    mixed, soft = mix_pairs(images, labels, index, mixup_alpha=0.5, cutmix_alpha=0.0, seed=1, step=5)
    for first in range(0, 8, 2):
        share = soft[first, first].item()
        assert 0 <= share <= 1 and soft[first, first + 1].item() == pytest.approx(1 - share, abs=1e-6)
        assert soft[first + 1, first + 1].item() == pytest.approx(share, abs=1e-6)
        blend = share * (first + 1) + (1 - share) * (first + 2)
        torch.testing.assert_close(mixed[first], torch.full((3, *SIZE), blend))
    assert soft.sum(dim=1).sub(1).abs().max() < 1e-6
    assert len({round(soft[i, i].item(), 4) for i in range(0, 8, 2)}) == 4, "each pair draws for itself"


def test_cut_mix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    images, labels, index = make(40)
    mixed, soft = mix_pairs(images, labels, index, mixup_alpha=0.0, cutmix_alpha=1.0, seed=0, step=0)
    shares = []
    for row in range(40):
        partner = row ^ 1
        pasted = mixed[row, 0] == partner + 1
        assert (pasted | (mixed[row, 0] == row + 1)).all(), "a pixel is one or the other"
        assert soft[row, row].item() == pytest.approx(1 - pasted.double().mean().item(), abs=1e-6)
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows[:, None] & columns), "a rectangle"
        assert torch.equal(pasted, mixed[partner, 0] == row + 1), "partners swap the same place"
        shares.append(soft[row, row].item())
    assert min(shares) < 0.6 and max(shares) > 0.9


def test_cut_mix_rectangles_have_the_area_that_was_drawn() -> None:
    """Uniform λ (alpha 1): a rectangle inside the image has 1 - λ of the pixels; clipping at the border loses some.

    E[kept] is 1 - E[h w] with sides s = sqrt(1 - λ) cut by a uniform centre: a side loses s²/4 of its s on average.
    """
    index = torch.arange(4000)
    images = torch.ones(4000, 1, 32, 32)
    labels = torch.eye(2)[torch.arange(4000) % 2]
    _, soft = mix_pairs(images, labels, index, mixup_alpha=0.0, cutmix_alpha=1.0, seed=0, step=0)
    kept = soft[0::2, 0].double().mean().item()
    s = torch.sqrt(torch.linspace(0, 1, 10001, dtype=torch.float64))
    expected = 1 - ((s - s * s / 4) ** 2).mean().item()
    assert kept == pytest.approx(expected, abs=0.03)  # whole pixels, and four standard errors


def test_both_ways_are_taken_about_equally_often() -> None:
    images, labels, index = make(400)
    mixed, _ = mix_pairs(images, labels, index, mixup_alpha=1.0, cutmix_alpha=1.0, seed=0, step=3)
    is_cut = torch.tensor([bool((mixed[row].unique().frac() == 0).all()) for row in range(0, 400, 2)])
    assert 70 < is_cut.sum() < 130


def test_a_pair_is_mixed_the_same_wherever_it_is_computed() -> None:
    images, labels, index = make(12)
    arguments = {"mixup_alpha": 0.3, "cutmix_alpha": 1.0, "seed": 4, "step": 9}
    whole = mix_pairs(images, labels, index, **arguments)
    for rows in ([4, 5, 0, 1], [10, 11]):
        part = mix_pairs(images[rows], labels[rows], index[rows], **arguments)
        assert torch.equal(part[0], whole[0][rows]) and torch.equal(part[1], whole[1][rows])
    for change in ({"seed": 5}, {"step": 10}):
        assert not torch.equal(mix_pairs(images, labels, index, **arguments | change)[0], whole[0])
