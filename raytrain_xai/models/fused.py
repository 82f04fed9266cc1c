"""Hand-written derivatives of the B-cos operations (B = 2): one data and one weight gradient convolution per layer.

A B-cos convolution is y = ŵ∗x, r = (Σ_patch x² + ε)^-½, out = y·|y|·r. The functions here return y and r besides
``out``, because the explanation (the layer as a linear map with the scale |y|·r) is built from them
(:func:`bcos_pullback`). Whatever a loss on the explanation adds to the gradients of y and r joins the ordinary backward
of the layer, so no second-order autograd is needed and each layer runs its data and its weight gradient once.
Formulas: Böhle et al., CVPR 2022 (arXiv 2205.10268) for the unit; the derivatives are elementary and tested in float64.

Letters: B batch, R explained rows of the batch, C channels in, O channels out, H W map in, h w map out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

PATCH_EPS = 1e-6  # of the published networks; inside the root


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution; every pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def conv_input_grad(g: Tensor, weight: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    """Adjoint of a convolution: (R, O, h, w), (O, C/groups, kh, kw) -> (R, C, H, W); differentiable in g and weight."""
    return _ConvInputGrad.apply(g, weight, size, geometry)  # pyright: ignore[reportReturnType]


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
    return _box_sum(energy, geometry)


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


def _box_sum(energy: Tensor, geometry: ConvGeometry) -> Tensor:
    if geometry.kernel == (1, 1) and geometry.padding == (0, 0):
        sh, sw = geometry.stride
        return energy[:, :, ::sh, ::sw]
    return F.avg_pool2d(energy, geometry.kernel, geometry.stride, geometry.padding, divisor_override=1)


def _box_sum_adjoint(g: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    if geometry.kernel == (1, 1) and geometry.padding == (0, 0):
        sh, sw = geometry.stride
        if (sh, sw) == (1, 1):
            return g
        out = g.new_zeros(g.shape[0], 1, *size)
        out[:, :, ::sh, ::sw] = g
        return out
    like = g.new_empty(()).expand(g.shape[0], 1, *size)
    return torch.ops.aten.avg_pool2d_backward(
        g.contiguous(), like, geometry.kernel, geometry.stride, geometry.padding, False, True, 1
    )


def _conv(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


def _conv_gradients(
    g: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(data gradient, weight gradient) of a convolution, by the backward primitive itself."""
    data, weights, _ = torch.ops.aten.convolution_backward(
        g, x, weight, None, geometry.stride, geometry.padding, geometry.dilation, False, [0, 0], geometry.groups,
        [*wanted, False],
    )  # fmt: skip
    return data, weights


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
        return _input_grad(g, weight, size, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tangent,) = grads
        g, weight = ctx.saved_tensors
        geometry: ConvGeometry = ctx.geometry
        grad_g = _conv(tangent, weight, geometry) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _conv_gradients(g, tangent, weight, geometry, (False, True))[1]
        return grad_g, grad_weight, None, None


def _input_grad(g: Tensor, weight: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    channels = weight.shape[1] * geometry.groups
    like = g.new_empty(()).expand(g.shape[0], channels, *size)  # only its shape is read
    data, _ = _conv_gradients(g, like, weight, geometry, (True, False))
    assert data is not None
    return data


class _BcosConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
        y = _conv(x, weight, geometry)
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
        grad_x, grad_weight = _conv_gradients(delta_y, x, weight, geometry, ctx.needs_input_grad[:2])
        if grad_x is not None and delta_r is not None:
            delta_q = r.pow(3).mul_(-0.5).mul_(delta_r)
            spread = _box_sum_adjoint(delta_q, (x.shape[2], x.shape[3]), geometry).mul(2).to(x.dtype)
            grad_x.addcmul_(x, spread)
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
        return _input_grad(y_rows.abs().mul_(r_rows).mul_(g), weight, size, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tangent,) = grads
        g, weight, y, r, rows = ctx.saved_tensors
        geometry: ConvGeometry = ctx.geometry
        y_rows, r_rows = (y, r) if rows is None else (y[rows], r[rows])
        scale = y_rows.abs().mul_(r_rows)
        scaled = scale * g
        grad_weight = _conv_gradients(scaled, tangent, weight, geometry, (False, True))[1]
        pushed = _conv(tangent, weight, geometry)
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
