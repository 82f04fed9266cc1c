"""The grid pointing game: whose evidence lies in whose tile of a mosaic.

A mosaic of n images with n different classes is explained once for each of them; an explanation is good when its
positive part lies in the tile of the class. Unlike boxes, tiles need no annotation, and the score of a map that
knows nothing is known: 1 / n.

Source: Böhle et al., CVPR 2021 (arXiv 2104.00032) and TPAMI 2024 (arXiv 2306.10898), and their released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from raytrain_xai.errors import DataError


@dataclass(frozen=True)
class Candidates:
    """Images that may be tiles. N of them.

    Attributes:
        index: (N,) int64 row of each in its split, ascending.
        label: (N,) int64 its one class.
        logit: (N,) float, the network's logit of that class.
        is_usable: (N,) bool, classified correctly and with enough confidence.
    """

    index: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    is_usable: np.ndarray


@dataclass(frozen=True)
class Grids:
    """G mosaics of n tiles: ``images`` (G, n) int64 rows of the split, ``targets`` (G, n) int64 their classes."""

    images: np.ndarray
    targets: np.ndarray


def candidates(index: Tensor, label: Tensor, logits: Tensor, min_probability: float) -> Candidates:
    """Which images a network may be tested with.

    An image is usable when the highest logit is that of its class and the sigmoid of this logit exceeds
    ``min_probability``.

    Args:
        index: (N,) int64 rows of the split.
        label: (N,) int64, the only class of each image.
        logits: (N, C) float.
        min_probability: in [0, 1); the published value is .5. Networks trained with cross-entropy have logits without
            an absolute meaning: 0 takes every correct image.
    """
    own = logits.gather(1, label[:, None]).squeeze(1)
    # float64: in float32 a large logit has the probability 1 exactly, and so may a threshold close to it
    is_usable = (logits.argmax(dim=1) == label) & (own.double().sigmoid() > min_probability)
    return Candidates(*(part.cpu().numpy() for part in (index, label, own.double(), is_usable)))


def choose_grids(found: Candidates, num_tiles: int, *, max_grids: int, seed: int) -> Grids:
    """Draw classes for each mosaic at random, and take the next most confident image of each.

    Every image is used once at most, the classes of a mosaic differ, and all of it is a function of the arguments.

    Args:
        found: the images.
        num_tiles: n, tiles of a mosaic.
        max_grids: stop after this many.
        seed: of the classes; the published protocol has 42 (and another generator, so that its draws differ).
    Raises:
        DataError: fewer than n classes have a usable image, so that there is no mosaic at all.

    Deviation: mosaics are made as long as n classes have images left. The released code stops one class earlier, so
    that a data set of n classes gives none, and it skips one image between consecutive mosaics.
    """
    classes, queues = _queues(found)
    if len(classes) < num_tiles:
        raise DataError(
            f"a mosaic needs {num_tiles} different classes, but only {len(classes)} have a single-label image that is "
            "classified correctly with enough confidence; take a smaller grid, a lower --min-probability or other data"
        )
    generator = np.random.default_rng(seed)
    images: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    next_one, sizes = np.zeros(len(classes), dtype=np.int64), np.array([len(queue) for queue in queues])
    while len(images) < max_grids:
        left = np.flatnonzero(next_one < sizes)
        if len(left) < num_tiles:
            break
        drawn = generator.choice(left, num_tiles, replace=False)
        images.append(np.array([queues[k][next_one[k]] for k in drawn]))
        targets.append(classes[drawn])
        next_one[drawn] += 1
    return Grids(np.stack(images), np.stack(targets))


def _queues(found: Candidates) -> tuple[np.ndarray, list[np.ndarray]]:
    """Classes with usable images, ascending, and the rows of each by falling logit (ties in stored order)."""
    index, label, logit = (part[found.is_usable] for part in (found.index, found.label, found.logit))
    order = np.lexsort((index, -logit, label))
    classes, first = np.unique(label[order], return_index=True)
    return classes, np.split(index[order], first[1:])


def tile(images: Tensor) -> Tensor:
    """Join tiles to mosaics, column by column: tile number a * s + b of an s x s mosaic sits in column a, row b.

    Args:
        images: (G, n, C, T, T), n = s * s.
    Returns:
        (G, C, s * T, s * T).
    Raises:
        ValueError: the tiles are not square or their number is not a square number.
    """
    num_grids, num_tiles, channels, height, width = images.shape
    side = _side(num_tiles)
    if height != width:
        raise ValueError(f"tiles must be square, got {height} x {width}")
    by_column = images.view(num_grids, side, side, channels, height, width)  # (G, column, row, C, T, T)
    return by_column.permute(0, 3, 2, 4, 1, 5).reshape(num_grids, channels, side * height, side * width)


def tile_shares(maps: Tensor, num_tiles: int, *, smooth: int = 0) -> Tensor:
    """Share of the positive attribution that lies in every tile.

    Args:
        maps: (..., H, W) float, signed, any scale; H = W divisible by the number of tiles along a side.
        num_tiles: n.
        smooth: odd side in pixels of a window over which the signed map is averaged first (zeros beyond the border);
            0 for none.
    Returns:
        (..., n) of the type of ``maps``, in the order of :func:`tile`; sums to 1, or is all 0 for a map without
        positive part.
    Raises:
        ValueError: sizes do not fit, or ``smooth`` is even or negative.
    """
    side, size = _side(num_tiles), maps.shape[-1]
    if maps.shape[-2] != size or size % side:
        raise ValueError(f"expected square maps of a side divisible by {side}, got {tuple(maps.shape[-2:])}")
    if smooth < 0 or (smooth > 0 and smooth % 2 == 0):
        raise ValueError(f"smooth must be 0 or odd, got {smooth}")
    flat = maps.reshape(-1, 1, size, size)
    if smooth:
        flat = avg_pool2d(flat, smooth, stride=1, padding=smooth // 2)
    cells = flat.clamp(min=0).view(-1, side, size // side, side, size // side)  # (R, row, T, column, T)
    mass = cells.sum(dim=(2, 4)).transpose(1, 2).reshape(-1, num_tiles)
    total = mass.sum(dim=1, keepdim=True)
    return torch.where(total > 0, mass / torch.where(total > 0, total, 1.0), 0.0).view(*maps.shape[:-2], num_tiles)


def own_tile_shares(maps: Tensor, *, smooth: int = 0) -> Tensor:
    """The score: share of each map's positive part in its own tile.

    Args:
        maps: (G, n, H, W); map k of a mosaic explains the class of tile k.
        smooth: see :func:`tile_shares`.
    Returns:
        (G, n) in [0, 1]; 0 for a map without positive part, 1 / n for a constant one.
    """
    return tile_shares(maps, maps.shape[1], smooth=smooth).diagonal(dim1=-2, dim2=-1)


def _side(num_tiles: int) -> int:
    side = round(num_tiles**0.5)
    if side * side != num_tiles:
        raise ValueError(f"a mosaic has a square number of tiles, got {num_tiles}")
    return side
