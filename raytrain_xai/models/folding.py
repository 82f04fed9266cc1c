"""Folding for evaluation: a B-cos convolution and the norm behind it as one convolution with fixed filters.

With k the scale of the norm per channel, k·y|y|·r = y'|y'|·r for y' = w'∗x and w' = sign(k)·√|k|·ŵ (B = 2). Exact up to
rounding, for the output and for the explanation alike: the scale of the linear map is |y'|·r, its filters are w'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from torch import Tensor, nn

from raytrain_xai.models.chain import DynamicLinear
from raytrain_xai.models.convolution import ConvGeometry, convolve, data_gradient
from raytrain_xai.models.fused import PATCH_EPS, autocast_operands, patch_energy
from raytrain_xai.models.fused_grouped import grouped_energy
from raytrain_xai.models.linearise import Pullback, linearise, take_rows

Version = tuple[tuple[object, ...], ...]


class Fold(NamedTuple):
    """A folded layer and what it was made from: the versions of all tensors, and the norm taken in."""

    version: Version
    norm: nn.Module | None
    module: FoldedBcosConv2d


def version_of(tensors: Sequence[Tensor]) -> Version | None:
    """Changes when a tensor is changed in place, loaded into, moved or replaced; None where torch does not say.

    Writes through ``.data`` are not seen; going to training and back makes a new fold after them.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((t.data_ptr(), t._version, t.device, t.dtype) for t in tensors)  # noqa: SLF001


class FoldedBcosConv2d(DynamicLinear):
    """B-cos convolution (B = 2) with fixed filters that need no normalisation; has no parameters.

    Args:
        weight: (O, C / groups, kh, kw), see the head of this file.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, geometry: ConvGeometry) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.geometry = geometry

    @classmethod
    def of(cls, filters: Tensor, scale: Tensor, geometry: ConvGeometry) -> Self:
        """Fold filters (O, C / groups, kh, kw) with the scale (O,) or () of what follows them."""
        root = scale.abs().sqrt().copysign(scale).to(filters)
        return cls((filters * root.view(-1, 1, 1, 1)).detach(), geometry)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, h, w)."""
        x, weight = autocast_operands(x, self.weight)
        y, scale = self.records(x, weight)
        return scale.mul_(y)

    def records(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """y' (B, O, h, w) and its scale |y'|·r with r = 1/patch norm, in the type of ``x``."""
        y = convolve(x, weight, self.geometry)
        scale = y.abs()
        if self.geometry.groups == 1 and self.geometry.dilation == (1, 1):
            return y, scale.mul_(patch_energy(x, self.geometry).add(PATCH_EPS).rsqrt_())
        r = grouped_energy(x, self.geometry).add(PATCH_EPS).rsqrt_()
        scale.unflatten(1, (self.geometry.groups, -1)).mul_(r.unsqueeze(2))
        return y, scale


@linearise.register(FoldedBcosConv2d)
def _(module: FoldedBcosConv2d, x: Tensor) -> tuple[Tensor, Pullback]:
    x, weight = autocast_operands(x, module.weight)
    y, scale = module.records(x, weight)
    size, geometry = (x.shape[2], x.shape[3]), module.geometry
    return scale * y, lambda g, rows: data_gradient(take_rows(scale, rows).mul(g), weight, size, geometry)
