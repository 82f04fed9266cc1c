"""B-cosified networks: exact at B = 1 with the biases put back, complete, homogeneous, calibrated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from raytrain_xai.models import (
    standard,
    standard_convnext,
    standard_densenet,
    standard_resnet,
    standard_vgg,
    standard_vit,
)
from raytrain_xai.models.architecture import Architecture, named_taps
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d, PositionNorm2d
from raytrain_xai.models.bcosified_layers import BcosifiedConv2d
from raytrain_xai.models.bcosify import ARCHITECTURES, PREFIX, BcosifiedNet, bcosified
from raytrain_xai.models.bcosify_start import LOGIT_STD, calibrate, start_from, units
from raytrain_xai.models.encoding import AddInverse, Normalise
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network, find_architecture

CLASSES, SIDE = 4, 48


def small_vgg(norm: bool, num_classes: int) -> nn.Module:
    """torchvision's VGG with its layers in their order, narrow."""
    from torchvision.models.vgg import VGG, make_layers

    net = VGG(make_layers([8, "M", 8, "M", 8, "M", 8, "M", 8, "M"], batch_norm=norm), num_classes, init_weights=False)
    net.classifier[0] = nn.Linear(8 * 7 * 7, 16)
    net.classifier[3] = nn.Linear(16, 16)
    net.classifier[6] = nn.Linear(16, num_classes)
    return net


def small_resnet(num_classes: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    standard_resnet.build("resnet18", 1)  # which registers the rules
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes)


def small_densenet(num_classes: int) -> nn.Module:
    from torchvision.models.densenet import DenseNet

    return standard_densenet.adapted(DenseNet(8, (2, 2, 2, 2), 16, bn_size=2, num_classes=num_classes))


def small_convnext(num_classes: int) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [8, 16, 24, 32, None]
    blocks = [CNBlockConfig(width or 0, after, 1) for width, after in zip(widths, widths[1:], strict=False)]
    return standard_convnext.adapted(ConvNeXt(blocks, layer_scale=0.5, num_classes=num_classes))


def small_vit(num_classes: int) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        standard_vit.vit("vit_b_32", 1)  # registers the rules
    net = VisionTransformer(SIDE, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=num_classes)
    nn.init.normal_(net.heads.get_parameter("head.weight"), std=0.3)
    return net


FAMILIES: dict[str, Architecture] = {
    "squeezenet": standard.ARCHITECTURES["squeezenet1_1"],
    "resnet": Architecture(small_resnet, standard_resnet.cut, head="fc", is_bcos=False),
    "densenet": Architecture(small_densenet, standard_densenet.cut, head="classifier", is_bcos=False),
    "vgg": Architecture(partial(small_vgg, False), standard_vgg.cut, head="classifier.6", is_bcos=False),
    "vgg_bn": Architecture(partial(small_vgg, True), standard_vgg.cut, head="classifier.6", is_bcos=False),
    "vit": Architecture(small_vit, standard_vit.cut_vit, head="heads.head", is_bcos=False),
    "convnext": Architecture(small_convnext, standard_convnext.cut, head="classifier.2", is_bcos=False),
}


def network_of(architecture: Architecture) -> Network:
    net = architecture.build(CLASSES)
    cut = architecture.cut(net)
    return Network(
        net, encode=AddInverse() if architecture.is_bcos else Normalise(), stages=cut.stages,
        taps=named_taps(net, cut), name="net", num_classes=CLASSES, is_bcos=architecture.is_bcos,
        head=architecture.head, frozen_norms=True,
    ).double().eval()  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> tuple[Network, Network, Tensor]:
    """Plain network with random biases and statistics, its B-cosified start, and images."""
    torch.manual_seed(0)
    plain = network_of(FAMILIES[request.param])
    for name, tensor in [*plain.net.named_parameters(), *plain.net.named_buffers()]:
        if name.endswith(".bias") or "running_mean" in name:
            nn.init.normal_(tensor, std=0.1)
        elif "running_var" in name:
            nn.init.uniform_(tensor, 0.5, 2)
    network = network_of(bcosified(FAMILIES[request.param]))
    start_from(network, plain)
    return network, plain, torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64)


