"""X-DNN: published keys, fixup initialisation, homogeneity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from raytrain_xai.models.xdnn import FixupBottleneck, XdnnResNet, xdnn_resnet18, xdnn_resnet50


def with_open_branches(net: XdnnResNet) -> XdnnResNet:
    """Give the branches, which fixup starts at zero, random weights; float64, eval."""
    for name, parameter in net.named_parameters():
        if not parameter.any() and not name.startswith("fc"):
            nn.init.normal_(parameter, std=0.05)
    return net.double().eval()


def test_keys_are_those_of_the_published_networks() -> None:
    with torch.device("meta"):
        shallow, deep = xdnn_resnet18(1000).state_dict(), xdnn_resnet50(1000).state_dict()
    # 17 convolutions of the main path, 3 down-sampling ones, classifier weight and bias
    assert len(shallow) == 17 + 3 + 2
    assert shallow["layer2.0.downsample.weight"].shape == (128, 64, 1, 1)
    assert shallow["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert len(deep) == 49 + 4 + 2
    assert deep["layer1.0.downsample.weight"].shape == (256, 64, 1, 1)
    assert deep["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert deep["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert deep["fc.weight"].shape == (1000, 2048)


def test_only_the_classifier_has_a_bias() -> None:
    with torch.device("meta"):
        biases = [name for name, _ in xdnn_resnet50(3).named_parameters() if "bias" in name]
    assert biases == ["fc.bias"]


def test_fixup_scales_follow_the_depth() -> None:
    torch.manual_seed(0)
    net = xdnn_resnet18(2)
    # 8 blocks: sqrt(2 / (64 * 9)) / sqrt(8) = 0.0208333; down-sampling 1x1 to 128: sqrt(2 / 128) = 0.125
    assert net.layer1[0].conv1.weight.std().item() == pytest.approx(0.0208333, rel=0.02)
    assert net.layer2[0].downsample.weight.std().item() == pytest.approx(0.125, rel=0.03)
    assert not any(block.conv2.weight.any() for block in [*net.layer1, *net.layer4])
    # 4 bottlenecks: sqrt(2 / 64) / 4^(1/4) = 0.125; 3x3: sqrt(2 / (64 * 9)) / 4^(1/4) = 0.0416667
    deep = XdnnResNet(FixupBottleneck, (1, 1, 1, 1), 2)
    assert deep.layer1[0].conv1.weight.std().item() == pytest.approx(0.125, rel=0.03)
    assert deep.layer1[0].conv2.weight.std().item() == pytest.approx(0.0416667, rel=0.02)
    assert not deep.layer3[0].conv3.weight.any()
    assert deep.fc.weight.any()


@pytest.mark.parametrize("net", [xdnn_resnet18(3), XdnnResNet(FixupBottleneck, (1, 1, 1, 1), 3)], ids=["18", "50"])
def test_body_is_positively_homogeneous(net: XdnnResNet) -> None:
    torch.manual_seed(0)
    net = with_open_branches(net)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        one, scaled = net(x) - net.fc.bias, net(math.pi * x) - net.fc.bias
        other_way = net(-x) - net.fc.bias
    torch.testing.assert_close(scaled, math.pi * one, rtol=1e-10, atol=1e-12)
    assert (other_way + one).abs().max() > 1e-3  # positively: the network is not linear
