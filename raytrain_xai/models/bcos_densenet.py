"""B-cos DenseNets: no activation, B-cos convolutions, average pooling, the classifier before the global pooling.

Source: Huang et al., CVPR 2017 (arXiv 1608.06993), in the B-cos form of Böhle et al., TPAMI 2024 (arXiv 2306.10898).
State-dict keys are those of the published B-cos v2 checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_layers import BcosConv2d, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.chain import Chain, run_chain
from raytrain_xai.models.dense import DenseLayer

BOTTLENECK = 4  # channels between the two convolutions of a layer, in multiples of the growth


class BcosDenseNet(nn.Module):
    """Stem, four dense blocks with transitions between them, norm, B-cos 1x1 classifier, pooling, logit bias.

    Args:
        growth: channels every layer adds.
        depths: layers per block.
        stem_width: channels of the stem.
        num_classes: K.
    """

    def __init__(self, growth: int, depths: Sequence[int], stem_width: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=BcosConv2d(6, stem_width, 7, stride=2, padding=3),
                norm0=BatchNormUncentered2d(stem_width),
                pool0=nn.AvgPool2d(3, stride=2, padding=1),
            )
        )
        channels = stem_width
        for number, depth in enumerate(depths, 1):
            if number > 1:
                self.features.add_module(f"transition{number - 1}", _transition(channels))
                channels //= 2
            layers = {f"denselayer{i + 1}": _dense_layer(channels + i * growth, growth) for i in range(depth)}
            self.features.add_module(f"denseblock{number}", nn.Sequential(OrderedDict(layers)))
            channels += depth * growth
        self.features.add_module("norm5", BatchNormUncentered2d(channels))
        self.classifier = BcosConv2d(channels, num_classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.kaiming_normal_(module.linear.weight)

    def blocks(self) -> list[nn.Sequential]:
        """The dense blocks."""
        return [
            cast("nn.Sequential", block)
            for name, block in self.features.named_children()
            if name.startswith("denseblock")
        ]

    def stages(self) -> list[nn.Module]:
        """Modules in forward order."""
        return flat(*self.features, self.classifier, self.avgpool, self.flatten, self.logit_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) encoded as [image, 1 - image] -> (B, K) logits."""
        return run_chain(self.stages(), x)


def cut(net: BcosDenseNet) -> Cut:
    """Stem, dense layers, transitions, classifier.

    Mid1 to Mid3 are the ends of the first three dense blocks, before the transition; Final is behind the last norm. A
    dense layer's tap holds all channels so far; published concepts lie behind the transitions.
    """
    blocks = net.blocks()
    ends = [*(block[-1] for block in blocks[:-1]), net.features.get_submodule("norm5")]
    taps: list[nn.Module] = []
    for part in net.features:
        if part in blocks:
            taps += flat(part)
        elif isinstance(part, Chain):  # a transition
            taps.append(part[-1])
    return Cut(net.stages(), ends=ends, blocks=taps)


def _dense_layer(channels: int, growth: int) -> DenseLayer:
    return DenseLayer(
        OrderedDict(
            norm1=BatchNormUncentered2d(channels),
            conv1=BcosConv2d(channels, BOTTLENECK * growth, 1),
            norm2=BatchNormUncentered2d(BOTTLENECK * growth),
            conv2=BcosConv2d(BOTTLENECK * growth, growth, 3, padding=1),
        )
    )


def _transition(channels: int) -> Chain:
    return Chain(
        OrderedDict(
            norm=BatchNormUncentered2d(channels),
            conv=BcosConv2d(channels, channels // 2, 1),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )


def _published(growth: int, depths: Sequence[int], stem_width: int) -> Architecture:
    return Architecture(partial(BcosDenseNet, growth, depths, stem_width), cut, head="classifier", is_bcos=True)


ARCHITECTURES = {
    "bcos_densenet121": _published(32, (6, 12, 24, 16), 64),
    "bcos_densenet161": _published(48, (6, 12, 36, 24), 96),
    "bcos_densenet169": _published(32, (6, 12, 32, 32), 64),
    "bcos_densenet201": _published(32, (6, 12, 48, 32), 64),
}
