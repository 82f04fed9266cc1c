"""Images of several prepared data sets, numbered one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import DataError
from raytrain_xai.types import Batch

_VOID = 255  # of class masks


@dataclass(frozen=True)
class RowsOf:
    """One image by its number.

    Attributes:
        data: address of the data set it is in.
        id: as stored there.
    """

    data: str
    id: str


class ImageRows:
    """One split of several data sets, which may have different classes.

    Attributes:
        data: their addresses.
        classes: of the data sets with masks, those of one name once.
        fingerprints: of the data sets.

    Args:
        data: addresses, one or more.
        split: of all of them.
        image_size: side of the images, pixels.
        shorter: see :func:`raytrain_xai.data.transforms.centre`.
    Raises:
        DataError: no such data set, a split is missing or empty, or more classes than a mask can name.
    """

    def __init__(self, data: Sequence[str], split: str, image_size: int, *, shorter: int | None = None) -> None:
        self.data = tuple(data)
        stored = [StoredSplit(path, split) for path in self.data]
        if not sum(len(one) for one in stored):
            raise DataError(f"split {split} of {', '.join(data)} has no images; choose another with --split")
        masked = [one.info.classes for one in stored if one.info.has_masks]
        self.classes = tuple(dict.fromkeys(name for names in masked for name in names))
        if len(self.classes) >= _VOID:
            raise DataError(f"{len(self.classes)} classes are more than a mask can name; give fewer data sets")
        self.fingerprints = tuple(one.info.fingerprint for one in stored)
        self._stored = stored
        self._batches = [PlannedBatches(one, image_size, shorter=shorter) for one in stored]
        self._starts = np.cumsum([0, *(len(one) for one in stored)])
        self._columns = [self._mask_column(one.info.classes) if one.info.has_masks else None for one in stored]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Batch]]:
        """Ascending rows, those of one data set together: rows and their images, masks with the columns of classes."""
        numbers = np.asarray(rows, dtype=np.int64)
        place = np.searchsorted(self._starts, numbers, side="right") - 1
        for number in np.unique(place).tolist():
            own = numbers[place == number]
            yield own.tolist(), self._batches[number][full_plan(own - self._starts[number])]

    def masks(self, row: int, batch: Batch) -> Tensor | None:
        """Masks of a batch of :meth:`read` that begins with ``row``, as :attr:`classes` count; None without."""
        column = self._columns[int(np.searchsorted(self._starts, row, side="right")) - 1]
        return None if column is None or batch.masks is None else column.to(batch.masks.device)[batch.masks.long()]

    @property
    def with_masks(self) -> list[int]:
        """Rows of the data sets that have masks."""
        spans = zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), self._columns, strict=True)
        return [row for start, stop, column in spans if column is not None for row in range(start, stop)]

    def origin(self, row: int) -> RowsOf:
        """Where an image comes from."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        ids = self._stored[number].annotations.ids
        return RowsOf(self.data[number], ids[row - int(self._starts[number])].as_py())

    def _mask_column(self, classes: Sequence[str]) -> Tensor:
        """(256,) uint8: value in a mask of one data set -> value with the classes of all."""
        column = torch.full((256,), _VOID, dtype=torch.uint8)
        column[0] = 0
        column[1 : len(classes) + 1] = torch.tensor([self.classes.index(name) + 1 for name in classes])
        return column
