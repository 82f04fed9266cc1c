"""Images whose explanations are spread all over."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raytrain_xai.guidance.losses import EPS
from raytrain_xai.guidance.postprocess import full_precision


def attribution_entropy(attr: Tensor) -> Tensor:
    """Entropy of the positive part of an attribution map, as a share of the largest possible one.

    The positive part A⁺, divided by its sum, is read as a distribution p over the N positions: -Σ p log p / log N.

    Args:
        attr: (R, h, w) float, signed, any scale; more than one position.
    Returns:
        (R,) in [0, 1]: 0 for a single position, 1 for equal evidence everywhere, and 1 for a map without positive
        evidence (sum at most 1e-7), than which no explanation is worse.
    Raises:
        ValueError: a map has one position, whose entropy says nothing.
    Source: Shannon entropy. That spread of an explanation stands for its quality is an assumption of this strategy, not
        a measurement: a compact map may lie beside the object.
    """
    num_positions = attr.shape[1] * attr.shape[2]
    if num_positions < 2:
        raise ValueError(f"maps of one position have no entropy, got {tuple(attr.shape)}")
    positive = full_precision(attr).flatten(1).clamp(min=0)
    total = positive.sum(dim=1)
    share = positive / total.clamp(min=EPS)[:, None]
    entropy = torch.special.entr(share).sum(dim=1) / math.log(num_positions)
    return torch.where(total <= EPS, 1.0, entropy.clamp(0, 1))  # NaN passes, to be noticed
