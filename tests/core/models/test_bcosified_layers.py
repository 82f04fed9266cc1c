"""B-cosified layers against hand-computed numbers, torch's layers at B = 1, and the bcos package at B = 2."""

from __future__ import annotations

import bcos.modules
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from raytrain_xai.models.bcosified_layers import BcosifiedConv2d, BcosifiedLinear, GeluGate, sized_filters
from raytrain_xai.models.linearise import linearise

ROWS = torch.tensor([2, 0, 2])


def test_one_unit_by_hand() -> None:
    layer = BcosifiedLinear(2, 1).double()
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.gain.fill_(2)
    # x = (2, 0): cos = 3/5, w·x = 6, so 2 · 3/5 · 6; x = (0, -1): cos = -4/5, w·x = -4, so 2 · 4/5 · -4
    out = layer(torch.tensor([[2.0, 0.0], [0.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(out, torch.tensor([[7.2], [-6.4]], dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2])
def test_without_b_it_is_the_convolution(groups: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=groups, bias=False).double()
    layer = BcosifiedConv2d(4, plain, b=1).double()
    layer.linear.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def test_b_cos_unit_times_gain_and_norm() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1).double()
    layer = BcosifiedConv2d(4, plain).double()
    layer.gain.uniform_(0.5, 3)
    reference = bcos.modules.BcosConv2d(4, 6, 3, stride=2, padding=1, b=2).double()
    reference.linear.weight.data.copy_(layer.linear.weight)
    size = layer.gain * layer.linear.weight.flatten(1).norm(dim=1)
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(x) * size.view(-1, 1, 1), rtol=1e-10, atol=1e-12)


def test_a_filter_of_zeros_answers_zero_and_can_learn() -> None:
    weight = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    filters = sized_filters(weight, torch.ones(1), 2)
    assert torch.equal(filters, torch.zeros(1, 3, dtype=torch.float64))
    filters.sum().backward()
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    assert (weight.grad > 0).all()


def test_gains_reach_what_was_folded_for_evaluation() -> None:
    layer = BcosifiedConv2d(2, nn.Conv2d(2, 3, 1)).eval()
    x = torch.rand(1, 2, 4, 4)
    with torch.no_grad():
        before = layer.joined(None)
        assert before is not None
        once = before[0](x)
        layer.rescale(torch.tensor([1.0, 2.0, 3.0]))
        after = layer.joined(None)
        assert after is not None
        torch.testing.assert_close(after[0](x), once * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))


def test_linear_pullback_keeps_the_scale_as_a_factor() -> None:
    torch.manual_seed(0)
    layer = BcosifiedLinear(5, 4).double()
    layer.gain.uniform_(0.5, 3)
    x, g = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    out, pullback = linearise(layer, x)
    scale = (x @ layer.linear.weight.T).abs() / (x.norm(dim=-1, keepdim=True) * layer.linear.weight.norm(dim=1))
    expected = (g * scale[ROWS] * layer.gain) @ layer.linear.weight
    torch.testing.assert_close(pullback(g, ROWS), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out, layer(x), rtol=0, atol=0)


def test_gelu_gate_is_gelu_with_the_normal_distribution_as_factor() -> None:
    x, g = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    out, pullback = linearise(GeluGate(), x)
    torch.testing.assert_close(out, nn.GELU()(x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(GeluGate()(x), nn.GELU()(x), rtol=0, atol=0)
    torch.testing.assert_close(pullback(g, ROWS), g * Normal(0.0, 1.0).cdf(x[ROWS]), rtol=1e-12, atol=1e-14)
