"""Features of an image averaged with an attribution map as weights.

A feature model gives a coarse map (E, h, w), an attribution has the resolution of the image (H, W). The published score
up-samples the features to the image and averages there. Bilinear up-sampling is linear in the features, so the average
is the same when the attribution is pooled with the transpose of the up-sampling instead, and nothing of the size
E x H x W is made. Features that are finer already (made dense by a learned up-sampler) are used as they are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Upsampling = Literal["bilinear", "none"]
UPSAMPLINGS: tuple[Upsampling, ...] = ("bilinear", "none")


def weighted_features(features: Tensor, maps: Tensor, rows: Tensor, upsampling: Upsampling = "bilinear") -> Tensor:
    """Mean feature vector of each map: sum of H(I) · A over the positions divided by the sum of A.

    Args:
        features: (B, E, h, w) float.
        maps: (R, H, W) float; the negative part is left out. H, W: of the image, larger or smaller than h, w.
        rows: (R,) int64, image of each map, in any order, repeats allowed.
        upsampling: of the features to H, W; ``none``: a feature vector stands for its whole cell.
    Returns:
        (R, E) in the type of the features; NaN where a map has no positive part.
    Source: E^k(I) of arXiv 2510.25512, section 4.3.
    """
    size = (features.shape[2], features.shape[3])
    weights = pool_maps(maps.clamp(min=0), size, upsampling).flatten(1).to(features.dtype)
    padded, place = _by_image(weights, rows, len(features))
    means = torch.bmm(padded, features.flatten(2).transpose(1, 2))[rows, place]
    return means / weights.sum(dim=1, keepdim=True)


def pool_maps(maps: Tensor, size: tuple[int, int], upsampling: Upsampling = "bilinear") -> Tensor:
    """Bring maps to the grid of the features.

    Where the features are coarser this is the transpose of their up-sampling and keeps the sum of a map; where they are
    finer the maps are interpolated.

    Args:
        maps: (R, H, W) float.
        size: (h, w).
        upsampling: see :func:`weighted_features`.
    Returns:
        (R, h, w).
    """
    down = sampling_matrix(maps.shape[1], size[0], upsampling).to(maps)
    across = sampling_matrix(maps.shape[2], size[1], upsampling).to(maps)
    return down.T @ maps @ across


def sampling_matrix(pixels: int, cells: int, upsampling: Upsampling) -> Tensor:
    """How the cells of a row of features share the pixels of a row of the image: (pixels, cells) float64.

    ``bilinear``: the larger side is interpolated from the smaller, corners not aligned, as
    ``torch.nn.functional.interpolate`` does. ``none``: the length that a pixel and a cell have in common.
    """
    if upsampling == "bilinear":
        coarse, fine = sorted((pixels, cells))
        units = torch.eye(coarse, dtype=torch.float64)[None]
        matrix = functional.interpolate(units, size=fine, mode="linear", align_corners=False)[0]  # (coarse, fine)
        return matrix.T if cells == coarse else matrix
    pixel = torch.arange(pixels, dtype=torch.float64)[:, None]
    width = pixels / cells
    cell = torch.arange(cells, dtype=torch.float64)[None] * width
    return (torch.minimum(pixel + 1, cell + width) - torch.maximum(pixel, cell)).clamp(min=0)


def _by_image(weights: Tensor, rows: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
    """Maps (R, P) grouped by image, (B, most maps of an image, P) with zeros behind them, and the place of each."""
    order = rows.argsort(stable=True)
    number = torch.bincount(rows, minlength=num_images)
    first = number.cumsum(0) - number
    place = torch.empty_like(rows)
    place[order] = torch.arange(len(rows), device=rows.device) - first[rows[order]]
    padded = weights.new_zeros(num_images, int(number.max()), weights.shape[1])
    padded[rows, place] = weights
    return padded, place