def put_back(network: Network, plain: Network) -> list[Callable[[], None]]:
    """B = 1, and what conversion drops added behind every layer; returns what undoes it."""
    first = units(network)[0][0]
    undo: list[Callable[[], None]] = []
    for path, module in network.net.named_modules():
        if path not in dict(plain.net.named_modules()):
            continue
        source = plain.net.get_submodule(path)
        shift = getattr(source, "bias", None)
        if isinstance(module, BatchNormUncentered2d):
            assert isinstance(source, nn.BatchNorm2d)
            assert source.running_mean is not None
            shift = source.bias - source.running_mean * module.scale()
        if not isinstance(shift, Tensor):
            continue
        is_map = isinstance(module, (BcosifiedConv2d, BatchNormUncentered2d, PositionNorm2d))
        shaped = shift.detach().view(-1, 1, 1) if is_map else shift.detach()
        if path == first:  # only what fell on the padding is missing
            assert isinstance(module, BcosifiedConv2d)
            geometry = module.geometry
            inside = F.avg_pool2d(
                torch.ones(1, 1, SIDE, SIDE).double(), geometry.kernel, geometry.stride, geometry.padding
            )
            shaped = shaped * (1 - inside)
        handle = module.register_forward_hook(lambda _, __, out, shaped=shaped: out + shaped)
        undo.append(handle.remove)
    for _, unit in units(network):
        unit.b = 1.0
        undo.append(partial(setattr, unit, "b", 2.0))
    return undo


def test_with_b_1_and_the_biases_it_is_the_plain_network(pair: tuple[Network, Network, Tensor]) -> None:
    network, plain, images = pair
    undo, last = put_back(network, plain), list(plain.taps)[-1]
    try:
        features, logits = network.features(images, last), network(images)
    finally:
        for step in undo:
            step()
    torch.testing.assert_close(features, plain.features(images, last), rtol=1e-9, atol=1e-9)
    if not any(isinstance(module, PositionNorm2d) for module in network.stages[-4:]):
        bias = network.stages[-1].bias  # behind a norm of pooled features the classifier cannot move for free
        torch.testing.assert_close(logits - bias, plain(images), rtol=1e-9, atol=1e-9)
    assert (network(images) - logits).abs().max() > 1e-3  # with B = 2 it is another network


def test_taps_are_those_of_the_plain_network(pair: tuple[Network, Network, Tensor]) -> None:
    network, plain, images = pair
    assert list(network.taps) == list(plain.taps)
    for tap in list(plain.taps)[1::7]:
        assert network.features(images, tap).shape == plain.features(images, tap).shape


def test_contributions_add_up_to_the_logit(pair: tuple[Network, Network, Tensor]) -> None:
    network, plain, images = pair
    for net in (network.net, plain.net):
        for name in ("class_token", "encoder.pos_embedding"):  # added, so not part of the linear map
            nn.init.zeros_(dict(net.named_parameters()).get(name, torch.empty(0)))
    start_from(network, plain)
    calibrate(network, plain, images)
    with torch.no_grad():
        x = network.encode(images)
        logits, pullback = network.linearise_from(x.clone(), "Input")
        rows = torch.tensor([1, 0, 1])
        weights = pullback(torch.eye(CLASSES, dtype=torch.float64)[[0, 3, 2]], rows)
    found = (weights * x[rows]).sum(dim=(1, 2, 3)) + network.stages[-1].bias
    torch.testing.assert_close(found, logits[rows, [0, 3, 2]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, network.net(x), rtol=1e-9, atol=1e-9)
    assert logits.std() > 0.1


def test_calibration_restores_what_filters_pass_on(pair: tuple[Network, Network, Tensor]) -> None:
    """Of convolutions the spread where a norm follows, else the mean positive part; gains stay near their middle."""
    network, plain, images = pair
    start_from(network, plain)
    calibrate(network, plain, images)
    answers = [convolution_answers(net, images) for net in (network, plain)]
    scores = network(images) - network.stages[-1].bias
    torch.testing.assert_close(scores.std(), torch.tensor(LOGIT_STD, dtype=torch.float64), rtol=1e-6, atol=0)
    num_free = num_filters = 0
    norms = {type(norm).__name__ for norm in network.norms()}
    for name, unit in units(network)[:-1]:
        middle = unit.gain.median()
        assert (unit.gain > middle / 4.1).all()
        assert (unit.gain < middle * 4.1).all()
        if isinstance(unit, BcosifiedConv2d):
            has_norm = name.endswith(("0.0", "block.0", "conv_proj")) if "LayerNorm" in norms else bool(norms)
            found, expected = (
                answer[name].std(dim=1) if has_norm else answer[name].relu().mean(dim=1) for answer in answers
            )
            is_alive = (expected > 0) & (found > 0)
            free = (unit.gain > middle / 3.9) & (unit.gain < middle * 3.9) & is_alive
            torch.testing.assert_close(found[free], expected[free], rtol=1e-6, atol=1e-12)
            num_free, num_filters = num_free + int(free.sum()), num_filters + len(free)
    assert num_free > num_filters / 2
    assert not any(module._forward_hooks for module in [*network.net.modules(), *plain.net.modules()])


def convolution_answers(network: Network, images: Tensor) -> dict[str, Tensor]:
    """What every convolution answers, (O, B·h·w) by its name."""
    answers: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, out, name=name: answers.update({name: out.transpose(0, 1).flatten(1)})
        )
        for name, module in network.net.named_modules()
        if isinstance(module, BcosifiedConv2d | nn.Conv2d)
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return answers


