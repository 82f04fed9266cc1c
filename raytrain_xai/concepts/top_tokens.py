"""The positions at which every latent is strongest, kept while codes come by: the value and the number of the token.

A token is a position of an image, numbered image by image. What is kept are (value, number) pairs, 8 bytes each: the
codes of the kept tokens are fetched afterwards, when it is known which ones they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.concepts.catalogue import unpack_top
from raytrain_xai.concepts.code import SparseCode

MAX_TOKENS = 1 << 32  # numbers of tokens are below

_NUMBER_BITS = 32
_LAST_NUMBER = MAX_TOKENS - 1


def top_tokens(code: SparseCode, first: int, count: int) -> Tensor:
    """The strongest tokens of every latent in some consecutive images.

    Args:
        code: (B, P, k).
        first: number of its first token; the last one is below :data:`MAX_TOKENS`.
        count: n, tokens kept per latent.
    Returns:
        (K, n) int64, strongest first and equal ones by number, 0 for none; see :func:`unpack_tokens`.
    """
    latents, packed = _active(code, first)
    return _largest(latents, packed, code.num_latents, count)


def top_images(code: SparseCode, first: int, count: int) -> Tensor:
    """The strongest token of every latent in each of the images where it is strongest; as :func:`top_tokens`."""
    num_images, num_positions, k = code.values.shape
    latents, packed = _active(code, first)
    image = torch.arange(num_images, device=latents.device).repeat_interleave(num_positions * k)
    image = image[(code.values > 0).flatten()]
    cells, place = torch.unique(latents * num_images + image, return_inverse=True)
    best = packed.new_zeros(len(cells)).scatter_reduce(0, place, packed, "amax")
    return _largest(cells // num_images, best, code.num_latents, count)


def merge_top(parts: list[Tensor]) -> Tensor:
    """The strongest of several parts (K, n), which have no image in common: (K, n)."""
    return torch.cat(parts, dim=1).topk(parts[0].shape[1], dim=1).values


def unpack_tokens(top: Tensor) -> tuple[Tensor, Tensor]:
    """(K, n) -> values (K, n) float32, 0 for none, and numbers of the tokens (K, n) int64, -1 for none."""
    return unpack_top(top)


def _active(code: SparseCode, first: int) -> tuple[Tensor, Tensor]:
    """Of every used place: its latent, and value and token packed into a number that orders by both."""
    num_tokens, k = code.values.shape[:-1].numel(), code.values.shape[-1]
    assert first + num_tokens <= MAX_TOKENS, "more tokens than can be numbered"
    used = (code.values > 0).flatten()
    bits = code.values.flatten().float()[used].view(torch.int32).long()
    number = torch.arange(first, first + num_tokens, device=bits.device).repeat_interleave(k)[used]
    return code.indices.flatten()[used], (bits << _NUMBER_BITS) | (_LAST_NUMBER - number)


def _largest(latents: Tensor, packed: Tensor, num_latents: int, count: int) -> Tensor:
    """The ``count`` largest numbers (E,) of each latent: (K, count), 0 where it has fewer."""
    order = packed.argsort(descending=True)
    order = order[latents[order].argsort(stable=True)]
    latents, packed = latents[order], packed[order]
    first = torch.searchsorted(latents, torch.arange(num_latents, device=latents.device))
    rank = torch.arange(len(latents), device=latents.device) - first[latents]
    kept = rank < count
    top = packed.new_zeros(num_latents, count)
    top[latents[kept], rank[kept]] = packed[kept]
    return top
