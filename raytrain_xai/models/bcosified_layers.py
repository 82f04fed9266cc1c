"""Layers of B-cosified networks: B-cos units that keep the size of the filters they start from, attention, GELU gate.

Source: Arya et al., NeurIPS 2024 (B-cosification, arXiv 2411.00715). Deviation: every filter has a fixed gain, set once
from pictures (:func:`raytrain_xai.models.bcosify_start.calibrate`); the paper has none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models.attention import attend, dynamic_attention
from raytrain_xai.models.bcos_layers import BcosConv2d, BcosLinear
from raytrain_xai.models.chain import DynamicLinear
from raytrain_xai.models.fused import autocast_operands
from raytrain_xai.models.linearise import Pullback, linearise, take_rows

_MIN_NORM = 1e-12  # a filter of zeros, as pruned networks have, answers 0 and not NaN


class BcosifiedConv2d(BcosConv2d):
    """B-cos convolution that keeps the norms of its filters: y = gain · |cos(w, patch)|^(B-1) · w·patch, no bias.

    With B = 1 and gain 1 it is the ordinary convolution. ``gain`` (O,), positive, is a buffer.

    Args:
        in_channels: of the input, for all groups together.
        plain: convolution with zero padding whose geometry is taken; its weights are not read.
        b: exponent B >= 1.
    """

    gain: Tensor

    def __init__(self, in_channels: int, plain: nn.Conv2d, *, b: float = 2.0) -> None:
        assert plain.padding_mode == "zeros"
        assert not isinstance(plain.padding, str)
        pairs = (plain.kernel_size, plain.stride, plain.padding, plain.dilation)
        kernel, stride, padding, dilation = ((pair[0], pair[1]) for pair in pairs)
        super().__init__(in_channels, plain.out_channels, kernel, stride, padding, dilation, plain.groups, b=b)
        self.register_buffer("gain", torch.ones(plain.out_channels))

    def filters(self) -> Tensor:
        """(O, C / groups, kh, kw), see :func:`sized_filters`."""
        return sized_filters(self.linear.weight, self.gain, self.b)

    def sources(self) -> list[Tensor]:
        """The tensors that :meth:`filters` are made of."""
        return [self.linear.weight, self.gain]

    def rescale(self, factor: Tensor) -> None:
        """Multiply the gain by ``factor`` (O,) or ()."""
        self.gain.mul_(factor)


class BcosifiedLinear(BcosLinear):
    """B-cos linear layer over the last axis that keeps the norms of its filters, see :class:`BcosifiedConv2d`."""

    gain: Tensor

    def __init__(self, in_features: int, out_features: int, *, b: float = 2.0) -> None:
        super().__init__(in_features, out_features, b=b)
        self.register_buffer("gain", torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., O)."""
        return self.scaled(*self.operands(x)).out

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and filters (O, D) in the precision of the product."""
        return autocast_operands(x, sized_filters(self.linear.weight, self.gain, self.b))

    def rescale(self, factor: Tensor) -> None:
        """Multiply the gain by ``factor`` (O,) or ()."""
        self.gain.mul_(factor)


class BcosifiedAttention(DynamicLinear):
    """Self-attention of which queries and keys are constant in the linear view; without biases.

    As in the published B-cos transformers, queries, keys and values come from a plain linear layer, and the projection
    behind them is a B-cos unit.

    Args:
        plain: batch-first self-attention of one width; its weights are not read.
    """

    def __init__(self, plain: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = plain.num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * plain.embed_dim, plain.embed_dim))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.out_proj = BcosifiedLinear(plain.embed_dim, plain.embed_dim)

    def forward(self, x: Tensor, *_same: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """(B, n, D) -> (B, n, D) and nothing, called as torch's with the same tensor as queries, keys and values."""
        assert not need_weights
        return self.out_proj(attend(F.linear(x, self.in_proj_weight), self.num_heads)), None


class GeluGate(DynamicLinear):
    """GELU whose linear view is the gate Φ(x), the normal distribution function: y = Φ(x) · x with Φ(x) as a factor."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> same."""
        return F.gelu(x)


def sized_filters(weight: Tensor, gain: Tensor, b: float) -> Tensor:
    """w' = ŵ · (gain · ‖w‖)^(1/B), one filter per row of the first axis.

    A unit with B-cos scale |w'·x|^(B-1) / ‖x‖^(B-1) on the answers w'·x has the output gain · |cos|^(B-1) · w·x: norm
    and gain cost nothing at run time.

    Args:
        weight: (O, ...) float.
        gain: (O,) positive.
        b: exponent B >= 1.
    Returns:
        As ``weight``; a filter of zeros stays zero.
    """
    norm = torch.linalg.vector_norm(weight.flatten(1), dim=1).clamp_min(_MIN_NORM)
    factor = gain ** (1 / b) * norm ** (1 / b - 1)
    return weight * factor.view(-1, *[1] * (weight.dim() - 1))


@linearise.register(BcosifiedLinear)
def _(module: BcosifiedLinear, x: Tensor) -> tuple[Tensor, Pullback]:
    x, weight = module.operands(x)
    record = module.scaled(x, weight)
    return record.out, lambda g, rows: (g * take_rows(record.scale, rows)) @ weight


@linearise.register(BcosifiedAttention)
def _(module: BcosifiedAttention, x: Tensor) -> tuple[Tensor, Pullback]:
    width = x.shape[-1]
    qkv = F.linear(x, module.in_proj_weight)
    mixed, pull_attention = dynamic_attention(qkv, module.num_heads)
    out, pull_out = linearise(module.out_proj, mixed)
    to_values = module.in_proj_weight[2 * width :].to(qkv.dtype)
    return out, lambda g, rows: pull_attention(pull_out(g, rows), rows) @ to_values


@linearise.register(GeluGate)
def _(module: GeluGate, x: Tensor) -> tuple[Tensor, Pullback]:  # noqa: ARG001
    gate = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x * gate, lambda g, rows: g * take_rows(gate, rows)
