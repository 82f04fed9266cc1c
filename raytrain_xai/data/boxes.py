"""Boxes to pixel masks on the device, box dilation, and the annotation budget.

Boxes are pixels (x0, y0, x1, y1), half-open. A pixel belongs to a box when its centre does, which is the same as
rounding the corners to integers. The released code of the guidance paper truncates corners and clamps them to size - 1,
so that its masks lie half a pixel up and left on average and never hold the last row and column; we do not.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.errors import DataError
from raytrain_xai.types import Batch


def rasterise(boxes: Tensor, keep: Tensor, size: tuple[int, int]) -> Tensor:
    """Union of the kept boxes of each image.

    A box is the product of a row and a column indicator, so the union over boxes is a matrix product per image: no loop
    over images or boxes, no host sync.

    Args:
        boxes: (B, R, 4) float, pixels of an image of ``size``.
        keep: (B, R) bool, boxes to draw; False for padding.
        size: height and width of the masks.
    Returns:
        (B, H, W) bool. Boxes that hold no pixel centre, are inverted or hold NaN draw nothing.
    """
    height, width = size
    columns = torch.arange(width, device=boxes.device) + 0.5
    rows = torch.arange(height, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.unsqueeze(-1).unbind(dim=2)  # each (B, R, 1)
    in_columns = (columns >= x0) & (columns < x1)  # (B, R, W)
    in_rows = (rows >= y0) & (rows < y1) & keep.unsqueeze(-1)  # (B, R, H)
    # (B, H, R) @ (B, R, W) counts the boxes over each pixel; exact in float32 below 2^24 boxes
    return torch.bmm(in_rows.float().transpose(1, 2), in_columns.float()) > 0


def dilate(boxes: Tensor, fraction: float, size: tuple[int, int]) -> Tensor:
    """Move every side of every box outward by ``fraction`` of the box's width or height, up to the image border.

    As in the guidance paper's study of coarse annotations (its .1, .25, .5), without the truncation to whole pixels.

    Args:
        boxes: (..., 4) float.
        fraction: >= 0.
        size: height and width of the image.
    Returns:
        (..., 4) as ``boxes``; empty boxes keep their zero width or height.
    """
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(dim=-1)
    dx, dy = fraction * (x1 - x0), fraction * (y1 - y0)
    moved = (
        (x0 - dx).clamp(0, width),
        (y0 - dy).clamp(0, height),
        (x1 + dx).clamp(0, width),
        (y1 + dy).clamp(0, height),
    )
    return torch.stack(moved, dim=-1)


def class_mask(batch: Batch, target: Tensor, *, annotation: Literal["boxes", "masks"], dilation: float) -> Tensor:
    """Where one class per image is annotated.

    Args:
        batch: B images of H x W pixels.
        target: (B,) int64, class of each image.
        annotation: boxes: union of the class's boxes; masks: its pixels in the mask (void is outside), and for an image
            without a mask (``has_mask``) its boxes, so that the same images are guided.
        dilation: share by which boxes grow, see :func:`dilate`; masks do not grow.
    Returns:
        (B, H, W) bool; all False for an image that has no such object.
    Raises:
        DataError: masks are asked for, but the data set has none.
    """
    size = (batch.images.shape[2], batch.images.shape[3])
    boxes = dilate(batch.boxes, dilation, size) if dilation > 0 else batch.boxes
    from_boxes = rasterise(boxes, batch.box_labels == target[:, None], size)
    if annotation == "boxes":
        return from_boxes
    if batch.masks is None:
        raise DataError("the data set has no masks; set guidance.annotation=boxes")
    from_masks = batch.masks == (target + 1)[:, None, None]
    return torch.where(batch.has_mask[:, None, None], from_masks, from_boxes)


def annotation_subset(n: int, fraction: float, seed: int) -> Tensor:
    """Which of n training images keep their annotation: int(fraction * n) of them, as in the guidance paper.

    The subsets of one seed are nested: those of 1 % are among those of 10 %. It is a function of its arguments, so that
    runs with equal seed share the subset whatever else they draw.

    Returns:
        (n,) bool on the CPU.
    """
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.from_numpy(drawn_order(n, seed)[: int(fraction * n)])] = True
    return chosen


def drawn_order(n: int, seed: int) -> np.ndarray:
    """The order in which n training images are annotated when chance decides; (n,) int64, each row once."""
    return np.random.default_rng([seed, n]).permutation(n)
