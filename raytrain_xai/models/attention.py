"""Softmax attention and its two linear views: as a dynamic linear map of the values, and as a function of everything.

out = A·v with A = softmax(q·kᵀ/√d), per head. In a dynamic-linear network q and k, hence A, are constant factors of the
explanation (Böhle et al., TPAMI 2024, arXiv 2306.10898); A keeps its graph, so a loss on the explanation reaches the
parameters through q and k as well. In a standard network the gradient goes through q, k and v.

The forward pass never forms A. A pullback recomputes it from q and k for the explained rows alone, (R, heads, n, n).

Letters: B batch, R explained rows, n tokens, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.models.linearise import Pullback, take_rows


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, n, 3·heads·d), queries before keys before values -> q, k, v, each (B, heads, n, d)."""
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, n, d) -> (B, n, heads·d)."""
    return x.transpose(1, 2).flatten(2)


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """(B, n, 3·heads·d) -> (B, n, heads·d)."""
    return merge_heads(F.scaled_dot_product_attention(*split_heads(qkv, num_heads)))


def dynamic_attention(qkv: Tensor, num_heads: int) -> tuple[Tensor, Pullback]:
    """Linear view with a constant A: the pullback takes (R, n, heads·d) to the values, (R, n, heads·d)."""
    q, k, v = split_heads(qkv, num_heads)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        matrix = _attention_matrix(take_rows(q, rows), take_rows(k, rows)).to(g.dtype)
        return merge_heads(matrix.transpose(-1, -2) @ _heads(g, num_heads))

    return merge_heads(F.scaled_dot_product_attention(q, k, v)), pullback


def standard_attention(qkv: Tensor, num_heads: int) -> tuple[Tensor, Pullback]:
    """Ordinary gradient: the pullback takes (R, n, heads·d) to queries, keys and values, (R, n, 3·heads·d)."""
    q, k, v = split_heads(qkv, num_heads)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        queries, keys, values = (take_rows(part, rows) for part in (q, k, v))
        matrix = _attention_matrix(queries, keys).to(g.dtype)
        g = _heads(g, num_heads)
        to_matrix = g @ values.transpose(-1, -2)
        to_scores = matrix * (to_matrix - (matrix * to_matrix).sum(dim=-1, keepdim=True))
        to_scores = to_scores * queries.shape[-1] ** -0.5
        parts = (to_scores @ keys, to_scores.transpose(-1, -2) @ queries, matrix.transpose(-1, -2) @ g)
        return torch.cat([merge_heads(part) for part in parts], dim=-1)

    return merge_heads(F.scaled_dot_product_attention(q, k, v)), pullback


def _attention_matrix(q: Tensor, k: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
