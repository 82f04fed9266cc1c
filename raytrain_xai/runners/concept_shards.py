"""Latents shared out to workers: every tensor with a first dimension of K is cut into equal parts, numbers are common.

This holds for parameters, for the moments of the optimiser and for firing counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.workers import Workers


def shard_of(sae: SparseAutoencoder, shards: Workers) -> SparseAutoencoder:
    """The same autoencoder with this worker's latents only; changes and returns ``sae``."""
    for name, whole in own_part(dict(sae.named_parameters()), shards).items():
        setattr(sae, name, nn.Parameter(whole.detach().clone()))
    return sae


def own_part(tensors: Mapping[str, Tensor], shards: Workers) -> dict[str, Tensor]:
    """This worker's part of tensors of all latents."""
    return {
        name: value.chunk(shards.world_size)[shards.rank] if value.dim() else value for name, value in tensors.items()
    }


def whole(tensors: Mapping[str, Tensor], shards: Workers) -> dict[str, Tensor]:
    """Tensors of all latents from the parts of all workers, on every worker. A collective; the keys are equal."""
    return {name: shards.gather(tensors[name]) if tensors[name].dim() else tensors[name] for name in sorted(tensors)}
