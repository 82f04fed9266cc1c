"""Loss of a sparse autoencoder and its gradients, by explicit sparse formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.dense_step import MainPart, dense_part
from raytrain_xai.concepts.entries import combine_entries, latent_sums
from raytrain_xai.concepts.revive import revive
from raytrain_xai.concepts.sae import BatchTopKSae, JumpReluSae, ReluSae, SparseAutoencoder, TopKSae
from raytrain_xai.concepts.selection import batch_topk_entries, smallest_used, topk_entries
from raytrain_xai.concepts.workers import ALONE, Workers


@dataclass(frozen=True)
class StepSettings:
    """Weights of the parts of the loss.

    Attributes:
        aux_weight: of the loss that revives dead latents.
        aux_latents: dead latents that take part in it at a vector, at most.
        sparsity_weight: of the variant's own penalty: sum of all values (ReLU), number of active latents (JumpReLU),
            per vector; 0 for TopK variants, which have none.
    """

    aux_weight: float = 1 / 32
    aux_latents: int = 256
    sparsity_weight: float = 0.0


@dataclass(frozen=True)
class SaeStep:
    """Result of :func:`sae_step`, equal on every worker; a shard has the gradients and counts of its own latents.

    Attributes:
        gradients: parameter name -> gradient of the mean loss over the vectors of all workers.
        sums: name -> () float, sums over the vectors of all workers, whose quotient by ``vectors`` is the mean:
            ``loss``, ``squared_error``, ``aux`` and ``sparsity`` (both without their weight), ``active`` (positive
            values, so that the mean is L0), and ``variance``, the squared distances to the mean of these vectors:
            1 - squared_error / variance is the explained share; ``length`` and ``rebuilt``, the squared lengths of
            vectors and reconstructions.
        fired: (K,) int64, vectors of all workers at which each latent has a positive value.
    """

    gradients: dict[str, Tensor]
    sums: dict[str, Tensor]
    fired: Tensor


@torch.no_grad()
def sae_step(
    sae: SparseAutoencoder,
    x: Tensor,
    *,
    dead: Tensor | None,
    settings: StepSettings,
    workers: Workers = ALONE,
    shards: Workers = ALONE,
) -> SaeStep:
    """Loss and gradients: mean over all vectors of ‖x - x'‖² + aux_weight · revival + sparsity_weight · penalty.

    No graph is kept. A BatchTopK autoencoder's threshold moves towards the smallest value used, as running statistics
    of a norm do.

    Args:
        sae: parameters equal on every worker; on a shard, its share of the latents.
        x: (N, D) float, vectors of this worker, divided by their σ; N is the same on all workers, and all shards of
            one dictionary see the same vectors.
        dead: (M,) int64, latents of this ``sae`` that count as dead, equal on all workers; may be empty. None leaves
            revival out, on all workers and shards.
        workers: those that share out the vectors; gradients are summed over them.
        shards: those that share out the latents; every one gets the gradients of its own rows.
    Source: Parchami-Araghi et al., NeurIPS 2025, arXiv 2510.25512, and their training code.
    """
    total = x.shape[0] * workers.world_size
    if isinstance(sae, ReluSae | JumpReluSae):
        main = dense_part(sae, x, total=total, weight=settings.sparsity_weight, shards=shards)
    else:
        main = _sparse_part(sae, x, workers, shards)
    aux = torch.zeros_like(main.penalty)
    if dead is not None and settings.aux_weight and (len(dead) or shards.world_size > 1):
        revival = revive(sae, x, main.error, dead, settings.aux_latents, workers=workers, shards=shards)
        aux = revival.loss
        main.gradients["encoder"].index_add_(0, dead, revival.encoder, alpha=settings.aux_weight)
        main.gradients["dictionary"].index_add_(0, dead, revival.dictionary, alpha=settings.aux_weight)
    gradients = {name: workers.sum(gradient) for name, gradient in main.gradients.items()}
    sums = _sums(main, x, aux, settings, workers=workers, shards=shards)  # before ``fired`` may be overwritten
    fired = workers.sum(main.fired)
    return SaeStep(gradients, sums, fired)


def _sparse_part(sae: SparseAutoencoder, x: Tensor, workers: Workers, shards: Workers) -> MainPart:
    """Gradients of (sum ‖x - x'‖²) / vectors of all workers, for codes of bounded size."""
    if isinstance(sae, BatchTopKSae):
        entries = batch_topk_entries(sae, x, workers, shards)
        sae.follow(smallest_used(entries, workers, shards))
    else:
        assert isinstance(sae, TopKSae), type(sae)
        entries = topk_entries(sae, x, shards)
    partial, pullback = combine_entries(entries, sae.dictionary)
    error = shards.sum(partial).sub_(x)
    g = error * (2 / (x.shape[0] * workers.world_size))
    sums = latent_sums(entries)
    gradients = {
        "encoder": sums(pullback(g) * (entries.values > 0), x),
        "dictionary": sums(entries.values, g),
    }
    return MainPart(gradients, error, entries.fired(), x.new_zeros(()))


def _sums(
    main: MainPart, x: Tensor, aux: Tensor, settings: StepSettings, *, workers: Workers, shards: Workers
) -> dict[str, Tensor]:
    """See :class:`SaeStep`; one reduction."""
    total = x.shape[0] * workers.world_size
    of_latents = shards.sum(torch.stack([main.penalty, main.fired.sum().to(x.dtype)]))
    of_vectors = torch.stack([main.error.square().sum(), x.square().sum(), (main.error * x).sum()])
    packed = workers.sum(torch.cat([of_latents, of_vectors, x.sum(dim=0)]))
    penalty, active, squared_error, length, product = packed[:5].unbind()
    loss = squared_error + settings.sparsity_weight * penalty + settings.aux_weight * aux * total
    return {
        "loss": loss, "squared_error": squared_error, "aux": aux * total, "sparsity": penalty, "active": active,
        "variance": length - packed[5:].square().sum() / total, "vectors": torch.full_like(length, total),
        "length": length, "rebuilt": squared_error + 2 * product + length,
    }  # fmt: skip
