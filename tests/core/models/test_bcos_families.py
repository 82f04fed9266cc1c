"""B-cos families against the `bcos` package at equal weights, in narrow nets, and the published sizes by key and tap.

Float64, random weights and running statistics, evaluation and training, the dynamic weights of all classes.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from bcos.models import convnext as peer_convnext
from bcos.models import densenet as peer_densenet
from bcos.models import resnet as peer_resnet
from bcos.models import vgg as peer_vgg
from bcos.modules import BcosConv2d as PeerConv
from bcos.modules import norms as peer_norms
from torch import Tensor, nn

from raytrain_xai.models.bcos_convnext import NORMS, BcosConvNeXt
from raytrain_xai.models.bcos_densenet import BcosDenseNet
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.bcos_resnet import BcosBasicBlock, BcosBottleneck, BcosResNet
from raytrain_xai.models.bcos_vgg import BcosVgg
from raytrain_xai.models.linearise import linearise_chain
from raytrain_xai.models.stochastic_depth import StochasticDepth, set_stochastic_depth
from raytrain_xai.models.zoo import ARCHITECTURES, build_network

K = 4
BNU = peer_norms.NoBias(peer_norms.BatchNormUncentered2d)
WIDTHS = (8, 16, 24, 32)


def peer_of_resnet(block: type[nn.Module], depths: list[int], **options: object) -> nn.Module:
    return peer_resnet.BcosResNet(block, depths, num_classes=K, inplanes=8, norm_layer=BNU, **options)


def resnet(depths: tuple[int, ...], *, stem: str = "large", **options: int) -> BcosResNet:
    block = partial(BcosBottleneck, **options) if options else BcosBasicBlock
    return BcosResNet(block, depths, K, widths=(8, 16, 32, 64)[: len(depths)], stem=stem)


def peer_of_vgg(norm: type[nn.Module]) -> nn.Module:
    """The package's constants are wide; its layers are made narrow by hand."""
    with torch.device("meta"):
        net = peer_vgg.BcosVGG(nn.Sequential(), num_classes=K, conv_layer=PeerConv)
    plan = [6, "M", 8, "M", 10, 10, "M", 10, "M", 12, "M"]
    net.features = peer_vgg.make_layers(plan, norm_layer=norm, conv_layer=PeerConv)
    net.classifier = nn.Sequential(PeerConv(12, 16, 7, padding=3), PeerConv(16, 16), PeerConv(16, K))
    return net


def peer_of_convnext(norm: object) -> nn.Module:
    sizes = zip(WIDTHS, (*WIDTHS[1:], None), (1, 1, 2, 1), strict=True)
    settings = [peer_convnext.CNBlockConfig(*size) for size in sizes]
    return peer_convnext.BcosConvNeXt(settings, num_classes=K, norm_layer=norm, stochastic_depth_prob=0.0)


def vgg(*, with_norms: bool) -> BcosVgg:
    return BcosVgg((1, 1, 2, 1, 1), K, with_norms=with_norms, widths=(6, 8, 10, 10, 12), hidden=16)


