"""Convolution and its two adjoints as plain functions, without autograd: primitives of the hand-written derivatives.

On a CPU, torch sends pointwise (1x1) float32 convolutions of a single-threaded process, which a worker with one CPU
is, to a matrix product that takes twice as long as oneDNN's convolution on AVX-512 machines; pointwise layers are two
thirds of a bottleneck ResNet. These functions call oneDNN directly where it was measured to win.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import mkldnn


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution; every pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def is_pointwise(self) -> bool:
        """True for 1x1 kernels without padding and groups."""
        return self.kernel == (1, 1) and self.padding == (0, 0) and self.groups == 1


def convolve(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """(B, C, H, W), (O, C/groups, kh, kw) -> (B, O, h, w)."""
    if geometry.is_pointwise and _is_onednn_case(x):
        return _onednn(x, weight, geometry.stride)
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


def data_gradient(g: Tensor, weight: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    """Adjoint in the input: (R, O, h, w), (O, C/groups, kh, kw) -> (R, C, H, W) with (H, W) = ``size``."""
    num_values, channels = g.shape[0] * g.shape[2] * g.shape[3], max(weight.shape[:2])
    if geometry.is_pointwise and _is_onednn_case(g) and 4 * num_values >= channels:
        return _spread(_onednn(g, weight.transpose(0, 1), (1, 1)), size, geometry.stride)
    like = g.new_empty(()).expand(g.shape[0], weight.shape[1] * geometry.groups, *size)  # only its shape is read
    return _backward(g, like, weight, geometry, (True, False))[0]


def weight_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Adjoint in the filters: (R, O, h, w), (R, C, H, W) -> as ``weight``, whose values are not read."""
    return _backward(g, x, weight, geometry, (False, True))[1]


def box_sum(energy: Tensor, geometry: ConvGeometry) -> Tensor:
    """Sum over the patch of every output position, (B, 1, H, W) -> (B, 1, h, w); padding counts as zero."""
    if geometry.is_pointwise:
        return energy[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    return F.avg_pool2d(energy, geometry.kernel, geometry.stride, geometry.padding, divisor_override=1)


def box_sum_adjoint(g: Tensor, size: tuple[int, int], geometry: ConvGeometry) -> Tensor:
    """Adjoint of :func:`box_sum`, (B, 1, h, w) -> (B, 1, H, W)."""
    if geometry.is_pointwise:
        return _spread(g, size, geometry.stride)
    like = g.new_empty(()).expand(g.shape[0], 1, *size)
    return torch.ops.aten.avg_pool2d_backward(
        g.contiguous(), like, geometry.kernel, geometry.stride, geometry.padding, False, True, 1
    )


def _spread(values: Tensor, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Put values on every stride-th pixel of a zero map."""
    if stride == (1, 1):
        return values
    shape = (values.shape[0], values.shape[1], *size)
    is_last = values.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    out = torch.empty(shape, dtype=values.dtype, device=values.device, memory_format=layout).zero_()
    out[:, :, :: stride[0], :: stride[1]] = values
    return out


def _is_onednn_case(x: Tensor) -> bool:
    is_portable = torch.compiler.is_compiling()  # a graph must not hold operators of one kind of device
    return not is_portable and x.device.type == "cpu" and x.dtype == torch.float32 and mkldnn.is_available()


def _onednn(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    return torch.ops.aten.mkldnn_convolution(x, weight, None, (0, 0), stride, (1, 1), 1)


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    data, weights, _ = torch.ops.aten.convolution_backward(
        g, x, weight, None, geometry.stride, geometry.padding, geometry.dilation, False, (0, 0), geometry.groups,
        (*wanted, False),
    )  # fmt: skip
    return data, weights
