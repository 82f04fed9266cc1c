"""From an attribution at a layer to a map at image size, the same way for training and evaluation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Order = Literal["canonical", "paper_code"]

_CLAMPED_LOSSES = frozenset({"l1", "ppce"})
_SCALED_LOSSES = frozenset({"l1", "ppce", "rrr"})


def localise_map(attr: Tensor, size: tuple[int, int], loss_name: str | None, order: Order) -> Tensor:
    """Bring attributions to image size, in one of two orders.

    ``canonical``: resize the signed map; clamping and scaling happen afterwards, inside the loss or metric that
    needs them. The result does not depend on the loss, so runs guided by different losses are measured alike.
    ``paper_code``: the released code of Rao et al., ICCV 2023: clamp (L1, PPCE) and divide by max |A| (L1, PPCE,
    RRR*) *before* the resize. Without a loss, and for Energy, both orders are the same.

    Deviation: L1, PPCE and RRR* scale once more after the resize, so that the compared map peaks at exactly 1; in the
    released code bilinear interpolation may leave the peak a little below. At the input layer nothing is resized and
    both agree.

    Args:
        attr: (R, h, w) float, signed, at the resolution of the layer.
        size: (H, W) of the images, pixels.
        loss_name: loss the run is guided by, None for an unguided one.
        order: see above.
    Returns:
        (R, H, W) float32 (float64 stays float64), signed except where ``paper_code`` clamps; differentiable.
    """
    attr = full_precision(attr)
    if order == "paper_code":
        if loss_name in _CLAMPED_LOSSES:
            attr = attr.clamp(min=0)
        if loss_name in _SCALED_LOSSES:
            attr = attr / divisor(value_at_peak(attr, attr.abs()).abs())[:, None, None]
    if tuple(attr.shape[1:]) == tuple(size):
        return attr
    return F.interpolate(attr[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def full_precision(attr: Tensor) -> Tensor:
    """At least float32: sums over a map and logarithms lose all meaning in bfloat16."""
    return attr.to(torch.promote_types(attr.dtype, torch.float32))


def value_at_peak(attr: Tensor, height: Tensor) -> Tensor:
    """Value of each map where ``height`` is largest, (R, H, W) and (R, H, W) -> (R,).

    Its gradient goes to that one pixel: the first of equals, where a maximum over all pixels would split it.
    """
    flat = attr.flatten(1)
    position = height.detach().flatten(1).argmax(dim=1, keepdim=True)
    return flat.gather(1, position).squeeze(1)


def divisor(peak: Tensor) -> Tensor:
    """``peak`` (R,) where dividing by it is safe, 1 elsewhere: a map without attribution stays as it is."""
    return torch.where(peak <= torch.finfo(peak.dtype).tiny, 1.0, peak)  # NaN passes, to be noticed
