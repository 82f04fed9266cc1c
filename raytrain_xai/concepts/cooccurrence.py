"""Which latents are active at the same positions, and how strongly: counts C and activation-weighted sums D.

    C_ij = Σ_n a_in a_jn,  D_ij = Σ_n z_in a_in a_jn,  a_in = [z_in > .001]

over positions n (Insight / CFM, 2026). Where ten of thousands of latents are active, the dense product makes millions
of zeros for each pair that occurs: here the at most k (k - 1) / 2 pairs of every position are added up, so that time
grows with the pairs, and memory with the cells that occur, never with the number of positions.

Deviation: a value in (0, .001] counts for nothing, while the published D adds it to D_ij and not to D_ii. Codes with a
threshold above .001 have no such values; without them, P_D = D_ij / D_ii cannot exceed 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.sparse_sums import SparseSums

ACTIVE = 1e-3  # a larger value is an active latent

_PAIRS_AT_ONCE = 1 << 21  # pairs of latents that are sorted together: 64 MiB with their sums


@dataclass(frozen=True)
class CoOccurrence:
    """Sums over a part of the positions; parts of other positions merge, in any grouping.

    Attributes:
        positions: () int64, how many were seen.
        frequency: (K,) int64, positions at which a latent is active: the diagonal of C.
        mass: (K,) float64, sum of its values there: the diagonal of D.
        pairs: (K x K), cells i < j that occur, with sums (n, 3) float64 of 1, z_i and z_j over the positions where both
            are active: C_ij, D_ij and D_ji. Counts are exact up to 2^53.
    """

    positions: Tensor
    frequency: Tensor
    mass: Tensor
    pairs: SparseSums

    @property
    def num_latents(self) -> int:
        """K."""
        return len(self.frequency)

    def merge(self, *others: CoOccurrence) -> CoOccurrence:
        """This part and ``others`` together."""
        parts = (self, *others)
        return CoOccurrence(
            torch.stack([part.positions for part in parts]).sum(dim=0),
            torch.stack([part.frequency for part in parts]).sum(dim=0),
            torch.stack([part.mass for part in parts]).sum(dim=0),
            self.pairs.merge(*[part.pairs for part in others]),
        )

    def directed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every pair in both directions.

        Returns:
            (2n,) each: latent i, latent j (int64), C_ij and D_ij (float64).
        """
        low, high = self.pairs.cells(self.num_latents)
        together, low_mass, high_mass = self.pairs.sums.unbind(dim=1)
        return (
            torch.cat([low, high]),
            torch.cat([high, low]),
            torch.cat([together, together]),
            torch.cat([low_mass, high_mass]),
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """The sums by name on the CPU, to be stored."""
        named = {
            "positions": self.positions, "frequency": self.frequency, "mass": self.mass, "pair_cells": self.pairs.keys,
            "pair_sums": self.pairs.sums,
        }  # fmt: skip
        return {name: value.cpu().contiguous() for name, value in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of :meth:`to_tensors`; other names are ignored."""
        pairs = SparseSums(tensors["pair_cells"], tensors["pair_sums"])
        return cls(tensors["positions"], tensors["frequency"], tensors["mass"], pairs)


def co_occurrence(code: SparseCode) -> CoOccurrence:
    """The sums of one block of positions: code (..., k)."""
    width = code.values.shape[-1]
    values, indices = code.values.reshape(-1, width).double(), code.indices.reshape(-1, width)
    active = values > ACTIVE
    total = values.new_zeros(code.num_latents).index_add_(0, indices.flatten(), (values * active).flatten())
    parts = [*_pair_sums(values, indices, active, code.num_latents)] or [_no_pairs(indices)]
    return CoOccurrence(
        positions=indices.new_tensor(len(values)),
        frequency=torch.bincount(indices[active], minlength=code.num_latents),
        mass=total,
        pairs=parts[0].merge(*parts[1:]) if len(parts) > 1 else parts[0],
    )


def _pair_sums(values: Tensor, indices: Tensor, active: Tensor, num_latents: int) -> Iterator[SparseSums]:
    """Sums per cell i < j of parts of the positions: values, indices, active (N, k)."""
    first, second = torch.triu_indices(values.shape[1], values.shape[1], offset=1, device=values.device)
    if not len(first):
        return
    at_once = max(1, _PAIRS_AT_ONCE // len(first))
    for part in zip(values.split(at_once), indices.split(at_once), active.split(at_once), strict=True):
        value, index, used = part
        both = used[:, first] & used[:, second]
        a, b, z_a, z_b = (side[both] for side in (index[:, first], index[:, second], value[:, first], value[:, second]))
        turned = a > b
        cell = torch.where(turned, b * num_latents + a, a * num_latents + b)
        sums = torch.stack([torch.ones_like(z_a), torch.where(turned, z_b, z_a), torch.where(turned, z_a, z_b)], dim=1)
        yield SparseSums.add(cell, sums)


def _no_pairs(indices: Tensor) -> SparseSums:
    return SparseSums(indices.new_zeros(0), torch.zeros(0, 3, dtype=torch.float64, device=indices.device))
