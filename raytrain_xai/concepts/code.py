"""Sparse codes: which latents are active at a position, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SparseCode:
    """Active latents of a block of vectors.

    Attributes:
        values: (..., k) float, >= 0; a place with 0 is unused, whatever its index.
        indices: (..., k) int64, latents in [0, num_latents); used places of a vector have different ones.
        num_latents: length K of the dense form.
    """

    values: Tensor
    indices: Tensor
    num_latents: int

    def dense(self) -> Tensor:
        """(..., K): for small problems and tests; nothing on the way of data makes it."""
        empty = self.values.new_zeros(*self.values.shape[:-1], self.num_latents)
        return empty.scatter_add(-1, self.indices, self.values)

    def rows(self, rows: Tensor | None) -> SparseCode:
        """The code of some entries of the first dimension, repeats allowed; None keeps all."""
        if rows is None:
            return self
        return SparseCode(self.values.index_select(0, rows), self.indices.index_select(0, rows), self.num_latents)


def combine(values: Tensor, indices: Tensor, dictionary: Tensor) -> Tensor:
    """Weighted sums of dictionary rows: values (..., k), indices (..., k), dictionary (K, D) -> (..., D).

    Reads k rows per vector, never all K.
    """
    k = indices.shape[-1]
    total = functional.embedding_bag(
        indices.reshape(-1, k), dictionary, per_sample_weights=values.reshape(-1, k).to(dictionary.dtype), mode="sum"
    )
    return total.view(*indices.shape[:-1], dictionary.shape[1])


def project(vectors: Tensor, indices: Tensor, dictionary: Tensor) -> Tensor:
    """Inner products with chosen dictionary rows: vectors (..., D), indices (..., k) -> (..., k)."""
    k, dim = indices.shape[-1], dictionary.shape[1]
    rows = dictionary.index_select(0, indices.flatten()).view(-1, k, dim)
    return torch.bmm(rows, vectors.reshape(-1, dim, 1).to(dictionary.dtype)).view(indices.shape)


def stack_codes(codes: Sequence[SparseCode]) -> SparseCode:
    """Codes (n_i, k_i) of parts of a block -> (sum of n_i, largest k_i); shorter ones get unused places."""
    if len(codes) == 1:
        return codes[0]
    width = max(code.values.shape[1] for code in codes)
    values, indices = (
        torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])
        for parts in ([code.values for code in codes], [code.indices for code in codes])
    )
    return SparseCode(values, indices, codes[0].num_latents)


def sum_per_latent(places: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    """Add up what the places of each row hold per latent: (R, ..., k) with indices (R, ..., k) -> (R, K)."""
    totals = places.new_zeros(places.shape[0], num_latents)
    return totals.scatter_add(1, indices.flatten(1), places.flatten(1))
