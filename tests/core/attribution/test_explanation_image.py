"""The RGBA explanation against the per-image code of the `bcos` package and by hand."""

from __future__ import annotations

import pytest
import torch
from bcos.common import gradient_to_image
from torch import Tensor

from raytrain_xai.attribution.explanation_image import _quantile, explanation_image


def encoded_and_weights(batch: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, side, side, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, 6, side, side, generator=generator, dtype=torch.float64)
    return torch.cat([x, 1 - x], 1), weights


@pytest.mark.parametrize("smooth", [0, 3, 15])
def test_equals_the_package_image_by_image(smooth: int) -> None:
    encoded, weights = encoded_and_weights(3, 40)
    found = explanation_image(encoded, weights, smooth=smooth)
    for image, x, w in zip(found, encoded, weights, strict=True):
        expected = torch.from_numpy(gradient_to_image(x, w, smooth=smooth))
        torch.testing.assert_close(image, expected, rtol=1e-9, atol=1e-10)


def test_colours_and_opacity_by_hand() -> None:
    encoded = torch.full((1, 6, 1, 4), 0.5)
    weights = torch.zeros(1, 6, 1, 4)
    weights[0, 0, 0, 0] = 2.0  # red only
    weights[0, 5, 0, 1] = 1.0  # the inverse of blue only: no colour gets a share
    weights[0, :, 0, 2] = torch.tensor([3.0, 1.0, 0.0, 1.0, 1.0, 0.0])  # red 3 : 1, green 1 : 1
    weights[0, :, 0, 3] = torch.tensor([1.0, 0.0, 0.0, -8.0, 0.0, 0.0])  # speaks against the class
    rgba = explanation_image(encoded, weights)[0, 0]
    torch.testing.assert_close(rgba[:, :3], torch.tensor([[1.0, 0, 0], [0, 0, 0], [0.75, 0.5, 0], [1, 0, 0]]))
    # lengths 2, 1, sqrt(12), transparent; quantile .995 of (0, 1, 2, 3.4641) at rank 2.985: 3.442139
    torch.testing.assert_close(rgba[:, 3], torch.tensor([2 / 3.442139, 1 / 3.442139, 1.0, 0.0]))


def test_a_map_that_only_speaks_against_the_class_is_transparent() -> None:
    encoded, weights = encoded_and_weights(2, 8)
    weights[0] = -weights[0].abs()
    rgba = explanation_image(encoded, weights)
    assert not rgba[0, ..., 3].any()
    assert rgba[1, ..., 3].max() == 1
    assert rgba.min() >= 0
    assert rgba.max() <= 1


@pytest.mark.parametrize("count", [1, 2, 199, 200, 201, 5000])
@pytest.mark.parametrize("q", [0.5, 0.995])
def test_quantile_equals_torch(count: int, q: float) -> None:
    values = torch.randn(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    torch.testing.assert_close(_quantile(values, q), torch.quantile(values, q, dim=1), rtol=1e-12, atol=1e-12)


def test_wrong_shapes_and_windows_are_refused() -> None:
    encoded, weights = encoded_and_weights(1, 4)
    with pytest.raises(ValueError, match=r"must both be \(R, 6, H, W\), got \(1, 3, 4, 4\), \(1, 3, 4, 4\)"):
        explanation_image(encoded[:, :3], weights[:, :3])
    with pytest.raises(ValueError, match="0 or odd, got 4"):
        explanation_image(encoded, weights, smooth=4)
