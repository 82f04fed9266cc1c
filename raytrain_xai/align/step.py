"""One step of the alignment on this worker's images, with the losses of the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raytrain_xai.align.head import AlignHead
from raytrain_xai.align.losses import distillation_sums, multiclass_sum, multilabel_sum
from raytrain_xai.align.pooling import attention_scores, patch_cosines
from raytrain_xai.concepts.workers import Workers

PARTS = ("loss", "distil", "multilabel", "multiclass")


@dataclass(frozen=True)
class LabelledPatches:
    """Images of one set.

    Attributes:
        features: (n, C, h, w) float32; n may be 0, where other workers own all images that were drawn.
        target: (n, D, h, w) float32, what the bridge says of each patch.
        labels: (n, M) float32 multi-hot.
        texts: (M, D) of unit length, the terms of its classes.
        drawn: images of the set in this step, over all workers.
        learns: from which labels: several of an image, one of an image, or none.
    """

    features: Tensor
    target: Tensor
    labels: Tensor
    texts: Tensor
    drawn: int
    learns: Literal["multilabel", "multiclass", "none"]


@dataclass(frozen=True)
class AlignWeights:
    """Factors of the parts of the loss, and the scale of scores in the cross-entropy."""

    distil: float
    multilabel: float
    multiclass: float
    scale: float


def align_step(
    head: AlignHead, parts: Sequence[LabelledPatches], weights: AlignWeights, workers: Workers
) -> dict[str, Tensor]:
    """Losses of a step, and their gradients in the parameters of the head, summed over the workers. A collective.

    loss = w_d · Σ ‖b‖ (1 - cos) / Σ ‖b‖ over the patches of all sets
         + w_m · mean BCE over the images of sets with several labels + w_c · mean cross-entropy of those with one.

    A number of images as a denominator is that of the whole step, so that any division of its images over workers
    gives the gradients of one.

    Returns:
        :data:`PARTS` -> (), of all workers, parts without their weights, on the device of the head.
    """
    device = head.text_mean.device
    zero = torch.zeros((), device=device)
    mass = torch.stack([part.target.norm(dim=1).sum() for part in parts if len(part.features)] or [zero]).sum()
    mass = workers.sum(mass).clamp(min=1e-12)
    drawn = {kind: sum(part.drawn for part in parts if part.learns == kind) for kind in ("multilabel", "multiclass")}
    sums = {"distil": zero, "multilabel": zero, "multiclass": zero}
    for part in parts:
        if len(part.features) == 0:
            continue
        vectors = head(part.features)
        sums["distil"] = sums["distil"] + distillation_sums(vectors, part.target)[0] / mass
        if part.learns == "none":
            continue
        scores = attention_scores(patch_cosines(vectors, part.texts))
        if part.learns == "multilabel":
            own = multilabel_sum(head.class_logits(scores), part.labels)
        else:
            own = multiclass_sum(scores, part.labels, weights.scale)
        sums[part.learns] = sums[part.learns] + own / drawn[part.learns]
    loss = sum((getattr(weights, name) * value for name, value in sums.items()), zero)
    _backward(head, loss, workers)
    shared = workers.sum(torch.stack([loss.detach(), *(sums[name].detach() for name in PARTS[1:])]))
    return dict(zip(PARTS, shared.unbind(), strict=True))


def _backward(head: AlignHead, loss: Tensor, workers: Workers) -> None:
    """Gradients of the step in one reduction; those of a worker without images are 0."""
    parameters = list(head.parameters())
    has_images = loss.requires_grad
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if has_images else [None] * len(parameters)
    flat = torch.cat([
        (torch.zeros_like(value) if gradient is None else gradient).flatten()
        for value, gradient in zip(parameters, found, strict=True)
    ])  # fmt: skip
    flat = workers.sum(flat)
    for value, own in zip(parameters, flat.split([value.numel() for value in parameters]), strict=True):
        value.grad = own.view_as(value)
