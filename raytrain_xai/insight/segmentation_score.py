"""Mean intersection over union of segmentations, by the protocol of PASCAL VOC and COCO.

Pixels are counted over a whole data set by true and found class; void pixels (255) are left out. IoU of a class =
pixels of it that were found / (pixels of it + pixels wrongly taken for it). Protocols differ in whether background is
a class: ``VOC21`` and ``COCO object`` say it is, ``VOC20`` looks only at pixels that have a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.errors import DataError
from raytrain_xai.guidance.metrics import VOID


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by true and found class; counts of parts of a data set add up in any order.

    Attributes:
        counts: (C + 1, M + 1) int64, row 0 and column 0 background, row c + 1 class c, column m + 1 text m. Texts are
            the classes, and behind them others that only compete (M >= C).
    """

    counts: Tensor

    @classmethod
    def empty(cls, num_classes: int, num_texts: int, device: torch.device | str = "cpu") -> PixelCounts:
        """No pixel yet."""
        assert num_texts >= num_classes
        return cls(torch.zeros(num_classes + 1, num_texts + 1, dtype=torch.int64, device=device))

    def add(self, found: Tensor, masks: Tensor) -> None:
        """Count images, in place.

        Args:
            found: (B, H, W) int64, 0 background, m + 1 text m.
            masks: (B, H, W) uint8, 0 background, c + 1 class c, 255 void.
        Raises:
            DataError: other sizes, or a class that is not counted here.
        """
        if found.shape != masks.shape:
            raise DataError(f"segmentation {tuple(found.shape)} and masks {tuple(masks.shape)} differ in size")
        rows, columns = self.counts.shape
        is_void = masks == VOID
        largest = torch.stack([masks.masked_fill(is_void, 0).amax().long(), found.amax()]).tolist()
        if largest[0] >= rows or largest[1] >= columns:
            raise DataError(
                f"masks hold class {largest[0]} and segmentations text {largest[1]}, counted from 1; expected at most "
                f"{rows - 1} and {columns - 1}"
            )
        cell = torch.where(is_void, rows * columns, masks.long() * columns + found)  # void falls behind the last one
        number = torch.bincount(cell.flatten(), minlength=rows * columns + 1)
        self.counts.add_(number[: rows * columns].view(rows, columns))

    def merge(self, other: PixelCounts) -> None:
        """Add the counts of other images, in place."""
        self.counts.add_(other.counts.to(self.counts.device))

    def iou(self, *, with_background: bool) -> Tensor:
        """Intersection over union.

        Args:
            with_background: True: over all pixels that are not void; False: over pixels that have a class.
        Returns:
            (C + 1,) float64 in [0, 1], background first, or (C,) without it; NaN for a class that is neither there nor
            found.
        """
        counts = self.counts if with_background else self.counts[1:]
        first = 0 if with_background else 1
        columns = counts[:, first : len(self.counts)]
        hit = columns.diagonal().double()
        union = counts.sum(dim=1) + columns.sum(dim=0) - columns.diagonal()
        return torch.where(union > 0, hit / union, torch.nan)

    def accuracy(self, *, with_background: bool) -> float:
        """Share of the counted pixels with the right class; NaN without pixels."""
        counts = self.counts if with_background else self.counts[1:]
        first = 0 if with_background else 1
        return float(counts[:, first:].diagonal().sum().double() / counts.sum())
