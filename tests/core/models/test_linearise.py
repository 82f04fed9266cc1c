"""Linear views of standard layers against autograd, and the fallback for modules without a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.models.bcos_layers import BcosConv2d
from raytrain_xai.models.linearise import linearise

LAYERS = {
    "conv": nn.Conv2d(4, 6, 3, 2, 1, bias=False),
    "conv of groups": nn.Conv2d(4, 6, 3, 1, 2, dilation=2, groups=2),
    "conv 1x1, stride 2": nn.Conv2d(4, 6, 1, 2),
    "conv same": nn.Conv2d(4, 6, 3, padding="same"),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "max pool": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, 2, 1),
    "average pool, ceil": nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "global pool": nn.AdaptiveAvgPool2d(1),
    "adaptive pool": nn.AdaptiveAvgPool2d(3),
    "flatten": nn.Flatten(),
    "identity": nn.Identity(),
    "no rule": nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU(), nn.GroupNorm(2, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_the_gradient(name: str) -> None:
    """Any choice of rows, repeats included, with a gradient of its own for each."""
    torch.manual_seed(0)
    layer = LAYERS[name].double()
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    out, pullback = linearise(layer, x.clone())
    for rows in (None, torch.tensor([1]), torch.tensor([2, 0, 2, 2])):
        g = torch.randn(3 if rows is None else len(rows), *out.shape[1:], dtype=torch.float64)
        images = (x if rows is None else x[rows]).requires_grad_()
        (expected,) = torch.autograd.grad(layer(images.clone()), images, g)
        torch.testing.assert_close(pullback(g, rows), expected, rtol=1e-11, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(linearise(layer, x.clone())[1](g, rows), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["conv", "conv of groups", "conv 1x1, stride 2", "no rule"])
def test_loss_on_the_walk_reaches_the_parameters(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name].double()
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    weights = [p for p in layer.parameters() if p.dim() > 1]
    out, pullback = linearise(layer, x)
    rows = torch.tensor([2, 0])
    g = torch.randn(2, *out.shape[1:], dtype=torch.float64)
    ours = torch.autograd.grad(pullback(g, rows).square().sum(), weights)
    images = x[rows].requires_grad_()
    (gradient,) = torch.autograd.grad(layer(images), images, g, create_graph=True)
    for a, b in zip(ours, torch.autograd.grad(gradient.square().sum(), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_dropout_uses_one_mask_for_forward_and_walk() -> None:
    torch.manual_seed(0)
    layer = nn.Dropout(0.5).train()
    x = torch.ones(2, 3, 8, 8)
    out, pullback = linearise(layer, x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(pullback(torch.ones_like(x), None), out)
    assert torch.equal(pullback(torch.ones(1, 3, 8, 8), torch.tensor([1])), out[1:])
    assert linearise(layer.eval(), x)[0] is x


def test_parameters_get_no_gradient_when_disabled() -> None:
    with torch.no_grad():
        out, pullback = linearise(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()), torch.rand(1, 3, 4, 4))
        assert not out.requires_grad
        assert not pullback(torch.ones_like(out), None).requires_grad


class Block(nn.Module):
    """A block that forgot its rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BcosConv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def test_blocks_that_hide_dynamic_layers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Block contains dynamic-linear layers \(conv\).*@linearise.register\(Block\)"):
        linearise(Block(), torch.rand(1, 3, 4, 4))
