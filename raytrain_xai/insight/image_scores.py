"""Scores of whole images for texts, and how well they rank images: mean average precision."""

from __future__ import annotations

from torch import Tensor

from raytrain_xai.align.pooling import TEMPERATURE, attention_scores, patch_cosines
from raytrain_xai.ranking import average_precision


def image_scores(patches: Tensor, texts: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Score of each image for each text, see :func:`raytrain_xai.align.pooling.attention_scores`.

    Args:
        patches: (B, D, h, w) of an encoder, or rebuilt from concepts; any length.
        texts: (M, D) of unit length, as :func:`raytrain_xai.language.prompts.embed_terms` gives them.
    Returns:
        (B, M) in [-1, 1].
    """
    return attention_scores(patch_cosines(patches, texts), temperature)


def mean_average_precision(scores: Tensor, labels: Tensor, min_images: int = 1) -> float:
    """Mean of :func:`average_precision` over the classes with at least ``min_images`` images; NaN without any."""
    is_covered = labels.sum(dim=0) >= min_images
    return float(average_precision(scores[:, is_covered], labels[:, is_covered]).mean())
