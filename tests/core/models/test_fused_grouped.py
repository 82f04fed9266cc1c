"""Hand-written derivatives of grouped and dilated B-cos convolutions, against autograd through the plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.models.bcos_layers import BcosConv2d
from raytrain_xai.models.convolution import ConvGeometry
from raytrain_xai.models.fused_grouped import grouped_bcos_conv2d, grouped_bcos_pullback, grouped_energy
from raytrain_xai.models.linearise import linearise

# (channels in, channels out, geometry): depthwise, channel multiplier, groups, groups and stride, dilation
CASES = {
    "depthwise": (4, 4, ConvGeometry((5, 5), (1, 1), (2, 2), groups=4)),
    "multiplier": (3, 6, ConvGeometry((3, 3), (1, 1), (1, 1), groups=3)),
    "groups": (4, 6, ConvGeometry((3, 3), (1, 1), (1, 1), groups=2)),
    "strided": (6, 4, ConvGeometry((3, 2), (2, 2), (1, 0), groups=2)),
    "dilated": (2, 3, ConvGeometry((3, 3), (1, 1), (2, 2), (2, 2))),
}
ROWS = torch.tensor([1, 0, 1])


def operands(case: str) -> tuple[Tensor, Tensor, ConvGeometry]:
    channels, out_channels, geometry = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 6, 5, dtype=torch.float64, generator=generator)
    shape = (out_channels, channels // geometry.groups, *geometry.kernel)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), geometry


def by_formula(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """(y, |y|·r) with the patches of every group written out."""
    g = geometry
    y = F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    patches = F.unfold(x, g.kernel, g.dilation, g.padding, g.stride)
    energy = patches.unflatten(1, (g.groups, -1)).square().sum(2).unflatten(2, y.shape[2:])
    r = (energy + 1e-6).rsqrt().repeat_interleave(y.shape[1] // g.groups, dim=1)
    return y, y.abs() * r


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_loss_on_output_and_explanation_has_the_gradients_of_autograd(case: str, layout: torch.memory_format) -> None:
    x, weight, geometry = operands(case)
    size = (x.shape[2], x.shape[3])
    y, scale = by_formula(x, weight, geometry)
    seed = torch.randn(3, *y.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seed.requires_grad_()
    back = F.conv_transpose2d(  # the adjoint, by another function of torch
        seed * scale[ROWS], weight, None, geometry.stride, geometry.padding,
        (size[0] - 1 + 2 * geometry.padding[0] - geometry.dilation[0] * (geometry.kernel[0] - 1)) % geometry.stride[0],
        geometry.groups, geometry.dilation,
    )[:, :, : size[0], : size[1]]  # fmt: skip
    expected_loss = (y * scale).pow(3).sum() + back.pow(3).sum()
    expected = torch.autograd.grad(expected_loss, (x, weight, seed))
    out, records, r = grouped_bcos_conv2d(x.contiguous(memory_format=layout), weight, geometry)
    found_back = grouped_bcos_pullback(seed, weight, records, r, ROWS, size, geometry)
    torch.testing.assert_close(out, y * scale, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_back, back, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(out.pow(3).sum() + found_back.pow(3).sum(), (x, weight, seed))
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_energies_count_padding_as_zero(case: str) -> None:
    x, _, geometry = operands(case)
    ones = torch.ones_like(x)
    counts = grouped_energy(ones, geometry)
    per_group = x.shape[1] // geometry.groups
    assert counts.max() <= per_group * geometry.kernel[0] * geometry.kernel[1]
    patches = F.unfold(ones, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    assert torch.equal(counts.flatten(2), patches.unflatten(1, (geometry.groups, -1)).sum(2))


def test_backward_keeps_input_response_and_norm_only() -> None:
    """Depthwise: x, y and r are three maps of one size; the formulas through autograd keep more than twice that."""
    layer = BcosConv2d(16, 16, 3, padding=1, groups=16)
    x = torch.randn(2, 16, 12, 12, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
    weights = 3 * 16 * 9 * 4  # raw and unit filters, and their norms
    assert sum(kept.values()) <= 3 * x.numel() * 4 + weights
    out.sum().backward()


def test_half_precision_sums_energies_in_float32() -> None:
    layer = BcosConv2d(64, 64, 3, padding=1, groups=2)
    x = 30 * torch.rand(1, 64, 8, 8)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, pullback = linearise(layer, x.bfloat16())
        back = pullback(torch.ones_like(out), None)
    assert out.dtype == back.dtype == torch.bfloat16
    assert (out.float() - exact).abs().max() < 0.02 * exact.abs().max()
