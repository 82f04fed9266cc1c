"""Which products a TopK or BatchTopK autoencoder keeps in training, exactly, whatever is shared out.

Vectors may be shared out over ``workers`` and latents over ``shards``. Top-k then needs no more than the best local
values of everybody: a worker learns which of its own are among the best of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.entries import Entries
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.sae import BatchTopKSae, TopKSae
from raytrain_xai.concepts.workers import Workers


def topk_entries(sae: TopKSae, x: Tensor, shards: Workers) -> Entries:
    """The k largest products of every vector x (N, D), over all shards of the latents; those of this shard."""
    return Entries.of(best_of_rows(sae.encode(x), sae.k, shards))


def best_of_rows(code: SparseCode, k: int, shards: Workers) -> SparseCode:
    """Set to 0 what is not among the k largest values of a vector over all shards.

    Args:
        code: (N, w), the largest values of this shard's latents; w <= k may differ between shards.
    """
    if shards.world_size == 1:
        return code
    num_rows, width = code.values.shape
    padded = torch.nn.functional.pad(code.values, (0, k - width))
    everyone = shards.gather(padded).view(shards.world_size, num_rows, k).transpose(0, 1).reshape(num_rows, -1)
    chosen = torch.zeros_like(everyone).scatter_(1, everyone.topk(k, dim=1).indices, 1)
    own = chosen[:, shards.rank * k : shards.rank * k + width]
    return SparseCode(code.values * own, code.indices, code.num_latents)


def batch_topk_entries(sae: BatchTopKSae | MatryoshkaSae, x: Tensor, workers: Workers, shards: Workers) -> Entries:
    """The largest k·N products of the whole batch, N vectors over all workers, positive ones only; those held here.

    Holds the products of all vectors of this worker. Their number per vector and worker depends on the data: a device
    sync.
    """
    products = sae.preactivation(x)
    count = sae.k * x.shape[0] * workers.world_size
    values, place = _largest_positive(products, count)
    if workers.world_size * shards.world_size > 1:
        kept = _among_best(values, count, workers, shards)
        values, place = values[kept], place[kept]
    place, order = place.sort()
    rows = place // products.shape[1]
    return Entries(rows, place - rows * products.shape[1], values[order], x.shape[0], sae.num_latents)


def smallest_used(entries: Entries, workers: Workers, shards: Workers) -> Tensor:
    """Smallest positive value over all workers and shards, (); infinite if there is none."""
    infinity = entries.values.new_full((1,), torch.inf)
    used = torch.cat([entries.values.masked_fill(entries.values <= 0, torch.inf), infinity])
    return workers.gather(shards.gather(used.amin().view(1))).amin()


def _largest_positive(products: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values in descending order and flat places of the ``count`` largest positive products (N, K), or all of them.

    The ``count``-th largest of a subset bounds that of the whole from below, so what reaches the bound is all that has
    to be sorted. Twice as many values per vector as are kept on average make the bound tight. (``topk`` of the whole
    is far slower on CPUs.)
    """
    num_rows, num_latents = products.shape
    per_row = min(num_latents, 2 * -(-count // max(num_rows, 1)))
    subset = products.topk(per_row, dim=1, sorted=False).values.flatten().sort(descending=True).values
    bound = subset[count - 1] if count <= len(subset) else subset.new_zeros(())
    flat = products.flatten()
    place = ((flat >= bound) & (flat > 0)).nonzero().flatten()
    values, order = flat[place].sort(descending=True, stable=True)
    return values[:count], place[order[:count]]


def _among_best(values: Tensor, count: int, workers: Workers, shards: Workers) -> Tensor:
    """(E,) bool: which of these descending values are among the ``count`` largest of all workers and shards."""
    padded = torch.nn.functional.pad(values, (0, count - len(values)))
    everyone = workers.gather(shards.gather(padded))
    best = everyone.sort(descending=True, stable=True).indices[:count]
    chosen = torch.zeros(len(everyone), dtype=torch.bool, device=values.device)
    chosen[best] = True
    start = (workers.rank * shards.world_size + shards.rank) * count
    return chosen[start : start + len(values)]
