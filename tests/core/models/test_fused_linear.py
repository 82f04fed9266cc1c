"""The hand-written derivative of the B-cos linear layer against autograd on its definition, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raytrain_xai.models.bcos_layers import BcosLinear
from raytrain_xai.models.fused import unit_filters
from raytrain_xai.models.fused_linear import LINEAR_EPS, bcos_linear
from raytrain_xai.models.linearise import linearise


def by_definition(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = x @ weight.T
    r = 1 / (x.square().sum(-1, keepdim=True).sqrt() + LINEAR_EPS)
    return y * y.abs() * r, y, r


def operands() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    return x.requires_grad_(), unit_filters(weight).detach().requires_grad_()


def test_by_hand() -> None:
    """|x| = 5 and y = 3: 3·3/5. A step along x grows y²/|x| in proportion, one across only through the norm."""
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    out, y, r = bcos_linear(x, torch.tensor([[1.0, 0.0]]))
    assert (round(out.item(), 6), y.item(), round(r.item(), 6)) == (1.8, 3.0, 0.2)
    (slope,) = torch.autograd.grad(out, x)
    torch.testing.assert_close(slope, torch.tensor([[2 * 3 / 5 - 9 * 3 / 125, -9 * 4 / 125]]))


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1, 2), (0, 2)])
def test_gradients_of_all_outputs_equal_autograd(used: tuple[int, ...]) -> None:
    x, weight = operands()
    ours, expected = bcos_linear(x, weight), by_definition(x, weight)
    seeds = [torch.randn_like(expected[index]) for index in used]
    for index in used:
        torch.testing.assert_close(ours[index], expected[index], rtol=1e-12, atol=1e-14)
    found = torch.autograd.grad([ours[i] for i in used], [x, weight], seeds, materialize_grads=True)
    wanted = torch.autograd.grad([expected[i] for i in used], [x, weight], seeds, materialize_grads=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_layer_and_its_linear_view_equal_the_general_unit() -> None:
    torch.manual_seed(0)
    layer = BcosLinear(5, 4).double()
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 2, 4, dtype=torch.float64)
    weight = unit_filters(layer.linear.weight)
    general = layer.scaled(x, weight)
    torch.testing.assert_close(layer(x), general.out, rtol=1e-12, atol=1e-14)
    out, pullback = linearise(layer, x)
    torch.testing.assert_close(out, general.out, rtol=1e-12, atol=1e-14)
    rows = torch.tensor([2, 2, 0])
    expected = (g * general.scale[rows]) @ weight
    torch.testing.assert_close(pullback(g, rows), expected, rtol=1e-12, atol=1e-14)
    wanted = [x, layer.linear.weight]
    found = torch.autograd.grad(pullback(g, rows).square().sum() + out.sum(), wanted, retain_graph=True)
    for a, b in zip(found, torch.autograd.grad(expected.square().sum() + general.out.sum(), wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_an_input_of_zeros_has_output_and_gradient_zero() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    out, _, _ = bcos_linear(x, torch.eye(3))
    assert torch.equal(out, torch.zeros(1, 3))
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(slope, torch.zeros(1, 3))


def test_norms_are_float32_under_autocast() -> None:
    layer, x = BcosLinear(300, 4), torch.randn(2, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        _, _, r = bcos_linear(x.bfloat16(), unit_filters(layer.linear.weight).bfloat16())
    assert (out.dtype, r.dtype) == (torch.bfloat16, torch.float32)
    assert (out - layer(x)).norm() < 0.02 * layer(x).norm()
    out.float().sum().backward()
    assert layer.linear.weight.grad is not None
    assert layer.linear.weight.grad.dtype == torch.float32
