"""What a pass over images finds out about the concepts of an encoder: sums that any division of the images merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import CoOccurrence, co_occurrence
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.concepts.top_tokens import merge_top, top_images, top_tokens

NUM_TOKENS = 30  # strongest positions kept of each concept; Insight / CFM, 2026
NUM_IMAGES = 8  # images kept of each concept, by their strongest position, to be shown
VOID = 255  # in class masks: not labelled


@dataclass(frozen=True)
class Description:
    """Sums over a part of the images. K concepts, C classes of masks; column 0 of a class table is the background.

    Attributes:
        seen: which concepts are active together.
        tokens: (K, NUM_TOKENS) int64, see :mod:`raytrain_xai.concepts.top_tokens`.
        images: (K, NUM_IMAGES) int64, the same with one token of each image.
        class_positions: (C + 1,) int64, labelled positions of each class.
        on_class: (K x (C + 1)), sums (n, 2) float64: labelled positions of the class at which the concept is active,
            and its values there.
    """

    seen: CoOccurrence
    tokens: Tensor
    images: Tensor
    class_positions: Tensor
    on_class: SparseSums

    def merge(self, *others: Description) -> Description:
        """This part and ``others`` together; all must come from different images."""
        parts = (self, *others)
        return Description(
            seen=self.seen.merge(*[part.seen for part in others]),
            tokens=merge_top([part.tokens for part in parts]),
            images=merge_top([part.images for part in parts]),
            class_positions=torch.stack([part.class_positions for part in parts]).sum(dim=0),
            on_class=self.on_class.merge(*[part.on_class for part in others]),
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """The sums by name on the CPU, to be stored."""
        own = {
            "tokens": self.tokens, "images": self.images, "class_positions": self.class_positions,
            "class_cells": self.on_class.keys, "class_sums": self.on_class.sums,
        }  # fmt: skip
        return self.seen.to_tensors() | {name: value.cpu().contiguous() for name, value in own.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of :meth:`to_tensors`; other names are ignored."""
        on_class = SparseSums(tensors["class_cells"], tensors["class_sums"])
        top = (tensors["tokens"], tensors["images"])
        return cls(CoOccurrence.from_tensors(tensors), *top, tensors["class_positions"], on_class)


def describe_images(code: SparseCode, first: int, labels: Tensor, num_classes: int) -> Description:
    """The sums of some consecutive images.

    Args:
        code: (B, P, k).
        first: number of the first token: row of the first image times P.
        labels: (B, P) uint8, 0 background, c + 1 for class c, :data:`VOID` not labelled.
        num_classes: C.
    """
    is_known = labels != VOID
    counts = torch.bincount(labels[is_known].long(), minlength=num_classes + 1)
    used = (code.values > 0) & is_known[..., None]
    column = labels.long()[..., None].expand_as(code.indices)[used]
    sums = torch.stack([torch.ones_like(code.values[used]), code.values[used]], dim=1).double()
    return Description(
        seen=co_occurrence(code),
        tokens=top_tokens(code, first, NUM_TOKENS),
        images=top_images(code, first, NUM_IMAGES),
        class_positions=counts,
        on_class=SparseSums.add(code.indices[used] * (num_classes + 1) + column, sums),
    )


def patch_labels(masks: Tensor | None, has_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The class in the middle of every patch.

    Args:
        masks: (B, H, W) uint8, see :class:`raytrain_xai.types.Batch`; None without any.
        has_mask: (B,) bool.
        size: (h, w), patches of an image.
    Returns:
        (B, h w) uint8, :data:`VOID` for images without mask.
    """
    height, width = size
    if masks is None:
        return torch.full((len(has_mask), height * width), VOID, dtype=torch.uint8, device=has_mask.device)
    rows, columns = (
        ((torch.arange(count, device=masks.device) + 0.5) * side / count).long()
        for count, side in zip(size, masks.shape[1:], strict=True)
    )
    labels = masks[:, rows[:, None], columns].flatten(1)
    return torch.where(has_mask[:, None], labels, VOID)
