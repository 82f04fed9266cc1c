"""torchvision networks as stages: the same logits, and linear views equal to autograd at every tap."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from raytrain_xai.models.linearise import linearise
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

PLAIN = ["resnet18", "squeezenet1_1", "xdnn_resnet18"]
LAYERS = ["Input", "Mid1", "Mid2", "Mid3", "Final"]


def network_and_images(name: str) -> tuple[Network, Tensor]:
    """Float64 network whose logits depend on the image noticeably."""
    torch.manual_seed(0)
    network = build_network(name, 4).double().eval()
    for parameter in network.net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)  # zero biases and fixup branches would hide errors
    return network, torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)


@pytest.fixture(scope="module", params=PLAIN)
def prepared(request: pytest.FixtureRequest) -> tuple[Network, Tensor]:
    return network_and_images(request.param)


def reference_gradient(network: Network, features: Tensor, layer: str, target: Tensor, rows: Tensor) -> Tensor:
    """One autograd call per (image, class) pair, through the modules themselves."""
    grads = []
    for row, cls in zip(rows.tolist(), target.tolist(), strict=True):
        x = features[row : row + 1].detach().requires_grad_()
        y = x
        for stage in network._stages[network.depth(layer) :]:
            y = stage(y.clone())  # the clone: a stage may work in place
        (grad,) = torch.autograd.grad(y[0, cls], x)
        grads.append(grad)
    return torch.cat(grads)


@pytest.mark.parametrize("layer", LAYERS)
def test_pullback_equals_autograd_for_subsets_and_repeats(prepared: tuple[Network, Tensor], layer: str) -> None:
    network, images = prepared
    rows, target = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 3, 0, 1])
    with torch.no_grad():
        features = network.features(images, layer)
        logits, pullback = network.linearise_from(features.clone(), layer)
        found = pullback(nn.functional.one_hot(target, 4).double(), rows)
    expected = reference_gradient(network, features, layer, target, rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())
    torch.testing.assert_close(logits, network(images), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[0], found[3])


@pytest.mark.parametrize("layer", ["Input", "Mid3"])
def test_bottleneck_pullback_equals_autograd(layer: str) -> None:
    network, images = network_and_images("resnet50")
    rows, target = torch.tensor([1, 1]), torch.tensor([3, 0])
    with torch.no_grad():
        features = network.features(images[:2], layer)
        _, pullback = network.linearise_from(features.clone(), layer)
        found = pullback(nn.functional.one_hot(target, 4).double(), rows)
    expected = reference_gradient(network, features, layer, target, rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())


def test_with_batch_statistics_images_are_explained_one_by_one() -> None:
    """In training the scale of a norm is a factor of the linear map, so explained rows do not depend on the choice."""
    network, images = network_and_images("resnet18")
    network.frozen_norms = False
    network.train()
    _, pullback = network.linearise_from(network.features(images, "Mid3"), "Mid3")
    selected = torch.eye(4, dtype=torch.float64)[[1, 2, 2]]
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(pullback(selected[rows], rows), pullback(selected, None)[rows], rtol=1e-12, atol=1e-14)
    norm = nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    nn.init.uniform_(norm.weight)
    g = torch.randn_like(x)
    scale = norm.weight / (x.transpose(0, 1).flatten(1).var(1, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(linearise(norm, x)[1](g, None), g * scale.view(1, 3, 1, 1))
    assert norm.num_batches_tracked.item() == 1


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "squeezenet1_1"])
def test_logits_are_those_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    ours = build_network(name, 10).eval()
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    theirs.load_state_dict(ours.net.state_dict())
    x = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        if name == "squeezenet1_1":  # theirs has a ReLU before the pooling, which hides every negative value
            expected = theirs.classifier[1](theirs.features(normalised)).mean(dim=(2, 3))
            assert (expected < 0).any()
        else:
            expected = theirs(normalised)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)
