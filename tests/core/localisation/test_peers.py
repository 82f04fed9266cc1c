"""Peer methods: captum as it is called here against independent implementations on small float64 networks."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raytrain_xai.errors import ConfigError
from raytrain_xai.localisation import peers
from raytrain_xai.localisation.grid_pointing import tile_shares
from raytrain_xai.localisation.peers import check_peer, peer_maps, separate_nonlinearities
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network


class Block(nn.Module):
    """Three convolutions; two share a ReLU, which works in place, the third has a function: captum follows neither."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, stride=2), nn.Conv2d(5, 5, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.second(self.relu(self.first(x))))
        return functional.relu(self.third(y))


def small_network(*stages: nn.Module, is_bcos: bool = False) -> Network:
    net = nn.Sequential(*stages).double()
    network = Network(
        net, encode=nn.Identity(), stages=list(net), taps={"Input": 0}, name="small", num_classes=4, is_bcos=is_bcos,
        head="0",
    )  # fmt: skip
    return network.eval()


def relu_network() -> Network:
    torch.manual_seed(0)
    return small_network(Block(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


INPUTS = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([[0, 1, 3], [2, 3, 0]])


def chain(network: Network) -> nn.Sequential:
    return nn.Sequential(*network.stages)


class GuidedReLU(torch.autograd.Function):
    """Guided backpropagation written down: the gradient passes where input and gradient are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad[0].clamp(min=0) * (x > 0)


def test_guided_backpropagation_equals_its_definition() -> None:
    network = relu_network()
    block, classifier = network.net[0], network.net[1]
    got = peer_maps(network, INPUTS, TARGETS, "guided_backprop")
    for image in range(2):
        for position, target in enumerate(TARGETS[image].tolist()):
            x = INPUTS[image : image + 1].clone().requires_grad_()
            y = GuidedReLU.apply(block.second(GuidedReLU.apply(block.first(x))))
            logit = classifier(GuidedReLU.apply(block.third(y))).mean(dim=(2, 3))[0, target]
            expected = torch.autograd.grad(logit, x)[0].sum(dim=1)[0]
            torch.testing.assert_close(got[image, position], expected)


def test_deeplift_explains_the_whole_difference_to_the_baseline() -> None:
    """Summation to delta holds only when every ReLU has its rule, the shared one and the functional one included."""
    network = relu_network()
    with torch.no_grad():
        delta = chain(network)(INPUTS) - chain(network)(torch.zeros_like(INPUTS))
    sums = peer_maps(network, INPUTS, TARGETS, "deeplift").sum(dim=(2, 3))
    torch.testing.assert_close(sums, delta.gather(1, TARGETS))
    gradient = peer_maps(network, INPUTS, TARGETS, "gradient")
    assert gradient.shape == sums.shape + INPUTS.shape[2:]


def test_gradient_equals_finite_differences() -> None:
    network = relu_network()
    got = peer_maps(network, INPUTS, TARGETS, "gradient")
    for y, x in [(0, 0), (5, 7), (11, 11)]:
        step = torch.zeros_like(INPUTS)
        step[:, :, y, x] = 1e-6
        with torch.no_grad():
            slope = (chain(network)(INPUTS + step) - chain(network)(INPUTS - step)) / 2e-6
        torch.testing.assert_close(got[:, :, y, x], slope.gather(1, TARGETS), rtol=1e-5, atol=1e-8)


def test_occlusion_equals_a_loop() -> None:
    network = relu_network()
    inputs = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    got = peer_maps(network, inputs, TARGETS, "occlusion")
    with torch.no_grad():
        whole = chain(network)(inputs)
        drop, covered = torch.zeros(2, 4, 24, 24, dtype=torch.float64), torch.zeros(24, 24, dtype=torch.float64)
        for y in range(0, 21, 2):  # windows of 4 pixels every 2: two and one twelfth of the side
            for x in range(0, 21, 2):
                hidden = inputs.clone()
                hidden[:, :, y : y + 4, x : x + 4] = 0
                drop[:, :, y : y + 4, x : x + 4] += (whole - chain(network)(hidden))[:, :, None, None]
                covered[y : y + 4, x : x + 4] += 1
    mean = drop / covered
    expected = torch.stack([own[target] for own, target in zip(mean, TARGETS, strict=True)])
    torch.testing.assert_close(got, expected.float())  # captum divides in float32


def test_lime_finds_the_weights_of_an_additive_score() -> None:
    """Every class is the sum over one quarter of a constant image, so squares inside it weigh equally, others 0."""
    weight = torch.zeros(4, 24, 24, dtype=torch.float64)
    for k in range(4):
        column, row = divmod(k, 2)
        weight[k, 12 * row : 12 * row + 12, 12 * column : 12 * column + 12] = 1.0

    class Quarters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bchw,khw->bk", x, weight) * self.scale

    network = small_network(Quarters())
    maps = peer_maps(network, torch.ones(1, 3, 24, 24, dtype=torch.float64), torch.arange(4)[None], "lime")[0]
    for k in range(4):
        inside = maps[k][weight[k] > 0]
        assert float(inside.min()) > 10  # the true weight of a square is 12, ridge takes a little
        assert float(inside.max()) < 12.5
        assert float(maps[k][weight[k] == 0].abs().max()) < 0.5
        assert tile_shares(maps[k], 4).argmax() == k


def test_lime_plays_the_passes_back_to_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LIME_SAMPLES", 100)
    network, passes = relu_network(), 0

    def tally(*_: Any) -> None:
        nonlocal passes
        passes += 1

    network.stages[0].register_forward_hook(tally)
    state = torch.random.get_rng_state()
    together = peer_maps(network, INPUTS, TARGETS, "lime")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert passes == 2 * 2  # two batches of 64 and 36 for each of two images, not for each of three classes
    for position in range(3):
        alone = peer_maps(network, INPUTS, TARGETS[:, position : position + 1], "lime")
        torch.testing.assert_close(together[:, position], alone[:, 0])


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18"])
def test_separated_networks_compute_the_same(name: str) -> None:
    network = build_network(name, 5).eval()
    graph = separate_nonlinearities(network, "deeplift")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), chain(network)(x))
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    relus = [target for target in called if isinstance(graph.get_submodule(target), nn.ReLU)]
    assert len(set(relus)) == len(relus) == {"squeezenet1_1": 25, "resnet18": 17}[name]
    assert not any(graph.get_submodule(target).inplace for target in relus)
    assert network.net.training is False
    weights = {id(parameter) for parameter in network.net.parameters()}
    assert {id(parameter) for parameter in graph.parameters()} <= weights


def test_peers_leave_the_network_as_it_was() -> None:
    network = relu_network()
    before = chain(network)(INPUTS)
    for method in ("deeplift", "guided_backprop", "gradient"):
        peer_maps(network, INPUTS, TARGETS, method)
    assert all(parameter.grad is None for parameter in network.net.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.net.modules())
    torch.testing.assert_close(chain(network)(INPUTS), before)


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deeplift"])
def test_gradient_methods_refuse_bcos_networks(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"{method} is defined by gradients of ReLU networks.*\(B-cos\)"):
        check_peer(small_network(nn.Conv2d(6, 4, 1), is_bcos=True), method)
    check_peer(small_network(nn.Conv2d(6, 4, 1), is_bcos=True), "occlusion")


def test_a_nonlinearity_without_a_rule_is_refused() -> None:
    network = small_network(nn.Conv2d(3, 4, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="deeplift has no rule for GELU in small"):
        check_peer(network, "deeplift")
    check_peer(network, "gradient")


def test_control_flow_that_cannot_be_traced_is_refused() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if y.sum() > 0 else -y

    with pytest.raises(ConfigError, match="guided_backprop needs small as a static graph"):
        check_peer(small_network(Moody()), "guided_backprop")


@pytest.mark.parametrize(("method", "missing"), [("occlusion", "captum"), ("lime", "sklearn")])
def test_a_missing_package_is_named_with_the_extra(method: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ConfigError, match=rf"{missing} is not installed; pip install 'raytrain-xai\[benchmark\]'"):
        check_peer(relu_network(), method)
