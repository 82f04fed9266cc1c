"""Losses, masks and metrics one image at a time, as in the released code of guided training: the peer of the benches.

Boxes are lists of (x0, y0, x1, y1) of integers, one list per image, of the class that is explained. Pixels are picked
by index lists, decisions are made on the host, and evaluation takes a gradient of the whole batch per (image, class).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peer import PeerNetwork, attribution, explain
from raytrain_xai.types import Batch

Box = Sequence[int]


def loop_mask(boxes: Sequence[Box], like: Tensor) -> Tensor:
    """(H, W) int64 of the shape of ``like``, 1 inside any box."""
    mask = torch.zeros(like.shape, dtype=torch.long, device=like.device)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 1
    return mask


def loop_energy(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    """1 - inside / total of the positive part."""
    positive = attr.clamp(min=0)
    inside = positive[torch.where(loop_mask(boxes, attr) == 1)].sum()
    total = positive.sum()
    return 1 - inside if total < 1e-7 else 1 - inside / total


def loop_l1(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Mean absolute difference of mask and scaled positive part."""
    return F.l1_loss(_scaled(attr.clamp(min=0)), loop_mask(boxes, attr).to(attr.dtype))


def loop_ppce(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Binary cross-entropy of the pixels inside against 1."""
    inside = _scaled(attr.clamp(min=0))[torch.where(loop_mask(boxes, attr) == 1)]
    return F.binary_cross_entropy(inside, torch.ones_like(inside))


def loop_rrr(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Sum of squares of the scaled map outside."""
    return torch.square(_scaled(attr)[torch.where(loop_mask(boxes, attr) == 0)]).sum()


LOOP_LOSSES: dict[str, Callable[[Tensor, Sequence[Box]], Tensor]] = {
    "energy": loop_energy,
    "l1": loop_l1,
    "ppce": loop_ppce,
    "rrr": loop_rrr,
}


def loop_step_loss(
    peer: PeerNetwork, batch: Batch, target: Tensor, *, loss: str, weight: float, method: str, layer: str
) -> Tensor:
    """Guided objective of one batch: mean BCE + weight · Σ over annotated images; () with graph.

    The explanation is taken for the whole batch, of which the annotated images are used. Below image size the map is
    scaled before the resize, and again in the loss (the released code scales once, before).
    """
    features, logits = peer.tapped(batch.images, layer)
    total = F.binary_cross_entropy_with_logits(logits, batch.labels)
    if batch.annotated_rows.numel() == 0:
        return total
    attr = explain(peer, features, logits, target, method=method)
    if attr.shape[1:] != batch.images.shape[2:]:
        attr = _clamped_and_scaled(attr, loss)
        attr = F.interpolate(attr[:, None], size=batch.images.shape[2:], mode="bilinear")[:, 0]
    for row in batch.annotated_rows.tolist():
        boxes = boxes_of_class(batch, row, int(target[row]))
        total = total + weight * LOOP_LOSSES[loss](attr[row], boxes)
    return total


@dataclass(frozen=True)
class LoopMetrics:
    """Means over pairs, and F1 over decisions."""

    epg: float
    iou: float
    f1: float


def loop_evaluate(peer: PeerNetwork, batch: Batch, *, method: str, layer: str) -> LoopMetrics:
    """EPG, IoU at threshold .5 and micro F1 of one batch."""
    features, logits = peer.tapped(batch.images, layer)
    size = batch.images.shape[2:]
    epg, iou = [], []
    for row in range(len(batch.images)):
        for label in torch.where(batch.labels[row] == 1)[0]:
            attr = attribution(peer, features, logits[row, label], method=method)
            if attr.shape[1:] != size:
                attr = F.interpolate(attr[:, None], size=size, mode="bilinear")[:, 0]
            attr = attr[row].detach()
            boxes = boxes_of_class(batch, row, int(label))
            epg.append(_loop_epg(attr, boxes))
            iou.append(_loop_iou(attr, boxes))
    return LoopMetrics(float(torch.stack(epg).mean()), float(torch.stack(iou).mean()), _loop_f1(logits, batch.labels))


def boxes_of_class(batch: Batch, row: int, label: int) -> list[list[int]]:
    """Boxes of one image that belong to a class."""
    return [
        [int(value) for value in box]
        for box, box_label in zip(batch.boxes[row], batch.box_labels[row], strict=True)
        if int(box_label) == label
    ]


def _loop_epg(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    positive = attr.clamp(min=0)
    total = positive.sum()
    inside = positive[torch.where(loop_mask(boxes, attr) == 1)].sum()
    return torch.zeros_like(total) if total < 1e-7 else inside / total


def _loop_iou(attr: Tensor, boxes: Sequence[Box]) -> Tensor:
    positive = attr.clamp(min=0)
    low, high = positive.min(), positive.max()
    scaled = (positive - low) / (high - low) if high > low else torch.full_like(positive, float(high > 0))
    predicted, mask = scaled > 0.5, loop_mask(boxes, attr) == 1
    return torch.logical_and(predicted, mask).sum() / torch.logical_or(predicted, mask).sum()


def _loop_f1(logits: Tensor, labels: Tensor) -> float:
    true_positive = torch.zeros((), device=logits.device)
    false_positive, false_negative = true_positive.clone(), true_positive.clone()
    for scores, truths in zip(logits.detach(), labels, strict=True):
        for score, truth in zip(scores, truths, strict=True):
            if score >= 0 and truth == 1:
                true_positive += 1
            elif score >= 0:
                false_positive += 1
            elif truth == 1:
                false_negative += 1
    return float(2 * true_positive / (2 * true_positive + false_positive + false_negative))


def _scaled(attr: Tensor) -> Tensor:
    biggest = attr.abs().max()
    return attr / biggest if biggest > 0 else attr


def _clamped_and_scaled(attr: Tensor, loss: str) -> Tensor:
    """What the released code does before a resize, image by image."""
    if loss in ("l1", "ppce"):
        attr = attr.clamp(min=0)
    return torch.stack([_scaled(one) for one in attr]) if loss != "energy" else attr
