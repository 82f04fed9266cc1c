"""Losses of the alignment, as sums, so that shares of a step on several workers add up to the step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_sums(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Direction of the bridge, learned where the bridge is sure: sum of ‖b‖ (1 - cos(v, b)), and of ‖b‖.

    Args:
        predicted: v, (B, D, h, w).
        target: b of :func:`raytrain_xai.align.bridge.bridge`, of the same shape; gets no gradient.
    Returns:
        Two () tensors; the loss is the first divided by the second, in [0, 2].
    """
    target = target.detach()
    weight = target.norm(dim=1)
    distance = 1 - F.cosine_similarity(predicted, target, dim=1)
    return (weight * distance).sum(), weight.sum()


def multilabel_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy summed over images and averaged over classes.

    Args:
        logits: (B, M).
        labels: (B, M) in {0, 1}.
    Returns:
        () >= 0.
    """
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1).sum()


def multiclass_sum(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Cross-entropy over class names, summed over images.

    Args:
        scores: (B, M) in [-1, 1].
        labels: (B, M) one-hot.
        scale: of the scores in the softmax.
    Returns:
        () >= 0.
    """
    return -(torch.log_softmax(scale * scores, dim=1) * labels).sum()
