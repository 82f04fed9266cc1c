"""Images that cover the feature space: every image is to be near an annotated one."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 256  # annotated images whose distances to all others are held together


def k_centre(features: Tensor, count: int, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy k-centre: again and again the image that is furthest from all images chosen so far.

    The largest distance that remains is at most twice the least possible with as many images. Time O(N·D) and memory
    O(N) for each choice; there is no N x N matrix. More images are a continuation: the first n do not depend on count.

    Args:
        features: (N, D) float; distances are Euclidean.
        count: images to choose, at most N - M.
        covered: (M,) int64 rows that are annotated already, which cover others and are not chosen; without any the
            first choice is the most central image, the one nearest to the mean.
    Returns:
        (count,) int64 rows in order of choice, the first of equally distant ones, and (count,) float32, the largest
        distance of any image to its nearest covering one *after* that choice; never increasing, 0 when all are chosen.
    Source: Gonzalez 1985; as a strategy of annotation Sener and Savarese, ICLR 2018 (core-sets), who draw the first
        images at random.
    """
    centred = (features - features.mean(dim=0)).float()  # small numbers: little is lost in |a|² + |b|² - 2ab
    squared = centred.square().sum(dim=1)
    nearest = _distance_to_any(centred, squared, covered)
    chosen: list[Tensor] = []
    radius: list[Tensor] = []
    for position in range(count):
        is_first = position == 0 and covered.numel() == 0
        pick = squared.argmin() if is_first else nearest.argmax()
        distance = squared + squared[pick] - 2 * (centred @ centred[pick])
        nearest = torch.minimum(nearest, distance.clamp(min=0))
        nearest[pick] = -1.0  # below every distance: not again, also among equal images
        chosen.append(pick)
        radius.append(nearest.max())
    if not chosen:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return torch.stack(chosen), torch.stack(radius).clamp(min=0).sqrt()


def _distance_to_any(centred: Tensor, squared: Tensor, covered: Tensor) -> Tensor:
    """(N,) squared distance to the nearest of some rows, -1 at those rows; infinite without any."""
    nearest = torch.full_like(squared, torch.inf)
    for start in range(0, len(covered), _AT_ONCE):
        rows = covered[start : start + _AT_ONCE]
        distance = squared[:, None] + squared[rows] - 2 * (centred @ centred[rows].T)
        nearest = torch.minimum(nearest, distance.amin(dim=1))
    nearest.clamp_(min=0)
    nearest[covered] = -1.0
    return nearest
