"""Active values of a batch as a list, and the sparse products that a training step needs.

Every product reads one row of D numbers per active value; nothing has the size vectors x latents. The kernel behind all
of them is ``embedding_bag``: weighted sums of chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode


@dataclass(frozen=True)
class Entries:
    """Values of E (vector, latent) pairs.

    Attributes:
        rows: (E,) int64, ascending: the vector of each.
        latents: (E,) int64.
        values: (E,) float, >= 0; 0 is an unused place.
        num_rows: vectors N.
        num_latents: latents K.
    """

    rows: Tensor
    latents: Tensor
    values: Tensor
    num_rows: int
    num_latents: int

    @classmethod
    def of(cls, code: SparseCode) -> Self:
        """All places of a code (N, k)."""
        num_rows, k = code.values.shape
        rows = torch.arange(num_rows, device=code.values.device).repeat_interleave(k, output_size=num_rows * k)
        return cls(rows, code.indices.flatten(), code.values.flatten(), num_rows, code.num_latents)

    def fired(self) -> Tensor:
        """(K,) int64, how many vectors have a positive value of each latent."""
        counts = torch.zeros(self.num_latents, dtype=torch.int64, device=self.latents.device)
        return counts.scatter_add_(0, self.latents, (self.values > 0).to(torch.int64))


def combine_entries(entries: Entries, dictionary: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Sum the dictionary rows of every vector, each times its value.

    Args:
        dictionary: (K, D).
    Returns:
        (N, D), and the pullback: gradient (N, D) at it -> gradient at the values (E,), the inner products of gradient
        and dictionary row. There is no public kernel for these products but the backward of ``embedding_bag``.
    """
    values = entries.values.detach().requires_grad_()
    offsets = _starts(entries.rows, entries.num_rows)
    with torch.enable_grad():
        combined = functional.embedding_bag(
            entries.latents, dictionary.detach(), offsets, per_sample_weights=values, mode="sum"
        )

    def pullback(g: Tensor) -> Tensor:
        return torch.autograd.grad(combined, values, g)[0]

    return combined.detach(), pullback


def latent_sums(entries: Entries) -> Callable[[Tensor, Tensor], Tensor]:
    """Prepare sums over all entries of a latent; sorts once for several of them.

    Returns:
        Function of weights (E,) and vectors (N, D) -> (K, D): sum of weight · vectors[row] over the latent's entries.
    """
    latents, order = entries.latents.sort(stable=True)
    rows, offsets = entries.rows[order], _starts(latents, entries.num_latents)

    def total(weights: Tensor, vectors: Tensor) -> Tensor:
        return functional.embedding_bag(rows, vectors, offsets, per_sample_weights=weights[order], mode="sum")

    return total


def _starts(ascending: Tensor, count: int) -> Tensor:
    """Position of the first entry of each of ``count`` numbers in an ascending list."""
    return torch.searchsorted(ascending, torch.arange(count, device=ascending.device))
