"""Attention: numbers by hand, autograd, and what is never kept in memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raytrain_xai.models.attention import attend, dynamic_attention, merge_heads, split_heads, standard_attention


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def test_two_tokens_by_hand() -> None:
    """Scores 0 and ln 3 for the first query, so weights 1/4 and 3/4; equal scores for the second."""
    qkv = torch.tensor([[[math.log(3), 0.0, 8.0], [0.0, 1.0, 4.0]]], dtype=torch.float64)
    out, pullback = dynamic_attention(qkv, 1)
    torch.testing.assert_close(out, torch.tensor([[[8 / 4 + 3 * 4 / 4], [6.0]]], dtype=torch.float64))
    torch.testing.assert_close(attend(qkv, 1), out)
    back = pullback(torch.tensor([[[1.0], [0.0]]], dtype=torch.float64), None)
    torch.testing.assert_close(back, torch.tensor([[[0.25], [0.75]]], dtype=torch.float64))


def test_heads_split_and_merge_in_the_published_order() -> None:
    qkv = torch.arange(12.0).view(1, 1, 12)  # q 0..3, k 4..7, v 8..11; two heads of two channels
    q, k, v = split_heads(qkv, 2)
    assert (q[0, :, 0].tolist(), k[0, :, 0].tolist()) == ([[0, 1], [2, 3]], [[4, 5], [6, 7]])
    assert merge_heads(v).tolist() == [[[8, 9, 10, 11]]]


def by_definition(qkv: Tensor, heads: int, *, constant: bool) -> Tensor:
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))  # (B, n, heads, d)
    if constant:
        q, k = q.detach(), k.detach()
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)


@pytest.mark.parametrize("constant", [True, False])
def test_linear_views_equal_autograd_on_the_definition(constant: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(3, 5, 24, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, 8, dtype=torch.float64)
    reference = by_definition(qkv, 2, constant=constant)
    (expected,) = torch.autograd.grad(reference, qkv, g)
    out, pullback = (dynamic_attention if constant else standard_attention)(qkv, 2)
    torch.testing.assert_close(out, reference, rtol=1e-12, atol=1e-12)
    expected = expected[..., 16:] if constant else expected
    torch.testing.assert_close(pullback(g, None), expected, rtol=1e-11, atol=1e-12)
    rows = torch.tensor([1, 1, 0])
    torch.testing.assert_close(pullback(g[rows], rows), expected[rows], rtol=1e-11, atol=1e-12)


def test_memory_grows_with_the_square_of_the_tokens_only_in_the_pullback_and_per_row() -> None:
    batch, heads, n, d = 4, 2, 256, 4
    torch.manual_seed(0)
    qkv = torch.randn(batch, n, 3 * heads * d, requires_grad=True)
    with Largest() as forward:
        out, pullback = dynamic_attention(qkv, heads)
    assert forward.elements == qkv.numel() < heads * n * n
    with Largest() as walk:
        pullback(torch.ones(1, n, heads * d), torch.tensor([2])).square().sum().backward()
    assert walk.elements == heads * n * n
