"""A dictionary shared out over several devices: each holds K/n of the latents and all the vectors of a step.

A training step on shards is that of :func:`~raytrain_xai.concepts.step.sae_step`: the best local products are compared
with those of the other shards (exact top-k), partial reconstructions are summed, and every shard computes the gradients
of its own rows. What travels is n·k values and D sums per vector, whatever K is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.workers import Workers
from raytrain_xai.errors import ConfigError


def shard_of(sae: SparseAutoencoder, shards: Workers) -> SparseAutoencoder:
    """This shard's part of an autoencoder, with parameters of its own; the same settings.

    Raises:
        ConfigError: the latents do not divide into equal shares.
    """
    if sae.num_latents % shards.world_size:
        raise ConfigError(f"{sae.num_latents} latents do not divide into {shards.world_size} equal shares")
    replaced: dict[int, Tensor] = {id(value): _own(value, shards).clone() for value in sae.buffers()}
    for value in sae.parameters():
        replaced[id(value)] = torch.nn.Parameter(_own(value.detach(), shards).clone())
    return copy.deepcopy(sae, replaced)  # takes these instead of copying the whole


def shard_tensors(tensors: Mapping[str, Tensor], shards: Workers) -> dict[str, Tensor]:
    """This shard's rows of tensors with one row per latent; a copy. Those without a dimension belong to all.

    Serves weights, the state of Adam and :class:`~raytrain_xai.concepts.usage.LatentUsage` alike.
    """
    return {name: _own(value.detach(), shards).clone() for name, value in tensors.items()}


def join_tensors(tensors: Mapping[str, Tensor], shards: Workers) -> dict[str, Tensor]:
    """Inverse of :func:`shard_tensors`, on every shard. A collective: all shards call it, with the same names."""
    joined = {name: value.detach() for name, value in tensors.items()}
    return {name: shards.gather(joined[name]) if joined[name].dim() else joined[name] for name in sorted(joined)}


def _own(value: Tensor, shards: Workers) -> Tensor:
    return value.chunk(shards.world_size)[shards.rank] if value.dim() else value
