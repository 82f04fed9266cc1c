"""Attribution-weighted features against dense up-sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.weighted_features import (
    UPSAMPLINGS,
    Upsampling,
    pool_maps,
    weighted_features,
)


def by_upsampling(features: Tensor, maps: Tensor, rows: Tensor) -> Tensor:
    """The definition: features brought to the size of the map, one map after the other."""
    means: list[Tensor] = []
    for attribution, row in zip(maps.clamp(min=0), rows.tolist(), strict=True):
        dense = functional.interpolate(features[row][None], size=attribution.shape, mode="bilinear")[0]
        means.append((dense * attribution).sum(dim=(1, 2)) / attribution.sum())
    return torch.stack(means)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("size", "grid"), [((12, 12), (3, 3)), ((23, 17), (5, 4)), ((9, 8), (9, 3)), ((7, 7), (1, 1))])
def test_pooling_the_map_equals_upsampling_the_features(
    size: tuple[int, int], grid: tuple[int, int], generator: torch.Generator
) -> None:
    features = torch.randn(4, 6, *grid, generator=generator, dtype=torch.float64)
    maps = torch.randn(7, *size, generator=generator, dtype=torch.float64)
    rows = torch.tensor([2, 0, 2, 3, 2, 0, 3])
    found = weighted_features(features, maps, rows)
    torch.testing.assert_close(found, by_upsampling(features, maps, rows), rtol=1e-13, atol=1e-13)


def test_features_finer_than_the_map_take_the_interpolated_map(generator: torch.Generator) -> None:
    """Dense features of an up-sampler of the user: nothing is pooled."""
    features = torch.randn(2, 3, 11, 14, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    fine = functional.interpolate(maps[:, None], size=(11, 14), mode="bilinear")[:, 0]
    expected = (features * fine[:, None]).sum(dim=(2, 3)) / fine.sum(dim=(1, 2))[:, None]
    torch.testing.assert_close(weighted_features(features, maps, torch.arange(2)), expected)


def test_without_upsampling_a_cell_collects_its_pixels() -> None:
    """5 pixels on 2 cells: the middle pixel is shared by halves."""
    pooled = pool_maps(torch.arange(1.0, 6.0).view(1, 1, 5), (1, 2), "none")
    assert pooled.flatten().tolist() == [1 + 2 + 1.5, 1.5 + 4 + 5]
    features = torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    found = weighted_features(features, torch.arange(1.0, 6.0).view(1, 1, 5), torch.tensor([0]), "none")
    assert float(found) == pytest.approx((10 * 4.5 + 20 * 10.5) / 15)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_pooling_keeps_the_sum_of_a_map(upsampling: Upsampling, generator: torch.Generator) -> None:
    maps = torch.randn(3, 13, 10, generator=generator, dtype=torch.float64)
    pooled = pool_maps(maps, (4, 3), upsampling)
    torch.testing.assert_close(pooled.sum(dim=(1, 2)), maps.sum(dim=(1, 2)))


def test_uniform_map_gives_the_mean_and_only_the_positive_part_counts(generator: torch.Generator) -> None:
    features = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    flat = torch.ones(2, 8, 8, dtype=torch.float64)
    found = weighted_features(features, flat, torch.arange(2), "none")
    torch.testing.assert_close(found, features.mean(dim=(2, 3)))
    flat[:, :, 4:] = -5
    found = weighted_features(features, flat, torch.arange(2), "none")
    torch.testing.assert_close(found, features[..., :2].mean(dim=(2, 3)))


def test_map_without_positive_part_has_no_features() -> None:
    found = weighted_features(torch.ones(1, 2, 2, 2), -torch.ones(1, 4, 4), torch.tensor([0]))
    assert found.isnan().all()
