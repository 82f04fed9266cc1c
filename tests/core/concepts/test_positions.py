"""Positions drawn by contribution: their distribution, their independence of the batch, and what is gathered there."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.attribution.tapped import contract_channels, tapped_pass
from raytrain_xai.concepts.positions import positions_per_image, sample_positions, sampled_vectors
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

PUBLISHED = [  # C, h·w, M of Parchami-Araghi et al.
    (512, 784, 72), (1024, 196, 36), (2048, 49, 18), (256, 196, 144), (512, 49, 49), (1024, 49, 36), (384, 196, 96)
]  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(1)
    return build_network("bcos_resnet_tiny", 4).double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(3, 3, 6, 6, generator=generator)
    return (nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize(("dim", "num_positions", "kept"), PUBLISHED)
def test_number_of_positions_is_the_published_one(dim: int, num_positions: int, kept: int) -> None:
    assert positions_per_image(dim, num_positions) == kept


def test_number_of_positions_can_be_chosen() -> None:
    assert positions_per_image(512, 49, 7) == 7
    assert positions_per_image(512, 49, 100) == 49
    assert positions_per_image(40000, 49) == 1


def test_draws_without_replacement_have_the_probabilities_of_one_draw_after_the_other() -> None:
    """Pairs out of four positions, against their exact probabilities w_a / 1 · w_b / (1 - w_a)."""
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 40000
    drawn = sample_positions(weights.repeat(n, 1) * 17, 2, seed=3, epoch=0, image=torch.arange(n))
    for a, b in permutations(range(4), 2):
        expected = float(weights[a] * weights[b] / (1 - weights[a]))
        seen = float(((drawn[:, 0] == a) & (drawn[:, 1] == b)).double().mean())
        assert abs(seen - expected) < 4.5 * (expected * (1 - expected) / n) ** 0.5, (a, b)


def test_positions_without_weight_come_last_and_with_equal_chances() -> None:
    n = 9000
    drawn = sample_positions(
        torch.tensor([[0.0, 0.0, 2.0, 0.0]]).repeat(n, 1), 2, seed=0, epoch=0, image=torch.arange(n)
    )
    assert (drawn[:, 0] == 2).all()
    share = drawn[:, 1].bincount(minlength=4) / n
    torch.testing.assert_close(share, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]), atol=0.03, rtol=0)
    nothing = sample_positions(torch.zeros(1, 5), 5, seed=0, epoch=0, image=torch.zeros(1, dtype=torch.int64))
    assert sorted(nothing[0].tolist()) == [0, 1, 2, 3, 4]


def test_a_draw_depends_on_seed_epoch_and_image_and_not_on_the_batch() -> None:
    weights, image = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)), torch.tensor([9, 2, 7, 4, 0])
    drawn = sample_positions(weights, 6, seed=1, epoch=2, image=image)
    alone = sample_positions(weights[2:3], 6, seed=1, epoch=2, image=image[2:3])
    assert torch.equal(drawn[2:3], alone)
    same = weights[:1].repeat(4, 1)
    others = [(1, 2, 9), (2, 2, 9), (1, 3, 9), (1, 2, 8)]
    draws = {
        tuple(sample_positions(same[:1], 6, seed=s, epoch=e, image=torch.tensor([i]))[0].tolist()) for s, e, i in others
    }
    assert len(draws) == 4


def test_vectors_are_those_at_positions_drawn_by_contribution(network: Network, images: Tensor) -> None:
    """Two taps in one pass, against one ordinary attribution pass for each."""
    image = torch.tensor([5, 1, 8])
    found = sampled_vectors(network, images, image, {"Final": 3, "Mid2": 7}, sampling="contribution", seed=2, epoch=0)
    assert list(found) == ["Final", "Mid2"]
    for tap, count in (("Final", 3), ("Mid2", 7)):
        tapped = tapped_pass(network, images, tap)
        predicted = tapped.logits.argmax(dim=1)
        weights = contract_channels(tapped.features, tapped.gradient(predicted)).abs().flatten(1)
        at = sample_positions(weights, count, seed=2, epoch=0, image=image)
        rows = tapped.features.flatten(2).mT
        expected = torch.stack([rows[b, at[b]] for b in range(3)])
        torch.testing.assert_close(found[tap], expected, rtol=1e-10, atol=1e-12)


def test_all_positions_are_kept_in_order(network: Network, images: Tensor) -> None:
    image = torch.arange(3)
    plain = network.features(images, "Mid2").flatten(2).mT
    for sampling in ("contribution", "uniform"):
        found = sampled_vectors(network, images, image, {"Mid2": None}, sampling=sampling, seed=0, epoch=0)
        torch.testing.assert_close(found["Mid2"], plain, rtol=1e-10, atol=1e-12)
    some = sampled_vectors(network, images, image, {"Mid2": 5}, sampling="uniform", seed=0, epoch=0)["Mid2"]
    at = sample_positions(torch.ones(plain.shape[:2]), 5, seed=0, epoch=0, image=image)
    torch.testing.assert_close(some, plain.gather(1, at[..., None].expand(-1, -1, plain.shape[2])))


def test_an_unknown_tap_is_named(network: Network, images: Tensor) -> None:
    with pytest.raises(ConfigError, match="no layer 'layer9'; .*its layers are"):
        sampled_vectors(network, images, torch.arange(3), {"layer9": 1}, sampling="contribution", seed=0, epoch=0)
