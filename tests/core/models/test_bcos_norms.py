"""Centred norms without bias: the bcos package's layers, numbers by hand, and what centring does to explanations."""

from __future__ import annotations

import pytest
import torch
from bcos.modules import norms as published
from torch import Tensor, nn

from raytrain_xai.models.bcos_norms import CentredNorm, GroupNorm1, LayerNorm, PositionNorm2d
from raytrain_xai.models.linearise import linearise

PAIRS = [
    (PositionNorm2d, published.DetachablePositionNorm2d),
    (LayerNorm, published.DetachableLayerNorm),
    (GroupNorm1, published.DetachableGNLayerNorm2d),
]


def pair(ours: type[CentredNorm], theirs: type[nn.Module]) -> tuple[CentredNorm, nn.Module]:
    own, reference = ours(6).double(), published.NoBias(theirs)(6).double()
    with torch.no_grad():
        own.weight.uniform_(0.5, 1.5)
    reference.load_state_dict(own.state_dict())
    return own, reference


def values(module: CentredNorm, seed: int = 0) -> Tensor:
    shape = (3, 4, 6) if isinstance(module, LayerNorm) else (3, 6, 4, 5)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.7


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equals_published_layer(ours: type[CentredNorm], theirs: type[nn.Module]) -> None:
    own, reference = pair(ours, theirs)
    x, seed = values(own).requires_grad_(), values(own, 1)
    out, pullback = linearise(own, x)
    torch.testing.assert_close(own(x), reference(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, reference(x), rtol=1e-12, atol=1e-12)
    reference.detach = True
    (expected,) = torch.autograd.grad(reference(x), x, seed)
    torch.testing.assert_close(pullback(seed, None), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ours", [PositionNorm2d, LayerNorm, GroupNorm1])
def test_rows_and_completeness(ours: type[CentredNorm]) -> None:
    module = ours(6).double()
    x = values(module)
    out, pullback = linearise(module, x)
    rows = torch.tensor([2, 0, 2])
    seed = values(module, 1)
    back = pullback(seed, rows)
    torch.testing.assert_close(back[0], pullback(seed[[1, 1, 0]], None)[2])
    # The layer is a linear map of its input, without a constant: <g, y> = <pullback(g), x>.
    torch.testing.assert_close((back * x[rows]).flatten(1).sum(1), (seed * out[rows]).flatten(1).sum(1))
    # Centring: nothing of the explanation rests on the mean of a group.
    torch.testing.assert_close(back.sum(module.axes), torch.zeros_like(back.sum(module.axes)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ours", [PositionNorm2d, LayerNorm, GroupNorm1])
def test_factor_keeps_its_graph(ours: type[CentredNorm]) -> None:
    """A loss on the explanation is differentiable in the input and in the weight."""
    module = ours(6).double()
    seed = values(module, 1)

    def explanation(x: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            module.weight.copy_(weight)
        return linearise(module, x)[1](seed, None).square().sum()

    x = values(module).requires_grad_()
    (slope,) = torch.autograd.grad(explanation(x, module.weight.detach().clone()), x)
    step = torch.randn_like(x) * 1e-6
    with torch.no_grad():
        weight = module.weight.clone()
        rise = explanation(x + step, weight) - explanation(x - step, weight)
    torch.testing.assert_close(rise, 2 * (slope * step).sum(), rtol=1e-6, atol=0)
    (by_weight,) = torch.autograd.grad(linearise(module, x)[1](seed, None).square().sum(), module.weight)
    assert by_weight.abs().min() > 0


def test_numbers_by_hand() -> None:
    """Values 1 and 3: mean 2, standard deviation 1, so -1 and 1, times the weights 1 and 2."""
    norm = LayerNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    out, pullback = linearise(norm, torch.tensor([[1.0, 3.0]]))
    assert out.tolist() == [[-1.0, 2.0]]
    assert pullback(torch.tensor([[0.0, 1.0]]), None).tolist() == [[-1.0, 1.0]]


def test_keys_and_precision() -> None:
    norm = PositionNorm2d(4)
    assert list(norm.state_dict()) == ["weight"]
    x = torch.randn(2, 4, 3, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(x).dtype == linearise(norm, x)[0].dtype == torch.bfloat16
