"""Normalisation without bias: uncentred over the batch; centred per position, over the last axis and per image.

The centred ones are y = (x - mean) · (var + eps)^-½ · weight with the biased variance. In the linear view 1/std is a
constant factor, while the centring stays part of the linear map: a constant added to all values of a group does not
change the output, and the explanation has to say so. As everywhere in this package the factor keeps its graph, so that
a loss on an explanation reaches the parameters below through it.

Source: the norms of the published B-cos v2 networks (Böhle et al., TPAMI 2024, arXiv 2306.10898), which take torch's
GroupNorm and LayerNorm (Ba et al., 2016, arXiv 1607.06450) and remove the bias; position norm is Li et al., NeurIPS
2019 (arXiv 1907.04312). State-dict key: ``weight``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models.fused import uncentered_batch_norm
from raytrain_xai.models.linearise import DynamicLinear, Pullback, linearise, take_rows


class CentredNorm(DynamicLinear):
    """Base: the statistics are taken over ``axes``; ``trailing`` axes follow that of the weight."""

    axes: ClassVar[tuple[int, ...]]
    trailing: ClassVar[int]

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))

    def gain(self) -> Tensor:
        """The weight, shaped to multiply an input."""
        return self.weight.view(-1, *[1] * self.trailing)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class PositionNorm2d(CentredNorm):
    """Normalise the channels of every position: (B, C, H, W) -> same, in channels-last memory."""

    axes = (1,)
    trailing = 2

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__(features, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape and type."""
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, None, self.eps).permute(0, 3, 1, 2).to(x.dtype)


class LayerNorm(CentredNorm):
    """Normalise the last axis: (..., D) -> same."""

    axes = (-1,)
    trailing = 0

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__(features, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> same shape and type."""
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps).to(x.dtype)


class GroupNorm1(CentredNorm):
    """Normalise all values of an image together (group norm with one group): (B, C, H, W) -> same."""

    axes = (1, 2, 3)
    trailing = 2

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape and type."""
        return F.group_norm(x, 1, self.weight, None, self.eps).to(x.dtype)


@linearise.register(CentredNorm)
def _(module: CentredNorm, x: Tensor) -> tuple[Tensor, Pullback]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(module.axes, keepdim=True)
    inverse_std = (centred.square().mean(module.axes, keepdim=True) + module.eps).rsqrt()
    gain = module.gain()

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        h = g * gain * take_rows(inverse_std, rows)
        return (h - h.mean(module.axes, keepdim=True)).to(g.dtype)

    return (centred * inverse_std * gain).to(x.dtype), pullback


class BatchNormUncentered2d(DynamicLinear):
    """Batch normalisation that scales but does not shift: x / sqrt(var + eps) · weight, no bias.

    ``var`` is the ordinary centred, biased variance, also in the running estimate (torch's BatchNorm2d keeps the
    unbiased one). In training with several workers the statistics are those of the joint batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))  # unused, kept for the public state dict
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        return self.scaled(x)[0]

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(output, scale per channel (C,)); updates the running variance in training."""
        if not self.training:
            k = self.scale()
            return x * k.view(1, -1, 1, 1).to(x.dtype), k
        out, k, var = uncentered_batch_norm(x, self.weight, self.eps)
        with torch.no_grad():
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return out, k

    def scale(self) -> Tensor:
        """weight / sqrt(running variance + eps), (C,)."""
        inverse_std = (self.running_var + self.eps).rsqrt()
        return inverse_std if self.weight is None else inverse_std * self.weight

    def statistics(self) -> list[Tensor]:
        """The tensors that :meth:`scale` is made of."""
        return [self.running_var] if self.weight is None else [self.running_var, self.weight]


@linearise.register(BatchNormUncentered2d)
def _(module: BatchNormUncentered2d, x: Tensor) -> tuple[Tensor, Pullback]:
    out, k = module.scaled(x)
    return out, lambda g, rows: g * k.view(1, -1, 1, 1).to(g.dtype)  # noqa: ARG005
