"""The B-cos explanation as a picture: the dynamic linear map drawn in the colours it looks for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

EPS = 1e-12  # of the published code; only keeps 0 / 0 away
OPAQUE_QUANTILE = 0.995  # the strongest 0.5 % of the positions are fully opaque


def explanation_image(encoded: Tensor, weights: Tensor, *, smooth: int = 0) -> Tensor:
    """Colour and opacity of every pixel's share in a logit.

    The colour of a pixel is the direction of its weights in the six-channel code [colour, 1 - colour], the opacity
    their length relative to the strongest pixels; pixels that speak against the class are transparent.

    Args:
        encoded: (R, 6, H, W) float, network input.
        weights: (R, 6, H, W) float, dynamic linear map W(x) of the class: ``TappedPass.gradient`` at ``Input``.
        smooth: side in pixels of the window over which the opacity is averaged, odd; 0 for none. The published code
            has 15.
    Returns:
        (R, H, W, 4) float RGBA in [0, 1].
    Raises:
        ValueError: shapes differ or are not six-channel, or ``smooth`` is even or negative.
    Source: Böhle et al., TPAMI 2024 (arXiv 2306.10898), and its released code, per image there.

    Deviation: a map without any positive contribution is fully transparent here. The released code gives negative
    pixels the opacity 1e-12, so that such a map is divided by itself and comes out fully opaque.
    """
    if encoded.shape != weights.shape or encoded.ndim != 4 or encoded.shape[1] != 6:
        raise ValueError(
            f"encoded and weights must both be (R, 6, H, W), got {tuple(encoded.shape)}, {tuple(weights.shape)}"
        )
    if smooth < 0 or (smooth > 0 and smooth % 2 == 0):
        raise ValueError(f"smooth must be 0 or odd, got {smooth}")
    opacity = _opacity(encoded, weights, smooth)
    return torch.cat([_colour(weights), opacity], dim=1).permute(0, 2, 3, 1)


def _colour(weights: Tensor) -> Tensor:
    """(R, 6, H, W) -> (R, 3, H, W): share of each colour against its inverse, among the positive weights."""
    direction = (weights / (weights.abs().amax(dim=1, keepdim=True) + EPS)).clamp(min=0)
    colour, inverse = direction.chunk(2, dim=1)
    return colour / (colour + inverse + EPS)


def _opacity(encoded: Tensor, weights: Tensor, smooth: int) -> Tensor:
    """(R, 1, H, W) in [0, 1]."""
    contribution = (encoded * weights).sum(dim=1, keepdim=True)
    strength = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
    strength = torch.where(contribution < 0, 0.0, strength)
    if smooth:
        strength = avg_pool2d(strength, smooth, stride=1, padding=smooth // 2)
    full = _quantile(strength.flatten(1), OPAQUE_QUANTILE).view(-1, 1, 1, 1)
    return (strength / full.clamp(min=EPS)).clamp(max=1)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Quantile of every row with linear interpolation, (R, N) -> (R,); torch.quantile refuses more than 16M values."""
    position = q * (values.shape[1] - 1)
    below = int(position)
    # Only the largest few values matter: those from ``below`` upwards.
    top = values.topk(values.shape[1] - below, dim=1).values
    lower = top[:, -1]
    return lower if top.shape[1] == 1 else torch.lerp(lower, top[:, -2], position - below)
