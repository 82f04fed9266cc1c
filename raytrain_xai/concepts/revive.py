"""The auxiliary loss that brings dead latents back: they learn to reconstruct what the others leave over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.entries import Entries, combine_entries, latent_sums
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.selection import best_of_rows
from raytrain_xai.concepts.workers import Workers

_DENSE = 3  # up to so many dead latents per one that takes part, dense products are faster (measured on a CPU)

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Revival:
    """Auxiliary loss and its gradients.

    Attributes:
        loss: () over the vectors of all workers.
        encoder, dictionary: (M, A) and (M, D) gradients of the rows of the dead latents, from the vectors of this
            worker; A = D but for a bias, see :func:`revive_rows`.
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
    return revive_rows(
        sae.encoder[dead], sae.dictionary[dead], x, error, most,
        rows_at_once=sae.rows_at_once, workers=workers, shards=shards,
    )  # fmt: skip


def revive_rows(
    encoder: Tensor, rows: Tensor, x: Tensor, error: Tensor, most: int, *, rows_at_once: int, workers: Workers,
    shards: Workers,
) -> Revival:  # fmt: skip
    """As :func:`revive`, for given rows of encoder (M, A) and dictionary (M, D).

    Args:
        x: (N, A), what the encoder's rows are multiplied with; A may exceed D, as a bias is a column of ones.
        rows_at_once: vectors whose products are held at a time.
    """
    total = x.shape[0] * workers.world_size
    num_dead = len(encoder)
    mean = workers.sum(error.sum(dim=0)) / total
    variance = workers.sum((error - mean).square().sum())
    some = (shards.sum(torch.full_like(variance, num_dead)) > 0) & (variance > 0)
    scale = torch.where(some, 1 / variance, 0)  # the number of vectors divides out
    loss = torch.zeros_like(variance)
    for_encoder, for_rows = torch.zeros_like(encoder), torch.zeros_like(rows)
    decode = _decode_densely if num_dead <= _DENSE * most else _decode_sparsely
    for part, of_part in zip(x.split(rows_at_once), error.split(rows_at_once), strict=True):
        top = (part @ encoder.T).topk(min(most, num_dead), dim=1)
        code = best_of_rows(SparseCode(top.values.clamp(min=0), top.indices, num_dead), most, shards)
        partial, gradients = decode(code, rows)
        rest = shards.sum(partial).add_(of_part)  # e' - e
        loss.add_(rest.square().sum() * scale)
        of_encoder, of_rows = gradients(part, rest * (2 * scale))
        for_encoder.add_(of_encoder)
        for_rows.add_(of_rows)
    return Revival(workers.sum(loss), for_encoder, for_rows)


def _decode_densely(code: SparseCode, rows: Tensor) -> tuple[Tensor, Gradients]:
    """Reconstruction (n, D), and gradients of encoder and dictionary rows given the vectors and the gradient at it."""
    dense = code.dense()

    def gradients(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return ((g @ rows.T) * (dense > 0)).T @ x, dense.T @ g

    return dense @ rows, gradients


def _decode_sparsely(code: SparseCode, rows: Tensor) -> tuple[Tensor, Gradients]:
    """As :func:`_decode_densely`, reading the rows of the places of the code only."""
    entries = Entries.of(code)
    partial, pullback = combine_entries(entries, rows)

    def gradients(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        sums = latent_sums(entries)
        return sums(pullback(g) * (entries.values > 0), x), sums(entries.values, g)

    return partial, gradients
