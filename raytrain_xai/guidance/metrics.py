"""Localisation metrics: how much of an attribution lies on the annotated object, one number per map.

Source: Rao et al., ICCV 2023 (EPG, IoU, on-object energy); edge cases as in its released code. All are higher-is-better
and count only the positive part A⁺ of a map. They are defined for regions that are not empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.guidance.losses import EPS

IOU_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # .05, .10, … .95
VOID = 255  # mask value of pixels that annotators left undecided


def energy_pointing_game(attr: Tensor, mask: Tensor) -> Tensor:
    """EPG, the share of positive attribution inside the region: Σ M·A⁺ / Σ A⁺.

    Args:
        attr: (R, H, W) float, signed.
        mask: (R, H, W) bool.
    Returns:
        (R,) in [0, 1]; 0 for a map without positive energy (at most 1e-7).
    """
    return _share(attr.relu(), mask)


def is_empty_map(attr: Tensor) -> Tensor:
    """(R, H, W) signed -> (R,) bool: True where a map has no positive energy (at most 1e-7)."""
    return attr.relu().sum(dim=(1, 2)) <= EPS


def on_object_energy(attr: Tensor, box_mask: Tensor, class_map: Tensor, target: Tensor) -> Tensor:
    """Share of the positive attribution inside the boxes that lies on the object's own pixels.

    Deviation: void pixels are left out of both sums, as in the VOC segmentation measure; the paper does not say.

    Args:
        attr: (R, H, W) float, signed.
        box_mask: (R, H, W) bool, the boxes of the class.
        class_map: (R, H, W) uint8, 0 background, c + 1 for class c, 255 void.
        target: (R,) int64 class of each map.
    Returns:
        (R,) in [0, 1]; 0 for a map without energy in the boxes.
    """
    in_box = attr.relu() * (box_mask & (class_map != VOID))
    return _share(in_box, object_pixels(class_map, target))


def object_pixels(class_map: Tensor, target: Tensor) -> Tensor:
    """(R, H, W) uint8 and (R,) int64 -> (R, H, W) bool: pixels of the class."""
    return class_map == (target + 1)[:, None, None]


def iou_at_thresholds(attr: Tensor, mask: Tensor, thresholds: Tensor) -> Tensor:
    """Intersection over union of the region with the pixels whose scaled attribution exceeds each threshold.

    A⁺ is scaled to [0, 1] per map by its minimum and maximum. A constant positive map predicts every pixel, a map
    without positive part none. One histogram per map serves all thresholds.

    Args:
        attr: (R, H, W) float, signed.
        mask: (R, H, W) bool.
        thresholds: (T,) of the type of ``attr``, ascending, in (0, 1).
    Returns:
        (R, T) in [0, 1].
    """
    num_maps, num_bins = attr.shape[0], thresholds.numel() + 1
    level = torch.bucketize(_min_max(attr.relu()), thresholds, out_int32=True)  # number of thresholds below the pixel
    first = torch.arange(num_maps, device=attr.device, dtype=torch.int32) * (2 * num_bins)
    cell = level.add_(mask, alpha=num_bins).add_(first[:, None, None])
    histogram = torch.bincount(cell.flatten(), minlength=num_maps * 2 * num_bins)
    outside, inside = histogram.view(num_maps, 2, num_bins).unbind(dim=1)
    overlap, excess = _count_above(inside), _count_above(outside)
    union = inside.sum(dim=1, keepdim=True) + excess
    return overlap / union.clamp(min=1)


def _share(energy: Tensor, region: Tensor) -> Tensor:
    """Part of ``energy`` (R, H, W) >= 0 that lies in ``region``; 0 where there is none."""
    total = energy.sum(dim=(1, 2))
    part = (energy * region.to(energy.dtype)).sum(dim=(1, 2))
    return torch.where(total <= EPS, 0.0, part / total.clamp(min=EPS))


def _min_max(positive: Tensor) -> Tensor:
    low, high = torch.aminmax(positive.flatten(1), dim=1)
    span = high - low
    scaled = (positive - low[:, None, None]) / torch.where(span > 0, span, 1.0)[:, None, None]
    is_constant = (span <= 0) & (high > 0)
    return torch.where(is_constant[:, None, None], 1.0, scaled)


def _count_above(histogram: Tensor) -> Tensor:
    """(R, T + 1) pixels per level -> (R, T) pixels above each threshold."""
    return histogram.flip(1).cumsum(dim=1).flip(1)[:, 1:]
