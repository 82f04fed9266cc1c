"""Localisation losses: how far attributions lie off the annotated region, one number per image.

Source: Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023, section 3.3
(Energy; L1; PPCE, per-pixel cross-entropy; RRR*, "right for the right reasons" with normalised maps).

A is the signed attribution of one class, A⁺ its positive part, M the region. Gradients also pass through the maximum
that normalises a map. The sums are rearranged so that each loss makes few passes over the maps; the formula is stated
in each docstring. An empty region (every box degenerate) gives loss 0 and no gradient. Inputs in half precision are
computed in float32; NaN in a map gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from raytrain_xai.guidance.postprocess import divisor, full_precision, value_at_peak

EPS = 1e-7  # below this a map has no energy to place; its ratio would be noise
MIN_LOG = -100.0  # floor of log Â⁺, as in torch's binary cross-entropy, which the released code calls

LocalizationLoss = Callable[[Tensor, Tensor], Tensor]
"""(attr (B, H, W) signed float, mask (B, H, W) bool) -> (B,)"""


def energy_loss(attr: Tensor, mask: Tensor) -> Tensor:
    """Share of positive attribution outside the region: 1 - Σ M·A⁺ / Σ A⁺.

    Args:
        attr: (B, H, W) float, signed attribution of one class per image, any scale.
        mask: (B, H, W) bool, True inside the union of that class's boxes.
    Returns:
        (B,) in [0, 1]; 0 means all energy inside. A map without positive energy (at most 1e-7) scores 1 and passes no
        gradient; the released code lets it score 1 - inside, whose gradient depends on the scale of the map.
    Raises:
        ValueError: shapes differ, or ``mask`` is not bool.
    """
    attr = _checked(attr, mask)
    inside = mask.to(attr.dtype)
    total, energy = _positive_sums(attr, inside)
    loss = torch.where(total <= EPS, 1.0, 1 - energy / total.clamp(min=EPS))
    return _zero_if_empty(loss, inside.sum(dim=(1, 2)))


def l1_loss(attr: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of region and map: (1/HW) Σ |M - Â⁺| with Â⁺ = A⁺ / max A⁺.

    Args:
        attr: (B, H, W) float, signed, any scale.
        mask: (B, H, W) bool.
    Returns:
        (B,) in [0, 1]. A map without positive part stays zero and scores the share of the image inside the region.
    Raises:
        ValueError: shapes differ, or ``mask`` is not bool.
    """
    attr = _checked(attr, mask)
    inside = mask.to(attr.dtype)
    total, energy = _positive_sums(attr, inside)
    area = inside.sum(dim=(1, 2))
    peak = divisor(value_at_peak(attr, attr).relu())
    # Â⁺ lies in [0, 1], so |M - Â⁺| is Â⁺ outside the region and 1 - Â⁺ inside.
    loss = (area + (total - 2 * energy) / peak) / (attr.shape[1] * attr.shape[2])
    return _zero_if_empty(loss, area)


def ppce_loss(attr: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the pixels inside the region against 1: -(1/|M|) Σ M·max(log Â⁺, -100).

    Args:
        attr: (B, H, W) float, signed, any scale.
        mask: (B, H, W) bool.
    Returns:
        (B,) in [0, 100]. Pixels at the floor pass no gradient (in the released code a value of exactly 0 passes one of
        1e12); a pixel too small to divide by (subnormal) counts as 0.
    Raises:
        ValueError: shapes differ, or ``mask`` is not bool.
    """
    attr = _checked(attr, mask)
    peak = divisor(value_at_peak(attr, attr).relu())
    floor = (peak.detach() * math.exp(MIN_LOG)).clamp(min=torch.finfo(attr.dtype).tiny)
    above = mask & ~(attr <= floor[:, None, None])  # NaN counts as above, to be noticed
    num_above, area = above.sum(dim=(1, 2)), mask.sum(dim=(1, 2))
    log_sum = torch.where(above, attr, 1.0).log().sum(dim=(1, 2)) - num_above * peak.log()
    loss = -(log_sum + MIN_LOG * (area - num_above)) / area.clamp(min=1)
    return _zero_if_empty(loss, area)


def rrr_loss(attr: Tensor, mask: Tensor) -> Tensor:
    """Squared attribution of either sign outside the region: Σ (1 - M)·Â² with Â = A / max |A| (RRR*).

    A sum over pixels, so its scale is that of the image area: weights are 100 to 1000 times smaller than for Energy.

    Args:
        attr: (B, H, W) float, signed, any scale.
        mask: (B, H, W) bool.
    Returns:
        (B,) in [0, H·W].
    Raises:
        ValueError: shapes differ, or ``mask`` is not bool.
    """
    attr = _checked(attr, mask)
    peak = divisor(value_at_peak(attr, attr.abs()).abs())
    constant = peak.detach()  # divides before squaring, because the square of a small attribution underflows
    outside = torch.where(mask, 0.0, 1 / constant[:, None, None])
    loss = (attr * outside).square().sum(dim=(1, 2)) * (constant / peak).square()
    return _zero_if_empty(loss, mask.flatten(1).sum(dim=1))


LOSSES: dict[str, LocalizationLoss] = {
    "energy": energy_loss,
    "l1": l1_loss,
    "ppce": ppce_loss,
    "rrr": rrr_loss,
}


def _checked(attr: Tensor, mask: Tensor) -> Tensor:
    """The map in full precision."""
    if attr.dim() != 3 or attr.shape != mask.shape:
        raise ValueError(
            f"expected maps and masks of one shape (B, H, W), got {tuple(attr.shape)} and {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}; make it with raytrain_xai.data.boxes.rasterise()")
    return full_precision(attr)


def _positive_sums(attr: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Σ A⁺ and Σ M·A⁺ of each map."""
    positive = attr.relu()
    return positive.sum(dim=(1, 2)), (positive * inside).sum(dim=(1, 2))


def _zero_if_empty(loss: Tensor, area: Tensor) -> Tensor:
    return torch.where(area > 0, loss, 0.0)
