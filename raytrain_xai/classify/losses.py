"""Classification losses: sums over images, so that parts of a batch add up whatever way its samples are spread.

All take targets in [0, 1], hard or mixed, and compute in float32 or wider.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ClassLoss = Literal["bce", "off_label_bce", "cross_entropy"]


def classification_loss(logits: Tensor, targets: Tensor, name: ClassLoss, label_smoothing: float = 0.0) -> Tensor:
    """Loss of a batch by name.

    Args:
        logits: (B, C) float.
        targets: (B, C) float in [0, 1].
        name: bce, off_label_bce or cross_entropy.
        label_smoothing: share of the targets spread over all classes, see :func:`smooth`.
    Returns:
        () sum over images, >= 0.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.to(logits.dtype)
    if label_smoothing > 0:
        targets = smooth(targets, label_smoothing)
    match name:
        case "bce":
            return bce_loss(logits, targets)
        case "off_label_bce":
            return off_label_bce_loss(logits, targets)
        case "cross_entropy":
            return cross_entropy_loss(logits, targets)


def bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of the binary cross-entropy averaged over classes; (B, C) twice -> ()."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / targets.shape[1]


def off_label_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """:func:`bce_loss` with no target below 1 / C; (B, C) twice -> ().

    A B-cos network without evidence answers with its logit bias, -log(C - 1), whose sigmoid is 1 / C: with these
    targets it is right to say so for absent classes, and need not collect evidence against them.

    Source: Böhle et al., TPAMI 2024 (B-cos v2), recipe of the published networks.
    """
    return bce_loss(logits, targets.clamp(min=1 / targets.shape[1]))


def cross_entropy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of the softmax cross-entropy; (B, C) twice -> (). Rows of the targets should sum to 1."""
    return F.cross_entropy(logits, targets, reduction="sum")


def smooth(targets: Tensor, share: float) -> Tensor:
    """(1 - share) targets + share / C; (B, C) -> same. Keeps the sum of a row that sums to 1.

    Source: Szegedy et al., CVPR 2016 (arXiv 1512.00567), section 7. Multi-hot rows are treated alike.
    """
    return targets * (1 - share) + share / targets.shape[1]
