"""Input x gradient, Grad-CAM and Integrated Gradients against captum, at every tap, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

LAYERS = ["Mid1", "Mid2", "Mid3", "Final"]
TARGET = torch.tensor([3, 0, 3])


@pytest.fixture(scope="module", params=["squeezenet1_1", "resnet18"])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    weights = "imagenet" if request.param == "squeezenet1_1" else None
    return build_network(request.param, 1000 if weights else 4, weights=weights).double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def layer_of(network: Network, layer: str) -> nn.Module:
    """The module whose output is the tap, by its name in torchvision."""
    names = {
        "resnet18": {"Mid1": "layer1", "Mid2": "layer2", "Mid3": "layer3", "Final": "layer4"},
        "squeezenet1_1": {"Mid1": "features.4", "Mid2": "features.7", "Mid3": "features.10", "Final": "features.12"},
    }
    return network.net.get_submodule(names[network.name][layer])


def logits_of(network: Network) -> Callable[[Tensor], Tensor]:
    """From the network input to logits, through the torchvision module."""
    return network.net


def above(network: Network, layer: str) -> Callable[[Tensor], Tensor]:
    """From the features at a tap to logits."""

    def run(features: Tensor) -> Tensor:
        return network._run(features.clone(), network.depth(layer), len(network._stages))

    return run


def ours(network: Network, images: Tensor, method: str, layer: str, steps: int = 8) -> Tensor:
    with torch.no_grad():
        tapped = tapped_pass(network, images, layer)
        return attribute(network, tapped, TARGET, method=method, layer=layer, intgrad_steps=steps)


def assert_equal_maps(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def test_input_x_gradient_at_the_input(network: Network, images: Tensor) -> None:
    x = network.encode(images).requires_grad_()
    expected = InputXGradient(logits_of(network)).attribute(x, target=TARGET).sum(1)
    assert_equal_maps(ours(network, images, "ixg", "Input"), expected.detach())


@pytest.mark.parametrize("layer", LAYERS)
def test_input_x_gradient_at_layers(network: Network, images: Tensor, layer: str) -> None:
    method = LayerGradientXActivation(network.net, layer_of(network, layer))
    expected = method.attribute(network.encode(images), target=TARGET).sum(1)
    assert_equal_maps(ours(network, images, "ixg", layer), expected.detach())


@pytest.mark.parametrize("layer", LAYERS)
def test_gradcam(network: Network, images: Tensor, layer: str) -> None:
    method = LayerGradCam(network.net, layer_of(network, layer))
    expected = method.attribute(network.encode(images), target=TARGET, relu_attributions=True)
    assert_equal_maps(ours(network, images, "gradcam", layer), expected.detach()[:, 0])


@pytest.mark.parametrize("layer", ["Input", "Mid2", "Final"])
@pytest.mark.parametrize("steps", [2, 5])
def test_integrated_gradients(network: Network, images: Tensor, layer: str, steps: int) -> None:
    features = network.features(images, layer).detach()
    expected = IntegratedGradients(above(network, layer)).attribute(
        features, baselines=0.0, target=TARGET, n_steps=steps, method="riemann_middle"
    )
    # captum keeps the points of the path in float32
    assert_equal_maps(ours(network, images, "intgrad", layer, steps), expected.sum(1), tolerance=1e-6)
