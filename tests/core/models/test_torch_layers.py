"""Rules of torch's layers against autograd: values, gradients, repeated rows, and losses on the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.models import torch_layers as torch_layers  # registers the rules
from raytrain_xai.models.linearise import linearise

LAYERS = {
    "gelu": (nn.GELU(), (3, 5, 8)),
    "gelu tanh": (nn.GELU(approximate="tanh"), (3, 5, 8)),
    "layer norm": (nn.LayerNorm(8), (3, 5, 8)),
    "layer norm of two axes, plain": (nn.LayerNorm((5, 8), elementwise_affine=False), (3, 5, 8)),
    "group norm": (nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    "one group, plain": (nn.GroupNorm(1, 6, affine=False), (3, 6, 4, 5)),
    "self-attention": (nn.MultiheadAttention(8, 2, batch_first=True), (3, 5, 8)),
}


def layer(name: str) -> tuple[nn.Module, Tensor]:
    module, shape = LAYERS[name]
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double(), torch.randn(shape, dtype=torch.float64)


def call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x)[0] if isinstance(module, nn.MultiheadAttention) else module(x)


@pytest.mark.parametrize("name", LAYERS)
def test_output_and_gradient_are_those_of_autograd(name: str) -> None:
    module, x = layer(name)
    x.requires_grad_()
    out, pullback = linearise(module, x)
    torch.testing.assert_close(out, call(module, x), rtol=1e-12, atol=1e-12)
    g = torch.randn_like(out)
    (expected,) = torch.autograd.grad(call(module, x), x, g)
    torch.testing.assert_close(pullback(g, None), expected, rtol=1e-10, atol=1e-12)
    rows = torch.tensor([2, 0, 2])
    repeated = pullback(g[rows], rows)
    torch.testing.assert_close(repeated, expected[rows], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_loss_on_the_gradient_reaches_input_and_parameters(name: str) -> None:
    module, x = layer(name)
    x.requires_grad_()
    g = torch.randn_like(call(module, x)).detach()
    wanted = [x, *(parameter for key, parameter in module.named_parameters() if "bias" not in key)]
    found = torch.autograd.grad(linearise(module, x)[1](g, None).square().sum(), wanted)
    (gradient,) = torch.autograd.grad(call(module, x), x, g, create_graph=True)
    expected = torch.autograd.grad(gradient.square().sum(), wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("base", [nn.LayerNorm, nn.GroupNorm])
def test_a_subclass_that_computes_something_else_is_differentiated_as_it_is(base: type[nn.Module]) -> None:
    class Doubled(base):  # pyright: ignore[reportGeneralTypeIssues]
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    module = Doubled(6) if base is nn.LayerNorm else Doubled(2, 6)
    out, pullback = linearise(module, torch.ones(2, 6))
    assert torch.equal(out, torch.full((2, 6), 2.0))
    assert torch.equal(pullback(torch.ones(2, 6), None), torch.full((2, 6), 2.0))


@pytest.mark.parametrize("name", LAYERS)
def test_runs_under_bfloat16_autocast(name: str) -> None:
    module, x = layer(name)
    module, x = module.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = x.bfloat16()
        out, pullback = linearise(module, narrow)
        assert out.dtype == call(module, narrow).dtype
        back = pullback(torch.ones_like(out), None)
    exact = linearise(module, x)[1](torch.ones_like(x), None)
    assert (back - exact).norm() < 0.03 * exact.norm().clamp(min=1)


def test_attention_that_the_rule_does_not_cover_is_refused() -> None:
    sequence_first = nn.MultiheadAttention(8, 2)
    with pytest.raises(TypeError, match="only batch-first self-attention of one width, without dropout"):
        linearise(sequence_first, torch.zeros(2, 3, 8))
    with pytest.raises(TypeError, match="only batch-first"):
        linearise(nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True).train(), torch.zeros(2, 3, 8))
