"""The objectives of sparse autoencoders written densely from their definitions, for autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class JumpRelu(torch.autograd.Function):
    """z · 1[z > θ] with the pseudo-derivative -θ/ε in a window of width ε around θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return torch.where(z > theta, z, 0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        z, theta = ctx.saved_tensors
        window = ((z - theta) / ctx.width).abs() < 0.5
        return g * (z > theta), (-theta / ctx.width * window * g).sum(dim=0), None


class Step(torch.autograd.Function):
    """1[z > θ] with the pseudo-derivative -1/ε in the same window, and none with respect to z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        z, theta = ctx.saved_tensors
        window = ((z - theta) / ctx.width).abs() < 0.5
        return torch.zeros_like(g), (-1 / ctx.width * window * g).sum(dim=0), None


def topk_code(products: Tensor, k: int) -> Tensor:
    """(N, K) dense: the k largest of every row, negative ones as 0."""
    top = products.relu().topk(k, dim=1)
    return torch.zeros_like(products).scatter(1, top.indices, top.values)


def batch_topk_code(products: Tensor, k: int) -> Tensor:
    """(N, K) dense: the k · N largest of all, negative ones as 0."""
    flat = products.relu().flatten()
    top = flat.topk(k * len(products))
    return torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(products)


def aux_loss(encoder: Tensor, dictionary: Tensor, x: Tensor, residual: Tensor, dead: Tensor, most: int) -> Tensor:
    """Squared error of the residual's reconstruction by dead latents, over the residual's variance."""
    is_dead = torch.zeros(len(encoder), dtype=torch.bool)
    is_dead[dead] = True
    products = torch.where(is_dead, (x @ encoder.T).relu(), -torch.inf)
    top = products.topk(min(most, len(dead)), dim=1)
    code = torch.zeros_like(products).scatter(1, top.indices, top.values)
    e = residual.detach()
    error = (e - code @ dictionary).square().sum(dim=1).mean()
    return error / (e - e.mean(dim=0)).square().sum(dim=1).mean()
