"""B-cos ResNets against the `bcos` package at equal weights, and the identities of dynamic-linear networks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from bcos.models import resnet as peer_resnet
from bcos.modules import norms as peer_norms
from torch import Tensor, nn

from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.bcos_resnet import BcosBasicBlock, BcosBottleneck, BcosResNet
from raytrain_xai.models.linearise import linearise_chain
from raytrain_xai.models.zoo import build_network

PEER_NORM = peer_norms.NoBias(peer_norms.BatchNormUncentered2d)
KINDS = {
    "basic": (BcosBasicBlock, peer_resnet.BasicBlock, (2, 2, 2, 2)),
    "bottleneck": (BcosBottleneck, peer_resnet.Bottleneck, (3, 4, 6, 3)),
}


def pair(kind: str) -> tuple[BcosResNet, nn.Module]:
    """Our network and the package's, an eighth of the published width, with the same weights and statistics."""
    block, peer_block, depths = KINDS[kind]
    torch.manual_seed(0)
    ours = BcosResNet(block, depths, 5, widths=(8, 16, 32, 64)).double()
    peer = peer_resnet.BcosResNet(peer_block, list(depths), num_classes=5, inplanes=8, norm_layer=PEER_NORM).double()
    for name, value in ours.state_dict().items():
        if name.endswith(("bn1.weight", "bn2.weight")):
            value.uniform_(0.5, 2)
    take_batch_statistics(ours, six_channels(4))
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def take_batch_statistics(net: nn.Module, x: Tensor) -> None:
    """Store the statistics of a batch; with those of initialisation (variance 1) the logits vanish in the bias."""
    momenta = {m: m.momentum for m in net.modules() if isinstance(m, BatchNormUncentered2d)}
    for norm in momenta:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    net.eval()
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def six_channels(batch: int) -> Tensor:
    x = torch.rand(batch, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, 1 - x], 1)


def dynamic_weights(ours: BcosResNet, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and W(x) of one class per image, by the linear view."""
    with torch.no_grad():
        logits, pullback = linearise_chain(ours.stages(), x)
        return logits, pullback(nn.functional.one_hot(target, 5).to(x.dtype), None)


def peer_dynamic_weights(peer: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and W(x) of one class per image, by the package's own explanation mode."""
    x = x.clone().requires_grad_()
    with peer.explanation_mode():
        logits = peer(x)
        (weights,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), x)
    return logits.detach(), weights


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_state_dict_has_the_published_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = build_network(f"bcos_{name}", 1000).net.state_dict()
        peer = getattr(peer_resnet, name)(num_classes=1000, norm_layer=PEER_NORM).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in peer.items()}


def test_keys_named_in_the_checkpoint_facts_exist() -> None:
    with torch.device("meta"):
        keys = build_network("bcos_resnet18", 1000).net.state_dict()
    convolutions = ["conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc"]
    norm = ["weight", "running_var", "running_mean", "num_batches_tracked"]
    assert {*(f"{name}.linear.weight" for name in convolutions), *(f"bn1.{name}" for name in norm)} <= set(keys)
    assert not any(key.endswith("bias") for key in keys)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True])
def test_logits_and_dynamic_weights_equal_the_package(kind: str, train: bool) -> None:
    ours, peer = pair(kind)
    ours.train(train)
    peer.train(train)
    x, target = six_channels(3), torch.tensor([0, 4, 2])
    logits, weights = dynamic_weights(ours, x, target)
    peer_logits, peer_weights = peer_dynamic_weights(peer, x, target)
    evidence = (peer_logits + math.log(4)).abs().max()
    assert evidence > 1e-3  # else the comparison would be one of logit biases
    assert (logits - peer_logits).abs().max() < 1e-9 * evidence
    assert (weights - peer_weights).abs().max() < 1e-9 * peer_weights.abs().max()
    contribution, peer_contribution = (x * weights).sum(1), (x * peer_weights).sum(1)
    assert (contribution - peer_contribution).abs().max() < 1e-9 * peer_contribution.abs().max()
    for key, value in peer.state_dict().items():
        if key.endswith("running_var"):
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True])
def test_float32_is_as_exact_as_the_package(kind: str, train: bool) -> None:
    """Rounding grows with depth (1e-6 to 7e-5 here), so the bar is the package's own distance from float64.

    The two round differently: over seeds the ratio of the errors lies between 0.5 and 2.5, without a trend.
    """
    ours, peer = pair(kind)
    ours.train(train)
    peer.train(train)
    x, target = six_channels(3), torch.tensor([0, 4, 2])
    exact = peer_dynamic_weights(copy.deepcopy(peer), x, target)
    found = dynamic_weights(ours.float(), x.float(), target)
    reference = peer_dynamic_weights(peer.float(), x.float(), target)
    for value, other, truth in zip(found, reference, exact, strict=True):
        assert value.dtype == torch.float32
        assert (value - truth).norm() < 4 * (other - truth).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_forward_equals_its_linear_view(kind: str) -> None:
    ours, _ = pair(kind)
    x = six_channels(2)
    logits, _ = linearise_chain(ours.stages(), x)
    torch.testing.assert_close(ours(x), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", ["Input", "Mid1", "Mid2", "Mid3", "Final"])
@pytest.mark.parametrize("name", ["bcos_resnet_tiny", "bcos_resnet18"])
def test_contributions_of_every_class_sum_to_the_logit_without_its_bias(name: str, layer: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 5).double()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    take_batch_statistics(network.net, network.encode(images))
    with torch.no_grad():
        tapped = tapped_pass(network.eval(), images, layer)
        rows, target = torch.arange(2).repeat_interleave(5), torch.arange(5).repeat(2)
        sums = (tapped.gradient(target, rows) * tapped.features[rows]).sum(dim=(1, 2, 3))
    evidence = tapped.logits[rows, target] + math.log(4)
    assert evidence.abs().max() > 1e-3
    torch.testing.assert_close(sums, evidence, rtol=1e-9, atol=1e-12)


def test_without_its_bias_the_network_is_homogeneous() -> None:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 5).double()
    x = six_channels(2)
    take_batch_statistics(network.net, x)
    one, three = (network.net(alpha * x) + math.log(4) for alpha in (1, 3))
    torch.testing.assert_close(three, 3 * one, rtol=1e-4, atol=0)  # not exact: 1e-6 is added to the patch energies


@pytest.mark.parametrize(("num_classes", "bias"), [(1000, -6.906755), (20, -2.944439), (2, 0.0), (1, 0.0)])
def test_logit_bias_is_minus_log_of_the_other_classes(num_classes: int, bias: float) -> None:
    with torch.device("meta"):
        net = build_network("bcos_resnet_tiny", num_classes).net
    assert net.logit_layer.bias == pytest.approx(bias, abs=1e-6)


def test_tiny_learns_eight_images_from_scratch() -> None:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 2, norm_statistics="batch").train()
    images = torch.rand(8, 3, 32, 32)
    labels = torch.eye(2)[[0, 1] * 4]
    images[::2, 0] *= 0.2  # one class lacks red
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = nn.functional.binary_cross_entropy_with_logits(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
