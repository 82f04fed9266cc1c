"""From patches to images, and from patches to patches that look alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 10.0
"""Inverse temperature of :func:`attention_scores`."""
THRESHOLD = 0.1
"""Cosines below it count as 0 in :func:`similarity_pool`; the best of .1, .2, ... .5 by mean IoU on VOC val."""


def patch_cosines(patches: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each patch with each text.

    Args:
        patches: (B, D, h, w), any length.
        texts: (M, D) of unit length.
    Returns:
        (B, M, h, w) in [-1, 1].
    """
    return torch.einsum("bdhw,md->bmhw", F.normalize(patches, dim=1), texts)


def attention_scores(cosines: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Score of an image for each text: its patches averaged, those that match the text above the others.

    s_m = sum over patches p of softmax_p(temperature · s_mp) · s_mp, between mean (0) and maximum (infinity).

    Args:
        cosines: (B, M, h, w).
        temperature: inverse temperature.
    Returns:
        (B, M) in [-1, 1].
    """
    flat = cosines.flatten(2)
    return (torch.softmax(temperature * flat, dim=2) * flat).sum(dim=2)


def similarity_pool(values: Tensor, features: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Average each patch with those of its image that look like it: g = A v with the rows of A summing to 1.

    A is the cosine of features less their mean over the image, 0 below the threshold. A patch without any likeness,
    not even to itself (all features of the image equal), keeps its value. CLIP-DINOiser (Wysoczanska et al., ECCV 2024)
    pools so with learned features; here they are those of the frozen network, centred because all of them are positive.

    Args:
        values: (B, D, h, w) what is pooled.
        features: (B, C, h, w) what is compared.
        threshold: in [0, 1).
    Returns:
        (B, D, h, w).
    """
    looks = features.flatten(2)
    looks = F.normalize(looks - looks.mean(dim=2, keepdim=True), dim=1)
    likeness = torch.einsum("bcp,bcq->bpq", looks, looks)
    likeness = torch.where(likeness < threshold, 0.0, likeness)
    total = likeness.sum(dim=2, keepdim=True)
    identity = torch.eye(likeness.shape[1], device=likeness.device, dtype=likeness.dtype)
    share = torch.where(total > 0, likeness / total.clamp(min=1e-6), identity)
    return torch.einsum("bpq,bdq->bdp", share, values.flatten(2)).unflatten(2, values.shape[2:])
