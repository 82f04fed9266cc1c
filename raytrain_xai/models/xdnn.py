"""X-DNN: ResNets without any bias or normalisation, for which input x gradient is exact.

A network of bias-free convolutions, ReLU and pooling is positively homogeneous, f(a x) = a f(x) for a > 0, so
Integrated Gradients with a zero baseline equals input x gradient: one backward pass. Fixup initialisation replaces
normalisation.

Sources: Hesse, Schaub-Meyer and Roth, "Fast Axiomatic Attribution for Neural Networks", NeurIPS 2021; Zhang, Dauphin
and Ma, "Fixup Initialization", ICLR 2019. State-dict keys are those of the published X-Fixup-ResNets.

Deviation, as in model guidance (Rao et al., ICCV 2023): the classifier is an ordinary linear layer with a bias and the
default initialisation (published: no bias, zeros). The bias is additive: the map sums to the logit minus the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual


class FixupBasicBlock(nn.Module):
    """Two 3x3 convolutions; ReLU between them and after the addition."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.downsample = _downsample(in_width, width, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.relu, self.conv2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, width, h / stride, w / stride), >= 0."""
        return _residual_forward(self, x)

    def initialise(self, num_blocks: int) -> None:
        """Fixup: the branch starts at zero, its first layer scaled by num_blocks^(-1/2)."""
        _fan_out_normal(self.conv1, num_blocks**-0.5)
        nn.init.zeros_(self.conv2.weight)
        if self.downsample is not None:
            _fan_out_normal(self.downsample, 1.0)


class FixupBottleneck(nn.Module):
    """1x1, 3x3 (which strides), 1x1 convolutions; ReLU between them and after the addition."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.relu = nn.ReLU()
        self.downsample = _downsample(in_width, width * self.expansion, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.relu, self.conv2, self.relu, self.conv3]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, 4 * width, h / stride, w / stride), >= 0."""
        return _residual_forward(self, x)

    def initialise(self, num_blocks: int) -> None:
        """Fixup: the branch starts at zero, its first two layers scaled by num_blocks^(-1/4)."""
        _fan_out_normal(self.conv1, num_blocks**-0.25)
        _fan_out_normal(self.conv2, num_blocks**-0.25)
        nn.init.zeros_(self.conv3.weight)
        if self.downsample is not None:
            _fan_out_normal(self.downsample, 1.0)


class XdnnResNet(nn.Module):
    """Bias-free fixup ResNet with an ordinary linear classifier.

    Args:
        block: kind of residual block.
        depths: blocks per stage; the widths are 64, 128, 256 and 512 times the block's expansion.
        num_classes: K.
    """

    def __init__(
        self, block: type[FixupBasicBlock] | type[FixupBottleneck], depths: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = (64, 128, 256, 512)
        in_widths = (64, *(width * block.expansion for width in widths[:3]))
        layers = [
            _residual_stage(block, in_width, width, depth, stride)
            for in_width, width, depth, stride in zip(in_widths, widths, depths, (1, 2, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[3] * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, FixupBasicBlock | FixupBottleneck):
                module.initialise(sum(depths))

    def layers(self) -> list[nn.Sequential]:
        """The residual stages."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stages(self) -> list[nn.Module]:
        """Modules in forward order."""
        return flat(self.conv1, self.relu, self.maxpool, *self.layers(), self.avgpool, self.flatten, self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised image -> (B, K) logits."""
        for stage in self.stages():
            x = stage(x)
        return x


def xdnn_resnet18(num_classes: int) -> XdnnResNet:
    """Bias-free fixup ResNet-18."""
    return XdnnResNet(FixupBasicBlock, (2, 2, 2, 2), num_classes)


def xdnn_resnet50(num_classes: int) -> XdnnResNet:
    """Bias-free fixup ResNet-50, the network guided in the paper."""
    return XdnnResNet(FixupBottleneck, (3, 4, 6, 3), num_classes)


def cut(net: XdnnResNet) -> Cut:
    """Stem, residual blocks, classifier."""
    layers = net.layers()
    return Cut(net.stages(), ends=[layer[-1] for layer in layers], blocks=flat(*layers))


@linearise.register(FixupBasicBlock)
@linearise.register(FixupBottleneck)
def _linearise_block(block: FixupBasicBlock | FixupBottleneck, x: Tensor) -> tuple[Tensor, Pullback]:
    return linearise_residual(x, block.branch(), block.downsample, block.relu)


def _residual_forward(block: FixupBasicBlock | FixupBottleneck, x: Tensor) -> Tensor:
    y = x
    for module in block.branch():
        y = module(y)
    return block.relu(y + (x if block.downsample is None else block.downsample(x)))


def _downsample(in_width: int, out_width: int, stride: int) -> nn.Conv2d | None:
    if stride == 1 and in_width == out_width:
        return None
    return nn.Conv2d(in_width, out_width, 1, stride, bias=False)


def _fan_out_normal(conv: nn.Conv2d, scale: float) -> None:
    """Normal with standard deviation scale * sqrt(2 / (out_channels * kernel area))."""
    fan_out = conv.out_channels * math.prod(conv.kernel_size)
    nn.init.normal_(conv.weight, std=scale * math.sqrt(2 / fan_out))


def _residual_stage(
    block: type[FixupBasicBlock] | type[FixupBottleneck], in_width: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    first = block(in_width, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(depth - 1)))


ARCHITECTURES = {
    "xdnn_resnet18": Architecture(xdnn_resnet18, cut, head="fc", is_bcos=False),
    "xdnn_resnet50": Architecture(xdnn_resnet50, cut, head="fc", is_bcos=False),
}
