"""What an evaluation has seen: rows and sums that any sharding of a split merges to the same result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from raytrain_xai.guidance.metrics import IOU_THRESHOLDS

_GRAIN = 2.0**32  # summed values are multiples of 2^-32, so that float64 adds up to 2^21 of them without error
_PER_SAMPLE = ("scores", "labels", "groups")


@dataclass(frozen=True)
class EvaluationState:
    """Part of an evaluation. Sums are exact, so neither the order nor the number of the parts changes a metric.

    Attributes:
        scores: (N, C) float32 logits.
        labels: (N, C) bool.
        groups: (N,) int64, -1 for unknown.
        pair_count: () int64, (image, positive class) pairs with a region.
        epg_sum: () float64, over pairs.
        iou_sum: (T,) float64, over pairs, for each of ``IOU_THRESHOLDS``.
        empty_count: () int64, pairs whose map has no positive part.
        object_count: () int64, pairs whose object has pixels inside its boxes in a mask.
        object_sum: () float64, on-object energy over those pairs.
    """

    scores: Tensor
    labels: Tensor
    groups: Tensor
    pair_count: Tensor
    epg_sum: Tensor
    iou_sum: Tensor
    empty_count: Tensor
    object_count: Tensor
    object_sum: Tensor

    @classmethod
    def empty(cls, num_classes: int, device: torch.device) -> Self:
        """State of no samples."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        return cls(
            scores=torch.zeros(0, num_classes, device=device),
            labels=torch.zeros(0, num_classes, dtype=torch.bool, device=device),
            groups=torch.zeros(0, dtype=torch.int64, device=device),
            pair_count=count,
            epg_sum=total,
            iou_sum=total.new_zeros(len(IOU_THRESHOLDS)),
            empty_count=count,
            object_count=count,
            object_sum=total,
        )

    def with_fields(self, **tensors: Tensor) -> Self:
        """This state with some fields replaced."""
        return replace(self, **tensors)

    def merge(self, *others: EvaluationState) -> EvaluationState:
        """State of this part and ``others`` together."""
        parts = [state.to_tensors() for state in (self, *others)]
        merged: dict[str, Tensor] = {}
        for name in parts[0]:
            values = [part[name] for part in parts]
            merged[name] = torch.cat(values) if name in _PER_SAMPLE else torch.stack(values).sum(dim=0)
        return EvaluationState(**merged)

    def to_tensors(self) -> dict[str, Tensor]:
        """The fields by name, to be sent to another worker."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of :meth:`to_tensors`."""
        return cls(**tensors)


def exact_sum(values: Tensor, counted: Tensor) -> Tensor:
    """Sum over the counted rows, free of rounding error and so of order.

    Args:
        values: (R, ...) float in [0, 1]; rounded to multiples of 2^-32 first.
        counted: (R,) bool.
    Returns:
        (...) float64.
    """
    rounded = (values.to(torch.float64) * _GRAIN).round() / _GRAIN
    selected = counted.view(-1, *[1] * (values.dim() - 1))
    return torch.where(selected, rounded, 0.0).sum(dim=0)
