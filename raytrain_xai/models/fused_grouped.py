"""Hand-written derivatives of B-cos convolutions with groups or dilation (B = 2), as in ResNeXts and ConvNeXts.

As :mod:`~raytrain_xai.models.fused`, with one patch norm per group: out = y·|y|·r with r of shape (B, G, h, w). The
convolution is torch's; energies and scales keep x, y and r for the backward and nothing else. Patch energies are a
depthwise convolution with ones: a quarter to a twentieth of the time of average pooling on a CPU.

Letters: B batch, R explained rows of the batch, C channels in, O channels out, G groups, H W map in, h w map out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from raytrain_xai.models.convolution import ConvGeometry
from raytrain_xai.models.fused import PATCH_EPS, conv_input_grad


def grouped_energy(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Σ x² over the patch of every output position, group by group; padding counts as zero.

    Args:
        x: (B, C, H, W) float.
    Returns:
        (B, G, h, w) in float32 or wider, differentiable.
    """
    return _GroupedEnergy.apply(x, geometry)  # pyright: ignore[reportReturnType]


def grouped_bcos_conv2d(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """B-cos convolution with B = 2 and any groups and dilation.

    Args:
        x: (B, C, H, W) float.
        weight: (O, C / G, kh, kw), unit norm per filter.
    Returns:
        out (B, O, h, w); y (B, O, h, w) = weight∗x; r (B, G, h, w) = 1/patch norm. All three carry gradients.
    """
    g = geometry
    y = F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    out, r = _GroupedScale.apply(y, grouped_energy(x, g))  # pyright: ignore[reportGeneralTypeIssues]
    return out, y, r


def grouped_bcos_pullback(
    g: Tensor,
    weight: Tensor,
    y: Tensor,
    r: Tensor,
    rows: Tensor | None,
    size: tuple[int, int],
    geometry: ConvGeometry,
) -> Tensor:
    """As :func:`~raytrain_xai.models.fused.bcos_pullback`, with the records of :func:`grouped_bcos_conv2d`."""
    scaled: Tensor = _ScaleRows.apply(g, y, r, rows)  # pyright: ignore[reportAssignmentType]
    return conv_input_grad(scaled, weight, size, geometry)


class _GroupedEnergy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(x)
        ctx.geometry = geometry
        g = geometry
        squares = _sum_groups(x.to(torch.promote_types(x.dtype, torch.float32)).square(), g.groups)
        with _full_precision(x.device.type):
            return F.conv2d(squares, _ones(squares, g), None, g.stride, g.padding, g.dilation, g.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (delta,) = grads
        (x,) = ctx.saved_tensors
        g: ConvGeometry = ctx.geometry
        like = delta.new_empty(()).expand(x.shape[0], g.groups, *x.shape[2:])  # only its shape is read
        spread, _, _ = torch.ops.aten.convolution_backward(
            delta, like, _ones(delta, g), None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups,
            (True, False, False),
        )  # fmt: skip
        return _scale_(2 * x, spread.to(x.dtype)), None


class _GroupedScale(Function):
    """(y, energy) -> (y·|y|·r, r) with r = (energy + ε)^-½."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
        r = energy.add(PATCH_EPS).rsqrt_()
        ctx.save_for_backward(y, r)
        ctx.set_materialize_grads(False)
        return _scale_(y.abs().mul_(y), r), r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, delta_r = grads
        y, r = ctx.saved_tensors
        delta_y = None
        if g is not None:
            scaled = y.abs().mul_(g)
            inner = _sum_groups(scaled * y, r.shape[1]).to(r.dtype)
            delta_r = inner if delta_r is None else inner.add_(delta_r)
            delta_y = _scale_(scaled, 2 * r)
        return delta_y, None if delta_r is None else r.pow(3).mul_(delta_r).mul_(-0.5)


class _ScaleRows(Function):
    """(g, y, r, rows) -> g·|y|·r of the explained rows."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, r: Tensor, rows: Tensor | None) -> Tensor:
        ctx.save_for_backward(g, y, r, rows)
        y_rows, r_rows = (y, r) if rows is None else (y[rows], r[rows])
        return _scale_(y_rows.abs().mul_(g), r_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tangent,) = grads
        g, y, r, rows = ctx.saved_tensors
        y_rows, r_rows = (y, r) if rows is None else (y[rows], r[rows])
        grad_y = grad_r = None
        if ctx.needs_input_grad[1]:
            inner = tangent * g
            grad_r = _sum_groups(inner * y_rows.abs(), r.shape[1]).to(r.dtype)
            grad_y = _scale_(inner.mul_(y_rows.sign()), r_rows)
            if rows is not None:
                grad_y = torch.zeros_like(y).index_add_(0, rows, grad_y)
                grad_r = torch.zeros_like(r).index_add_(0, rows, grad_r)
        return _scale_(y_rows.abs().mul_(tangent), r_rows), grad_y, grad_r, None


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Without autocast, which would sum squares in half precision; some kinds of device (meta) have none."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _sum_groups(values: Tensor, groups: int) -> Tensor:
    """Sum over the channels of each group, (B, C, h, w) -> (B, G, h, w)."""
    return values if values.shape[1] == groups else values.unflatten(1, (groups, -1)).sum(2)


def _scale_(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply (B, C, h, w) by a factor per group (B, G, h, w), in place."""
    values.unflatten(1, (factor.shape[1], -1)).mul_(factor.unsqueeze(2))
    return values


def _ones(like: Tensor, geometry: ConvGeometry) -> Tensor:
    return like.new_ones(geometry.groups, 1, *geometry.kernel)
