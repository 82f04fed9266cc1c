"""Sums over the cells of a table that is too large to be held, of which few cells are not empty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseSums:
    """Sums per cell; parts of a sum merge.

    Attributes:
        keys: (n,) int64, ascending and distinct; a cell is row · columns + column.
        sums: (n,) float64, or int64 for counts; (n, m) for m sums of each cell.
    """

    keys: Tensor
    sums: Tensor

    @classmethod
    def count(cls, keys: Tensor) -> SparseSums:
        """How often each key occurs: (m,) int64, in any order and with repeats."""
        found, counts = torch.unique_consecutive(keys.sort().values, return_counts=True)
        return cls(found, counts)

    @classmethod
    def add(cls, keys: Tensor, values: Tensor) -> SparseSums:
        """Sum of the values of each key: (m,) int64 in any order and with repeats, (m, ...) float64 or int64."""
        found, place = torch.unique(keys, return_inverse=True)
        return cls(found, values.new_zeros(len(found), *values.shape[1:]).index_add_(0, place, values))

    def merge(self, *others: SparseSums) -> SparseSums:
        """The sums of all parts together."""
        parts = (self, *others)
        return SparseSums.add(torch.cat([part.keys for part in parts]), torch.cat([part.sums for part in parts]))

    def cells(self, columns: int) -> tuple[Tensor, Tensor]:
        """Row and column of every key, each (n,) int64."""
        return self.keys // columns, self.keys % columns


def strongest_columns(table: SparseSums, rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
    """The columns with the largest sums of every row, by absolute value and with ties in order of the columns.

    Returns:
        (rows, count) int64 columns, -1 where a row has fewer, and their sums (rows, count).
    """
    row, column = table.cells(columns)
    order = table.sums.abs().argsort(descending=True, stable=True)  # keys ascend: ties stay in order of the columns
    order = order[row[order].argsort(stable=True)]
    row, column, sums = row[order], column[order], table.sums[order]
    first = torch.searchsorted(row, torch.arange(rows, device=row.device))
    rank = torch.arange(len(row), device=row.device) - first[row]
    kept = rank < count
    chosen = torch.full((rows, count), -1, dtype=torch.int64, device=row.device)
    values = table.sums.new_zeros(rows, count)
    chosen[row[kept], rank[kept]] = column[kept]
    values[row[kept], rank[kept]] = sums[kept]
    return chosen, values