def test_a_layer_that_is_silent_leaves_the_gains_alone() -> None:
    plain, network = network_of(FAMILIES["squeezenet"]), network_of(bcosified(FAMILIES["squeezenet"]))
    with torch.no_grad():
        nn.init.constant_(plain.net.get_parameter("features.3.squeeze.weight"), -1)
        nn.init.constant_(plain.net.get_parameter("features.3.squeeze.bias"), -1)
    start_from(network, plain)
    calibrate(network, plain, torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64))
    assert torch.equal(dict(units(network))["features.3.squeeze"].gain, torch.ones(16, dtype=torch.float64))
    assert all(torch.isfinite(unit.gain).all() for name, unit in units(network) if name != network.head)


@pytest.mark.parametrize("family", ["squeezenet", "resnet", "vgg"])
def test_scores_grow_with_the_input(family: str) -> None:
    """Without layer norms the scores are homogeneous of degree one; the small constant in the patch norm aside."""
    torch.manual_seed(0)
    plain, network = network_of(FAMILIES[family]), network_of(bcosified(FAMILIES[family]))
    start_from(network, plain)
    images = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64)
    calibrate(network, plain, images)
    x = network.encode(images)
    scores = [network.net(scale * x) - network.stages[-1].bias for scale in (100.0, 300.0)]
    torch.testing.assert_close(scores[1], 3 * scores[0], rtol=1e-4, atol=1e-4 * scores[1].abs().max().item())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_the_plain_ones_without_biases(name: str) -> None:
    with torch.device("meta"):
        net = ARCHITECTURES[name].build(10)
        plain = find_architecture(name.removeprefix(PREFIX)).build(10)
    kept = {key: p.numel() for key, p in plain.named_parameters() if not key.endswith("bias")}
    first = next(p.numel() for p in plain.parameters() if p.dim() == 4)  # which has twice the channels now
    assert sum(p.numel() for p in net.parameters()) == sum(kept.values()) + first
    assert isinstance(net, BcosifiedNet)


def test_halves_ignore_mean_and_bias() -> None:
    plain, network = network_of(FAMILIES["squeezenet"]), network_of(bcosified(FAMILIES["squeezenet"]))
    start_from(network, plain, "halves")
    first, weight = units(network)[0][1], plain.net.get_parameter("features.0.weight")
    assert torch.equal(first.linear.weight, torch.cat([weight / 2, -weight / 2], dim=1))


def test_imagenet_features_survive_without_biases(shared_data: Path) -> None:
    """Real weights and pictures: at B = 1 dropping all biases but the first hardly turns the features."""
    files = sorted((shared_data / "VOCdevkit/VOC2012/JPEGImages").glob("*.jpg"))[::900]
    pictures = [Image.open(file).convert("RGB").resize((64, 64)) for file in files]
    images = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    plain = build_network("squeezenet1_1", CLASSES, weights="imagenet").eval()
    target = plain.features(images, "Final")
    cosines = []
    for is_calibrated, b in ((False, 1.0), (True, 1.0), (True, 2.0)):
        network = build_network(f"{PREFIX}squeezenet1_1", CLASSES).eval()
        for _, unit in units(network):
            unit.b = b
        start_from(network, plain)
        if is_calibrated:
            calibrate(network, plain, images)
        cosines.append(F.cosine_similarity(network.features(images, "Final"), target, dim=1).mean().item())
    dropped, calibrated, squared = cosines
    assert dropped > 0.99
    assert calibrated > dropped
    assert 0.1 < squared < 0.4  # B = 2 needs training
