"""Images that two attributions explain by different places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.guidance.losses import EPS
from raytrain_xai.guidance.postprocess import divisor, full_precision
from raytrain_xai.models.network import Network

FINE, COARSE = "Input", "Final"  # the taps that are furthest apart


def second_opinion(network: Network, layer: str) -> tuple[str, str]:
    """The attribution that a network's own one is compared with.

    Standard networks: Grad-CAM at ``Final``. B-cos networks have one attribution, exact at every tap: theirs at
    ``Final``. Of an attribution that is at ``Final`` already: the default one at ``Input``.

    Args:
        layer: tap of the own attribution.
    Returns:
        Method and tap.
    """
    if layer == COARSE:
        return network.default_attribution, FINE
    return ("bcos" if network.is_bcos else "gradcam"), COARSE


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine between the positive parts of two attributions, at the resolution of the coarser one.

    The finer map is averaged over the cells of the coarser, so that what is compared is where evidence lies and not how
    fine its grain is.

    Args:
        one: (R, h, w) float, signed, any scale.
        other: (R, h', w') float, the same pairs; of both shapes one is at least as large in both directions.
    Returns:
        (R,) in [0, 1]: 0 for proportional maps; 1 for maps without a common place, and where one has no positive
        evidence (sum at most 1e-7).
    Raises:
        ValueError: the coarser maps have one position, where everything agrees.
    Source: the cosine between explanations as in e2KD (Parchami-Araghi et al., ECCV 2024); as a measure of what to
        annotate it is ours.
    """
    fine, coarse = (one, other) if one[0].numel() >= other[0].numel() else (other, one)
    size = (coarse.shape[1], coarse.shape[2])
    if size == (1, 1):
        raise ValueError(f"maps of one position always agree, got {tuple(coarse.shape)}")
    positive = full_precision(coarse).clamp(min=0)
    pooled = F.adaptive_avg_pool2d(full_precision(fine).clamp(min=0)[:, None], size)[:, 0]
    cosine = F.cosine_similarity(_to_peak_one(pooled), _to_peak_one(positive), dim=1)
    is_empty = (fine.clamp(min=0).sum(dim=(1, 2)) <= EPS) | (positive.sum(dim=(1, 2)) <= EPS)
    return torch.where(is_empty, 1.0, (1 - cosine).clamp(0, 1))  # NaN passes, to be noticed


def _to_peak_one(maps: Tensor) -> Tensor:
    """(R, h, w) >= 0 to (R, h·w) with maximum 1: a cosine of tiny maps would meet its guard against division by 0."""
    flat = maps.flatten(1)
    return flat / divisor(flat.amax(dim=1))[:, None]
