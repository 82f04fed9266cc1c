"""Sparse sums against dense tables."""

from __future__ import annotations

import torch

from raytrain_xai.concepts.sparse_sums import SparseSums, strongest_columns


def dense(table: SparseSums, rows: int, columns: int) -> torch.Tensor:
    flat = torch.zeros(rows * columns, dtype=table.sums.dtype)
    flat[table.keys] = table.sums
    return flat.view(rows, columns)


def test_sums_and_counts_of_keys_by_hand() -> None:
    keys = torch.tensor([7, 2, 7, 0, 2, 7])
    counted = SparseSums.count(keys)
    assert counted.keys.tolist() == [0, 2, 7]
    assert counted.sums.tolist() == [1, 2, 3]
    added = SparseSums.add(keys, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64))
    assert added.keys.tolist() == [0, 2, 7]
    assert added.sums.tolist() == [8, 18, 37]
    assert [part.tolist() for part in added.cells(5)] == [[0, 0, 1], [0, 2, 2]]


def test_parts_merge_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(35, (200,), generator=generator)
    values = torch.randint(-8, 9, (200,), generator=generator).double()
    parts = [SparseSums.add(k, v) for k, v in zip(keys.split(61), values.split(61), strict=True)]
    merged = parts[0].merge(*parts[1:])
    expected = torch.zeros(35, dtype=torch.float64).index_put_((keys,), values, accumulate=True)
    assert torch.equal(dense(merged, 5, 7).flatten(), expected)
    assert (merged.keys.diff() > 0).all()
    empty = SparseSums.count(keys[:0])
    assert torch.equal(empty.merge(SparseSums.count(keys)).sums, SparseSums.count(keys).sums)


def test_strongest_columns_of_every_row() -> None:
    """By absolute value; equal ones in order of the columns; rows without any."""
    keys = torch.tensor([0, 1, 2, 3, 8, 11, 12])
    sums = torch.tensor([1.0, -5.0, 3.0, 3.0, 2.0, -2.0, 7.0], dtype=torch.float64)
    columns, values = strongest_columns(SparseSums(keys, sums), rows=5, columns=4, count=3)
    assert columns.tolist() == [[1, 2, 3], [-1, -1, -1], [0, 3, -1], [0, -1, -1], [-1, -1, -1]]
    assert values.tolist() == [[-5, 3, 3], [0, 0, 0], [2, -2, 0], [7, 0, 0], [0, 0, 0]]
