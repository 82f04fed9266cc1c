"""Hand-written derivatives of the B-cos operations (B = 2): one data and one weight gradient convolution per layer.

A B-cos convolution is y = ŵ∗x, r = (Σ_patch x² + ε)^-½, out = y·|y|·r. The functions here return y and r besides
``out``, because the explanation (the layer as a linear map with the scale |y|·r) is built from them
(:func:`bcos_pullback`). Whatever a loss on the explanation adds to the gradients of y and r joins the ordinary backward
of the layer, so no second-order autograd is needed and each layer runs its data and its weight gradient once.
Formulas: Böhle et al., CVPR 2022 (arXiv 2205.10268) for the unit; the derivatives are elementary and tested in float64.

Letters: B batch, R explained rows of the batch, C channels in, O channels out, H W map in, h w map out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from raytrain_xai.models.convolution import (
    ConvGeometry,
    box_sum,
    box_sum_adjoint,
    convolve,
    data_gradient,
    weight_gradient,
)

PATCH_EPS = 1e-6  # of the published networks; inside the root


def conv_input_grad(g: Tensor, weight: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    """Adjoint of a convolution: (R, O, h, w), (O, C/groups, kh, kw) -> (R, C, H, W); differentiable in g and weight."""
    return _ConvInputGrad.apply(g, weight, size, geometry)  # pyright: ignore[reportReturnType]


def autocast_operands(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the autocast type, which custom autograd functions do not see in their backward."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), weight.to(dtype)
    return x, weight


def unit_filters(weight: Tensor) -> Tensor:
    """Every filter (first axis) divided by its L2 norm; no epsilon, as published."""
    return _UnitFilters.apply(weight)  # pyright: ignore[reportReturnType]


def patch_energy(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Σ x² over the patch of every output position, (B, C, H, W) -> (B, 1, h, w) float32 or wider; padding is zero."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        energy = torch.linalg.vector_norm(
            x, dim=1, keepdim=True, dtype=wide
        ).square_()  # one pass when channels are last
    else:
        energy = x.to(wide).square().sum(dim=1, keepdim=True)
    return box_sum(energy, geometry)


def bcos_conv2d(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """B-cos convolution with B = 2, one group, no dilation.

    Args:
        x: (B, C, H, W) float.
        weight: (O, C, kh, kw), unit norm per filter.
    Returns:
        out (B, O, h, w); y (B, O, h, w) = weight∗x; r (B, 1, h, w) = 1/patch norm. All three carry gradients.
    """
    return _BcosConv.apply(x, weight, geometry)  # pyright: ignore[reportReturnType]


def bcos_pullback(
    g: Tensor,
    weight: Tensor,
    y: Tensor,
    r: Tensor,
    rows: Tensor | None,
    size: tuple[int, int],
    geometry: ConvGeometry,
) -> Tensor:
    """Explanation-mode gradient of a B-cos convolution: the scale |y|·r is a factor of g, not a function of x.

    Args:
        g: (R, O, h, w) upstream gradient of the explained rows.
        y, r: records of :func:`bcos_conv2d` for the whole batch.
        rows: (R,) int64 positions of the explained rows in the batch, repeats allowed; None: all, in order.
    Returns:
        (R, C, H, W), differentiable in g, weight, y and r.
    """
    return _BcosPullback.apply(g, weight, y, r, rows, size, geometry)  # pyright: ignore[reportReturnType]


def uncentered_batch_norm(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation without subtracting the mean: out = x·k, k = weight·(var + eps)^-½, biased variance.

    The variance is that of the batches of all workers when ``torch.distributed`` runs.

    Returns:
        out as x; k (C,) with gradient; var (C,) detached, for the running estimate.
    """
    return _UncenteredNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


class _UnitFilters(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(weight.flatten(1), dim=1).view(-1, *[1] * (weight.dim() - 1))
        unit = weight / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,) = grads
        unit, norm = ctx.saved_tensors
        radial = torch.linalg.vecdot(g.flatten(1), unit.flatten(1)).view_as(norm)
        return torch.addcmul(g, unit, radial, value=-1).div_(norm)


