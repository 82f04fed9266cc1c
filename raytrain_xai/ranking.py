"""How well scores rank images."""

from __future__ import annotations

import torch
from torch import Tensor


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each class: mean over its images of the precision at their rank.

    Images of equal score share a rank, the last of theirs, as in scikit-learn.

    Args:
        scores: (N, M), higher is more likely; finite.
        labels: (N, M) in {0, 1}.
    Returns:
        (M,) float64 in [0, 1]; NaN for a class without images.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    ranked, hits = scores.gather(0, order), labels.double().gather(0, order).cumsum(dim=0)
    ranks = torch.arange(1, len(scores) + 1, device=scores.device, dtype=torch.float64).unsqueeze(1)
    is_last = torch.ones_like(ranked, dtype=torch.bool)
    is_last[:-1] = ranked[:-1] != ranked[1:]
    last = torch.where(is_last, ranks, float("inf")).flip(0).cummin(dim=0).values.flip(0).long() - 1
    precision = (hits / ranks).gather(0, last)
    return (precision * labels.double().gather(0, order)).sum(dim=0) / hits[-1]
