"""Evaluation with folded convolutions: the same function and explanation, and never stale."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.models.bcos_layers import BcosConv2d, BcosLinear
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.bcosified_layers import BcosifiedConv2d
from raytrain_xai.models.chain import Chain, run_chain, steps
from raytrain_xai.models.folding import FoldedBcosConv2d
from raytrain_xai.models.linearise import linearise_chain
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network


def pair(*, affine: bool = True) -> Chain:
    """A convolution and a norm with statistics, in evaluation mode and float64."""
    torch.manual_seed(0)
    chain = Chain(BcosConv2d(3, 4, 3, 2, padding=1), BatchNormUncentered2d(4, affine=affine)).double()
    with torch.no_grad():
        norm = chain[1]
        norm.running_var.uniform_(0.1, 2)
        if affine:
            norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, 2.0]))  # a negative scale and none at all
    return chain.eval()


def settled(name: str = "bcos_resnet_tiny") -> Network:
    """A network with statistics of real activations, float64, in evaluation mode."""
    torch.manual_seed(0)
    network = build_network(name, 5, norm_statistics="batch").double()
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(4, 3, 64, 64, dtype=torch.float64))
    return network.eval()


def folds(chain: Chain) -> list[type[nn.Module]]:
    with torch.no_grad():
        return [type(step) for step in steps(chain)]


@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_pair_computes_the_same(affine: bool) -> None:
    chain, x = pair(affine=affine), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = chain(x)  # with gradients nothing is folded
    with torch.no_grad():
        assert folds(chain) == [FoldedBcosConv2d]
        torch.testing.assert_close(chain(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("groups", "dilation"), [(2, 1), (4, 1), (2, 2), (1, 2)])
def test_groups_and_dilation_fold_as_well(groups: int, dilation: int) -> None:
    torch.manual_seed(0)
    chain = Chain(BcosConv2d(4, 8, 3, 2, 1, dilation, groups), BatchNormUncentered2d(8)).double().eval()
    chain[1].running_var.uniform_(0.1, 2)
    x, g = torch.randn(2, 4, 9, 9, dtype=torch.float64), torch.randn(2, 8, *((4, 4) if dilation == 2 else (5, 5)))
    plain, pull = linearise_chain(chain, x)
    expected = pull(g.double(), None)
    with torch.no_grad():
        assert folds(chain) == [FoldedBcosConv2d]
        folded, pull_folded = linearise_chain(chain, x)
        torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(chain(x), plain, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(pull_folded(g.double(), None), expected, rtol=1e-12, atol=1e-14)


def test_the_gain_of_a_converted_layer_is_folded_and_its_change_seen() -> None:
    torch.manual_seed(0)
    layer, x = BcosifiedConv2d(3, nn.Conv2d(3, 4, 3)).double().eval(), torch.randn(1, 3, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        before = run_chain([layer], x)
        layer.gain.mul_(3)
        torch.testing.assert_close(run_chain([layer], x), 3 * before, rtol=1e-12, atol=1e-14)


def test_filters_of_linear_layers_are_remembered_until_they_change() -> None:
    torch.manual_seed(0)
    layer, x = BcosLinear(5, 4).double().eval(), torch.randn(2, 5, dtype=torch.float64)
    with torch.no_grad():
        first = layer.filters()
        assert layer.filters() is first
        before = layer(x)
        layer.linear.weight.mul_(torch.tensor([[1.0], [-1.0], [2.0], [-3.0]]))  # the filters are unit filters
        torch.testing.assert_close(layer(x), before * torch.tensor([1, -1, 1, -1]), rtol=1e-12, atol=1e-14)
    assert layer.filters().requires_grad


def test_nothing_is_folded_with_gradients_or_in_training() -> None:
    chain = pair()
    assert [type(step) for step in steps(chain)] == [BcosConv2d, BatchNormUncentered2d]
    assert folds(chain.train()) == [BcosConv2d, BatchNormUncentered2d]
    chain.eval()[1].train()  # a norm that gathers statistics behind a convolution that is folded alone
    assert folds(chain) == [FoldedBcosConv2d, BatchNormUncentered2d]


def test_general_exponents_are_left_alone() -> None:
    chain = Chain(BcosConv2d(3, 4, 3, b=1.5), BatchNormUncentered2d(4)).eval()
    assert folds(chain) == [BcosConv2d, BatchNormUncentered2d]


def test_explanations_of_a_network_are_the_same() -> None:
    network, images = settled(), torch.rand(3, 3, 48, 48, dtype=torch.float64)
    rows, target = torch.tensor([2, 0, 2]), torch.tensor([1, 4, 0])
    plain = tapped_pass(network, images, "Input")
    expected = plain.gradient(target, rows).detach()
    with torch.no_grad():
        folded = tapped_pass(network, images, "Input")
        torch.testing.assert_close(folded.logits, plain.logits.detach(), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(folded.gradient(target, rows), expected, rtol=1e-10, atol=1e-14)


def _load(chain: Chain) -> None:
    chain.load_state_dict({name: value * 1.25 if value.is_floating_point() else value for name, value in
                           copy.deepcopy(chain.state_dict()).items()})  # fmt: skip


def _optimiser_step(chain: Chain) -> None:
    chain[0].linear.weight.grad = torch.ones_like(chain[0].linear.weight)
    torch.optim.Adam([chain[0].linear.weight], lr=0.1).step()


def _train_through_data(chain: Chain) -> None:
    chain.train()
    chain[0].linear.weight.data += 0.3  # not counted by torch
    chain.eval()


def _replace(chain: Chain) -> None:
    chain[0].linear.weight = nn.Parameter(torch.randn_like(chain[0].linear.weight))


CHANGES: dict[str, Callable[[Chain], object]] = {
    "filters in place": lambda chain: chain[0].linear.weight.add_(0.3),
    "statistics in place": lambda chain: chain[1].running_var.mul_(2),
    "norm weight in place": lambda chain: chain[1].weight.neg_(),
    "load": _load,
    "optimiser": _optimiser_step,
    "train": _train_through_data,
    "replaced parameter": _replace,
    "type": lambda chain: chain.float().double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    chain, x = pair(), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        before = chain(x)
        CHANGES[change](chain)
    expected = chain(x).detach()
    with torch.no_grad():
        after = chain(x)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-14)
    if change != "type":
        assert not torch.allclose(after, before)


def test_the_fold_is_made_once_and_shared_by_forward_and_explanation() -> None:
    chain, x = pair(), torch.randn(1, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        run_chain(chain, x)
        first = chain[0].fold(chain[1])
        linearise_chain(chain, x)
        assert chain[0].fold(chain[1]) is first


def test_another_norm_behind_the_same_convolution_is_another_fold() -> None:
    chain, x = pair(), torch.randn(1, 3, 9, 9, dtype=torch.float64)
    other = copy.deepcopy(chain[1])
    with torch.no_grad():
        other.weight.fill_(3.0)
        run_chain(chain, x)
        got = run_chain([chain[0], other], x)
        expected: Tensor = other(chain[0](x))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_folding_adds_nothing_to_the_state_dict_and_copies_are_independent() -> None:
    chain, x = pair(), torch.randn(1, 3, 9, 9, dtype=torch.float64)
    names = list(chain.state_dict())
    with torch.no_grad():
        chain(x)
        twin = copy.deepcopy(chain)
        twin[0].linear.weight.mul_(-1)
        torch.testing.assert_close(twin(x), -chain(x), rtol=1e-12, atol=1e-14)
    assert list(chain.state_dict()) == names
