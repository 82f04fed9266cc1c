"""Every torchvision family: published keys, where the taps lie, and the linear views of parts only one family has."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock, CNBlockConfig, ConvNeXt, LayerNorm2d
from torchvision.models.densenet import DenseNet
from torchvision.models.vgg import VGG, make_layers

from raytrain_xai.models import standard_convnext, standard_densenet, standard_vgg
from raytrain_xai.models.chain import run_chain
from raytrain_xai.models.linearise import linearise, linearise_chain
from raytrain_xai.models.standard import ARCHITECTURES
from raytrain_xai.models.stochastic_depth import StochasticDepth, set_stochastic_depth
from raytrain_xai.models.zoo import build_network

# Channels at Mid1, Mid2, Mid3 and Final, and the taps there are besides Input and these four.
TAPS = {
    "resnet18": ((64, 128, 256, 512), 8),
    "resnet34": ((64, 128, 256, 512), 16),
    "resnet50": ((256, 512, 1024, 2048), 16),
    "resnet101": ((256, 512, 1024, 2048), 33),
    "resnet152": ((256, 512, 1024, 2048), 50),
    "densenet121": ((256, 512, 1024, 1024), 58),
    "densenet161": ((384, 768, 2112, 2208), 78),
    "densenet169": ((256, 512, 1280, 1664), 82),
    "densenet201": ((256, 512, 1792, 1920), 98),
    "vgg11": ((128, 256, 512, 512), 13),
    "vgg11_bn": ((128, 256, 512, 512), 13),
    "vgg13": ((128, 256, 512, 512), 15),
    "vgg13_bn": ((128, 256, 512, 512), 15),
    "vgg16": ((128, 256, 512, 512), 18),
    "vgg16_bn": ((128, 256, 512, 512), 18),
    "vgg19": ((128, 256, 512, 512), 21),
    "vgg19_bn": ((128, 256, 512, 512), 21),
    "convnext_tiny": ((96, 192, 384, 768), 18),
    "convnext_small": ((96, 192, 384, 768), 36),
    "convnext_base": ((128, 256, 512, 1024), 36),
    "convnext_large": ((192, 384, 768, 1536), 36),
}


def test_table_is_complete() -> None:
    assert {*TAPS, "squeezenet1_1"} <= set(ARCHITECTURES)


@pytest.mark.parametrize("name", TAPS)
def test_keys_and_taps(name: str) -> None:
    channels, num_blocks = TAPS[name]
    with torch.device("meta"):
        network = build_network(name, 1000).eval()
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        x = torch.zeros(1, 3, 224, 224)
    assert {k: v.shape for k, v in network.net.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
    assert network.head in dict(network.net.named_modules())
    assert len(network.taps) == 5 + num_blocks
    at = {depth: tap for tap, depth in reversed(network.taps.items()) if tap[:3] in ("Mid", "Fin")}
    shapes = {}
    for depth, stage in enumerate(network.stages, 1):
        x = stage(x)
        if depth in at:
            shapes[at[depth]] = tuple(x.shape[1:])
    sides = (56, 28, 14, 7)
    expected = {tap: (c, s, s) for tap, c, s in zip(("Mid1", "Mid2", "Mid3", "Final"), channels, sides, strict=True)}
    assert shapes == expected
    assert tuple(x.shape) == (1, 1000)


def test_dense_layers_are_taps_with_all_channels_so_far() -> None:
    with torch.device("meta"):
        network = build_network("densenet121", 2).eval()
        shape = network.features(torch.zeros(1, 3, 64, 64), "features.denseblock2.denselayer3").shape
    assert shape == (1, 128 + 3 * 32, 8, 8)


def small_net(family: str) -> nn.Module:
    """A narrow net of a family, in float64, with every parameter large enough to matter."""
    torch.manual_seed(0)
    if family == "densenet":
        net = standard_densenet.adapted(DenseNet(4, (2, 1, 2, 1), 8, bn_size=2, num_classes=3))
    elif family == "convnext":
        sizes = [CNBlockConfig(4, 6, 1), CNBlockConfig(6, 8, 1), CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)]
        net = standard_convnext.adapted(ConvNeXt(sizes, num_classes=3))
    else:
        net = VGG(make_layers([4, "M", 6, 6, "M", 8, "M", 8, "M", 8, "M"], batch_norm=True), num_classes=3)
        net.classifier[0], net.classifier[3] = nn.Linear(8 * 49, 10), nn.Linear(10, 10)
        net.classifier[6] = nn.Linear(10, 3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    return net.double().eval()


@pytest.mark.parametrize("family", ["densenet", "convnext", "vgg"])  # the size of VGG's last map, 2x2, is not its 7x7
def test_logits_and_pullbacks_equal_autograd_at_every_tap(family: str) -> None:
    net = small_net(family)
    cut = {"densenet": standard_densenet, "convnext": standard_convnext, "vgg": standard_vgg}[family].cut(net)
    rows, seed = torch.tensor([1, 0, 1]), torch.eye(3, dtype=torch.float64)[[0, 2, 1]]
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(run_chain(cut.stages, x), net(x), rtol=1e-12, atol=1e-12)
    marked = {id(stage) for stage in (*cut.ends, *cut.blocks)}
    for depth in [0, *(depth for depth, stage in enumerate(cut.stages, 1) if id(stage) in marked)]:
        with torch.no_grad():
            features = run_chain(cut.stages[:depth], x)
            found = linearise_chain(cut.stages[depth:], features.clone())[1](seed, rows)
        leaf = features[rows].requires_grad_()
        logits = run_chain(cut.stages[depth:], leaf.clone())  # the clone: a stage may work in place
        (expected,) = torch.autograd.grad(logits, leaf, seed)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * expected.abs().max().item())


def convnext_part(kind: str) -> nn.Module:
    standard_convnext.adapted(ConvNeXt([CNBlockConfig(4, None, 2)]))  # which registers the rules
    torch.manual_seed(0)
    part = CNBlock(4, 0.5, 0.0) if kind == "block" else LayerNorm2d(4)
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.5)
    return part.double()


@pytest.mark.parametrize("kind", ["block", "norm"])
def test_explanations_of_convnext_parts_can_be_trained(kind: str) -> None:
    """The pullback equals autograd's gradient and is differentiable in the input."""
    part = convnext_part(kind)
    if kind == "block":
        part.stochastic_depth = StochasticDepth()
    x, seed = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    x.requires_grad_()

    def explanation(values: Tensor) -> Tensor:
        return linearise(part, values)[1](seed, None)

    torch.testing.assert_close(explanation(x), torch.autograd.grad(part(x), x, seed)[0], rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(explanation, (x,))


def test_convnext_leaves_blocks_out_only_when_told() -> None:
    with torch.device("meta"):
        net = build_network("convnext_tiny", 2).net
    drops = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    assert [drop.p for drop in drops] == [0.0] * 18
    set_stochastic_depth(net, 0.17)
    assert [drop.p for drop in drops] == pytest.approx([0.01 * index for index in range(18)])
