"""The auxiliary loss that brings dead latents back: they learn to reconstruct what the others leave over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.selection import best_of_rows
from raytrain_xai.concepts.workers import Workers


@dataclass(frozen=True)
class Revival:
    """Auxiliary loss and its gradients.

    Attributes:
        loss: () over the vectors of all workers.
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
    0; a quotient by 0 does here too). Dead latents are few and many of them take part, so the products are dense, with
    the rows of the dead only.

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
    scale = torch.where(some, 1 / variance, 0)  # the number of vectors divides out
    encoder, rows = sae.encoder[dead], sae.dictionary[dead]
    loss = torch.zeros_like(variance)
    for_encoder, for_rows = torch.zeros_like(encoder), torch.zeros_like(rows)
    for part, of_part in zip(x.split(sae.rows_at_once), error.split(sae.rows_at_once), strict=True):
        code = _largest(part @ encoder.T, most, shards)
        rest = shards.sum(code @ rows).add_(of_part)  # e' - e
        g = rest * (2 * scale)
        loss.add_(rest.square().sum() * scale)
        for_rows.addmm_(code.T, g)
        for_encoder.addmm_(((g @ rows.T) * (code > 0)).T, part)
    return Revival(workers.sum(loss), for_encoder, for_rows)


def _largest(products: Tensor, most: int, shards: Workers) -> Tensor:
    """The ``most`` largest of every row of products (n, M) over all shards, where positive; the others become 0."""
    if shards.world_size == 1 and products.shape[1] <= most:
        return products.clamp_(min=0)
    top = products.topk(min(most, products.shape[1]), dim=1)
    best = best_of_rows(SparseCode(top.values.clamp(min=0), top.indices, products.shape[1]), most, shards)
    return best.dense()
