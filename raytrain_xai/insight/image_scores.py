"""Scores of whole images for texts, and how well they rank images: mean average precision."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.align.pooling import TEMPERATURE, attention_scores, patch_cosines


def image_scores(patches: Tensor, texts: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Score of each image for each text, see :func:`raytrain_xai.align.pooling.attention_scores`.

    Args:
        patches: (B, D, h, w) of an encoder, or rebuilt from concepts; any length.
        texts: (M, D) of unit length, as :func:`raytrain_xai.language.prompts.embed_terms` gives them.
    Returns:
        (B, M) in [-1, 1].
    """
    return attention_scores(patch_cosines(patches, texts), temperature)


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


def mean_average_precision(scores: Tensor, labels: Tensor, min_images: int = 1) -> float:
    """Mean of :func:`average_precision` over the classes with at least ``min_images`` images; NaN without any."""
    is_covered = labels.sum(dim=0) >= min_images
    return float(average_precision(scores[:, is_covered], labels[:, is_covered]).mean())