PAIRS = {
    "bottleneck": (
        partial(resnet, (2, 1, 1, 1), group_width=64),
        partial(peer_of_resnet, peer_resnet.Bottleneck, [2, 1, 1, 1]),
    ),
    "resnext": (
        partial(resnet, (1, 2, 1, 1), groups=4, group_width=16),
        partial(peer_of_resnet, peer_resnet.Bottleneck, [1, 2, 1, 1], groups=4, width_per_group=16),
    ),
    "wide": (
        partial(resnet, (1, 1, 1, 1), group_width=128),
        partial(peer_of_resnet, peer_resnet.Bottleneck, [1, 1, 1, 1], width_per_group=128),
    ),
    "cifar": (
        partial(resnet, (3, 3, 3), stem="cifar"),
        partial(peer_of_resnet, peer_resnet.BasicBlock, [3, 3, 3], small_inputs=True),
    ),
    "densenet": (
        lambda: BcosDenseNet(4, (2, 3, 2, 1), 8, K),
        lambda: peer_densenet.BcosDenseNet(4, (2, 3, 2, 1), 8, num_classes=K, norm_layer=BNU),
    ),
    "vgg": (partial(vgg, with_norms=False), partial(peer_of_vgg, nn.Identity)),
    "vgg_bnu": (partial(vgg, with_norms=True), partial(peer_of_vgg, BNU)),
    "convnext_pn": (
        lambda: BcosConvNeXt(WIDTHS, (1, 1, 2, 1), NORMS["pn"], K),
        partial(peer_of_convnext, None),
    ),
    "convnext_bnu": (
        lambda: BcosConvNeXt(WIDTHS, (1, 1, 2, 1), NORMS["bnu"], K),
        partial(peer_of_convnext, BNU),
    ),
}


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """Our net and the package's with the same weights, and statistics that a batch left behind."""
    torch.manual_seed(0)
    build, build_peer = PAIRS[kind]
    ours, peer = build().double(), build_peer().double()
    for name, value in ours.state_dict().items():
        if name.endswith("layer_scale") or (name.endswith("weight") and value.dim() == 1):
            value.uniform_(0.5, 2)
        elif kind == "vgg":
            value.abs_()  # filters of one sign keep the signal alive through nine layers without norms
    norms = [module for module in ours.modules() if isinstance(module, BatchNormUncentered2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        ours.train()(six_channels(4, kind, seed=2))
    for norm in norms:
        norm.momentum = 0.1
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def six_channels(batch: int, kind: str, seed: int = 1) -> Tensor:
    side = 12 if kind == "cifar" else 32
    x = torch.rand(batch, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return 100 * torch.cat([x, 1 - x], 1)  # far above the 1e-6 that is added to patch energies


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_logits_and_dynamic_weights_of_all_classes_equal_the_package(kind: str, train: bool) -> None:
    ours, peer = pair(kind)
    ours.train(train)
    peer.train(train)
    x = six_channels(2, kind)
    leaf = x.clone().requires_grad_()
    with peer.explanation_mode():
        expected = peer(leaf)
        maps = [torch.autograd.grad(expected[:, k].sum(), leaf, retain_graph=True)[0] for k in range(K)]
    with torch.no_grad():
        logits, pullback = linearise_chain(ours.stages(), x)
        seeds = torch.eye(K, dtype=torch.float64).repeat(2, 1)
        weights = pullback(seeds, torch.arange(2).repeat_interleave(K))
    evidence = (expected - ours.logit_layer.bias).abs().max()
    assert evidence > 1e-4  # else the comparison would be one of logit biases
    assert (logits - expected).abs().max() < 1e-10 * evidence
    reference = torch.stack(maps, 1).flatten(0, 1)
    assert (weights - reference).abs().max() < 1e-10 * reference.abs().max()
    for key, value in peer.state_dict().items():
        if key.endswith("running_var"):
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_gradients_of_the_logits_equal_the_package(kind: str, train: bool) -> None:
    """Of a loss on the logits, in the input and in every parameter."""
    nets = pair(kind)
    found, expected = {}, {}
    for net, gradients in zip(nets, (found, expected), strict=True):
        x = six_channels(2, kind).requires_grad_()
        net.train(train)(x).square().sum().backward()
        gradients.update({key: p.grad for key, p in net.named_parameters()}, input=x.grad)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-9 * value.abs().max(), key


PUBLISHED = {
    **{f"bcos_resnet{d}": (peer_resnet, f"resnet{d}") for d in (18, 34, 50, 101, 152)},
    **{f"bcos_{n}": (peer_resnet, n) for n in ("resnext50_32x4d", "resnext101_32x8d")},
    **{f"bcos_{n}": (peer_resnet, n) for n in ("wide_resnet50_2", "wide_resnet101_2")},
    **{f"bcos_cifar_resnet{d}": (peer_resnet, f"cifar10_resnet{d}") for d in (20, 32, 44, 56, 110)},
    **{f"bcos_densenet{d}": (peer_densenet, f"densenet{d}") for d in (121, 161, 169, 201)},
    **{f"bcos_vgg{d}{s}": (peer_vgg, f"vgg{d}{s}") for d in (11, 13, 16, 19) for s in ("", "_bnu")},
    **{
        f"bcos_convnext_{size}_{norm}": (peer_convnext, f"convnext_{size}")
        for size in ("atto", "tiny", "small", "base", "large")
        for norm in ("pn", "bnu")
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """Keys and shapes are the package's, and so are all shapes on the way: it runs on the meta device."""
    module, peer_name = PUBLISHED[name]
    options: dict[str, object] = {"conv_layer": PeerConv} if module is peer_vgg else {}
    if not name.startswith("bcos_vgg"):
        options["norm_layer"] = None if name.endswith("_pn") else BNU
    elif name.endswith("_bnu"):
        options["norm_layer"] = BNU
    architecture = ARCHITECTURES[name]
    side = architecture.image_size
    with torch.device("meta"):
        network = build_network(name, 10).eval()
        peer = getattr(module, peer_name)(num_classes=10, **options).state_dict()
        x = torch.zeros(1, 6, side, side)
    assert {k: v.shape for k, v in network.net.state_dict().items()} == {k: v.shape for k, v in peer.items()}
    assert network.head in dict(network.net.named_modules())
    sides = {}
    with torch.no_grad():
        for depth, stage in enumerate(network.stages, 1):
            x = stage(x)
            sides[depth] = tuple(x.shape[2:])
    divisors = (1, 2, 4, 4) if "cifar" in name else (4, 8, 16, 32)
    for tap, divisor in zip(("Mid1", "Mid2", "Mid3", "Final"), divisors, strict=True):
        assert sides[network.taps[tap]] == (side // divisor, side // divisor)
    assert x.shape == (1, 10)


def test_every_family_is_in_the_zoo() -> None:
    assert set(PUBLISHED) | {"bcos_resnet_tiny"} == {
        name
        for name in ARCHITECTURES
        if name.startswith(("bcos_res", "bcos_wide", "bcos_cifar", "bcos_d", "bcos_vgg", "bcos_c"))
    }


@pytest.mark.parametrize("kind", ["cifar", "convnext_pn"])
def test_stochastic_depth_leaves_branches_out_of_output_and_explanation(kind: str) -> None:
    """With almost certain drops all blocks but the first pass their input on, and the linear view says the same."""
    ours, _ = pair(kind)
    set_stochastic_depth(ours, 0.5)
    drops = [module for module in ours.modules() if isinstance(module, StochasticDepth)]
    assert [drop.p for drop in drops] == pytest.approx([0.5 * i / (len(drops) - 1) for i in range(len(drops))])
    x = six_channels(3, kind)
    torch.manual_seed(5)
    with torch.no_grad():
        logits, pullback = linearise_chain(ours.train().stages(), x)
        weights = pullback(torch.eye(K, dtype=torch.float64)[[0, 1, 2]], None)
        evidence = logits[range(3), range(3)] - ours.logit_layer.bias
    torch.testing.assert_close((weights * x).sum((1, 2, 3)), evidence, rtol=1e-9, atol=1e-12)
    torch.manual_seed(5)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), logits, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ours(x), logits, rtol=1e-3, atol=1e-3)  # other draws, other branches
