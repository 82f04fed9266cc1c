"""The auxiliary loss that brings dead latents back: they learn to reconstruct what the others leave over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.entries import Entries, combine_entries, latent_sums
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.selection import best_of_rows, largest_products
from raytrain_xai.concepts.workers import Workers


@dataclass(frozen=True)
class Revival:
    """Auxiliary loss and its gradients.

    Attributes:
        loss: (), over the vectors of all workers.
        encoder, dictionary: (M, D) gradients of the rows of the dead latents, from the vectors of this worker.
    """

    loss: Tensor
    encoder: Tensor
    dictionary: Tensor


def revive(
    sae: SparseAutoencoder, x: Tensor, error: Tensor, dead: Tensor, most: int, *, workers: Workers, shards: Workers
) -> Revival:
    """mean ‖e - e'‖² / mean ‖e - mean e‖² with e = x - x' held fixed and e' its reconstruction by dead latents.

    At a vector, the ``most`` dead latents with the largest ReLU products take part, fewer where there are fewer. The
    loss is 0 when none is dead, or when e is the same at all vectors (in the published code the quotient's NaN becomes
    0; a quotient by 0 does here too).

    Args:
        x: (N, D) vectors of this worker.
        error: (N, D) x' - x.
        dead: (M,) int64, dead latents of this shard.
    Source: Parchami-Araghi et al., NeurIPS 2025; form of Gao et al. 2024, arXiv 2406.04093.
    """
    total = x.shape[0] * workers.world_size
    mean = workers.sum(error.sum(dim=0)) / total
    variance = workers.sum((error - mean).square().sum())
    some = (shards.sum(torch.full_like(variance, len(dead))) > 0) & (variance > 0)
    scale = torch.where(some, 1 / variance, 0)  # the mean of both sides divides out
    entries = Entries.of(best_of_rows(largest_products(x, sae.encoder[dead], most), most, shards))
    rows = sae.dictionary[dead]
    partial, pullback = combine_entries(entries, rows)
    rest = shards.sum(partial).add_(error)  # e' - e
    loss = workers.sum(rest.square().sum()) * scale
    g = rest * (2 * scale)
    sums = latent_sums(entries)
    return Revival(loss, sums(pullback(g) * (entries.values > 0), x), sums(entries.values, g))
