"""Plain data that travels between the layers. Frozen, no behaviour beyond moving and slicing tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TeacherAnswer:
    """What a teacher says about the images of a batch.

    Attributes:
        logits: (B, C) float32.
        maps: (B, D, h, w) float, explanation of the class with the largest logit: D 6 for linear maps of B-cos networks
            (signed), 1 for Grad-CAM (>= 0). h, w divide the image size or equal it. None where none was asked for.
    """

    logits: Tensor
    maps: Tensor | None

    def to(self, device: torch.device, non_blocking: bool = True) -> TeacherAnswer:
        """The same answer on ``device``."""
        maps = None if self.maps is None else self.maps.to(device, non_blocking=non_blocking)
        return TeacherAnswer(self.logits.to(device, non_blocking=non_blocking), maps)


@dataclass(frozen=True)
class Batch:
    """Images with labels and annotations, all on one device.

    B images, C classes, R boxes (padded to the most in the batch).

    Attributes:
        images: (B, 3, H, W) uint8, RGB.
        labels: (B, C) float32, multi-hot (one-hot for multi-class tasks).
        boxes: (B, R, 4) float32, pixels of ``images``, (x0, y0, x1, y1), half-open.
        box_labels: (B, R) int64, class of each box, -1 for padding.
        masks: (B, H, W) uint8, 0 background, c + 1 for class c, 255 void; None when the data set has none.
        has_mask: (B,) bool, False where an image of a data set with masks has no mask of its own.
        annotated_rows: (A,) int64, positions in this batch whose boxes or masks may be used for guidance (the
            annotation budget); its length is known on the host, so selecting these rows needs no device sync.
        groups: (B,) int64, sub-population for worst-group accuracy, -1 when unknown.
        index: (B,) int64, row of the sample in its split; stable over epochs and workers.
        step_size: samples in the whole optimiser step, over all workers and accumulated parts.
        step_annotated: annotated samples in the whole optimiser step.
        teacher: stored answers of a teacher about the images, moved as they were moved; None without.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    box_labels: Tensor
    masks: Tensor | None
    has_mask: Tensor
    annotated_rows: Tensor
    groups: Tensor
    index: Tensor
    step_size: int
    step_annotated: int
    teacher: TeacherAnswer | None = None

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """The same batch with every tensor on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in tensors.items()
            if isinstance(value, (Tensor, TeacherAnswer))
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class StepOutput:
    """Result of one training step.

    Attributes:
        loss: () float32 with graph; what is differentiated.
        sums: name -> () detached *sums* over the local samples (``cls_sum`` over ``count`` images, ``loc_sum`` and
            ``empty_maps_sum`` over ``guided_count``), to be added over steps and workers, so means are exact.
    """

    loss: Tensor
    sums: dict[str, Tensor]


@dataclass(frozen=True)
class ClassExplanation:
    """Why the network gave one class its logit. H, W: the network's image size; tensors are on the CPU.

    Attributes:
        name: class name.
        index: position of the class in the logits.
        logit: evidence for the class, unbounded.
        probability: see :meth:`raytrain_xai.explain.Explainer.probabilities`.
        attribution: (H, W) float32, signed: positive speaks for the class.
        positive_share: positive part of the map divided by its absolute sum, in [0, 1]; 0 for an empty map.
        completeness_residual: |sum of the input's contributions + logit bias - logit|: 0 up to rounding for
            convolutional networks, the share of the position code for transformers; None for
            networks that are not B-cos, whose maps promise no sum.
        rgba: (H, W, 4) uint8 B-cos explanation in the colours of the image; None for other networks.
    """

    name: str
    index: int
    logit: float
    probability: float
    attribution: Tensor
    positive_share: float
    completeness_residual: float | None
    rgba: Tensor | None


@dataclass(frozen=True)
class Explanation:
    """One image.

    Attributes:
        logits: (C,) float32.
        probabilities: (C,) float32, see :meth:`raytrain_xai.explain.Explainer.probabilities`.
        classes: the explained classes, largest logit first.
    """

    logits: Tensor
    probabilities: Tensor
    classes: tuple[ClassExplanation, ...]