class _ConvInputGrad(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.geometry = geometry
        return data_gradient(g, weight, size, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tangent,) = grads
        g, weight = ctx.saved_tensors
        geometry: ConvGeometry = ctx.geometry
        grad_g = convolve(tangent, weight, geometry) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(g, tangent, weight, geometry)
        return grad_g, grad_weight, None, None


class _BcosConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
        y = convolve(x, weight, geometry)
        r = patch_energy(x, geometry).add(PATCH_EPS).rsqrt_()
        out = y.abs().mul_(y).mul_(r)
        ctx.save_for_backward(x, weight, y, r)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return out, y, r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, g_y, g_r = grads
        x, weight, y, r = ctx.saved_tensors
        geometry: ConvGeometry = ctx.geometry
        delta_y, delta_r = g_y, g_r
        if g is not None:
            scaled = y.abs().mul_(g)
            inner = torch.linalg.vecdot(scaled, y, dim=1).unsqueeze(1).to(r.dtype)
            delta_r = inner if g_r is None else inner.add_(g_r)
            delta_y = scaled.mul_((2 * r).to(scaled.dtype))
            if g_y is not None:
                delta_y.add_(g_y)
        if delta_y is None:
            delta_y = torch.zeros_like(y)
        grad_weight = weight_gradient(delta_y, x, weight, geometry)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        size = (x.shape[2], x.shape[3])
        grad_x = data_gradient(delta_y, weight, size, geometry)
        if delta_r is not None:
            two_delta_q = r.pow(3).neg_().mul_(delta_r)  # 2 · ∂L/∂q of q = Σ x²
            grad_x.addcmul_(x, box_sum_adjoint(two_delta_q, size, geometry).to(x.dtype))
        return grad_x, grad_weight, None


class _BcosPullback(Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, weight: Tensor, y: Tensor, r: Tensor, rows: Tensor | None, size: tuple[int, int],
        geometry: ConvGeometry,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(g, weight, y, r, rows)
        ctx.geometry = geometry
        y_rows, r_rows = (y, r) if rows is None else (y[rows], r[rows])
        return data_gradient(y_rows.abs().mul_(r_rows).mul_(g), weight, size, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tangent,) = grads
        g, weight, y, r, rows = ctx.saved_tensors
        geometry: ConvGeometry = ctx.geometry
        y_rows, r_rows = (y, r) if rows is None else (y[rows], r[rows])
        scale = y_rows.abs().mul_(r_rows)
        scaled = scale * g
        grad_weight = weight_gradient(scaled, tangent, weight, geometry)
        pushed = convolve(tangent, weight, geometry)
        grad_y = grad_r = None
        if ctx.needs_input_grad[2]:
            grad_r = torch.linalg.vecdot(pushed, scaled, dim=1).unsqueeze(1).to(r.dtype).div_(r_rows)
            grad_y = torch.copysign(r_rows.to(scaled.dtype).expand_as(scaled), y_rows, out=scaled).mul_(g).mul_(pushed)
            if rows is not None:
                grad_y = torch.zeros_like(y).index_add_(0, rows, grad_y)
                grad_r = torch.zeros_like(r).index_add_(0, rows, grad_r)
        grad_g = pushed.mul_(scale) if ctx.needs_input_grad[0] else None
        return grad_g, grad_weight, grad_y, grad_r, None, None, None


class _UncenteredNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, var, count = _batch_moments(x)
        inverse_std = (var + eps).rsqrt_()
        k = inverse_std if weight is None else inverse_std * weight
        out = x * _per_channel(k).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse_std, k)
        ctx.count = count
        ctx.mark_non_differentiable(var)
        ctx.set_materialize_grads(False)
        return out, k, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, g_k, _ = grads
        x, weight, mean, inverse_std, k = ctx.saved_tensors
        kappa = torch.zeros_like(k) if g_k is None else g_k.clone()
        if g is not None:
            kappa += (g * x).sum(dim=(0, 2, 3), dtype=k.dtype)
        grad_weight = kappa * inverse_std if weight is not None else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        if _is_distributed():
            kappa = kappa.clone()
            dist.all_reduce(kappa)  # the variance belongs to all workers, so does its gradient
        slope = kappa * k * inverse_std.square() / -ctx.count  # 2/N · ∂L/∂var
        grad_x = torch.addcmul(
            -_per_channel(slope * mean).to(x.dtype), x, _per_channel(slope).to(x.dtype)
        )  # slope · (x − mean)
        if g is not None:
            grad_x.addcmul_(g, _per_channel(k).to(x.dtype))
        return grad_x, grad_weight, None


def _batch_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel, and the number of values they come from, over all workers."""
    wide = torch.promote_types(x.dtype, torch.float32)
    count = x.numel() // x.shape[1]
    sums = torch.cat([x.sum(dim=(0, 2, 3), dtype=wide), torch.full((1,), count, dtype=wide, device=x.device)])
    if _is_distributed():
        dist.all_reduce(sums)
    mean = sums[:-1] / sums[-1]
    # A second pass around the mean: E[x²] − E[x]² would cancel. (torch.var_mean takes ten times as long on a CPU.)
    spread = (x.to(wide) - _per_channel(mean)).square_().sum(dim=(0, 2, 3))
    if _is_distributed():
        dist.all_reduce(spread)
    return mean, spread / sums[-1], sums[-1]


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
