"""B-cos ResNets: every unit aligns with its input, so the whole network is an input-dependent linear map.

Source: Böhle, Fritz and Schiele, "B-cos Networks: Alignment is All We Need for Interpretability", CVPR 2022, and
its 2024 extension. State-dict keys are those of the published B-cos v2 checkpoints.

Deviation: the code of model guidance (Rao et al., ICCV 2023) keeps the logit bias of 1000 classes, -6.907, after the
head has been replaced; here the bias is always -log(K - 1) of the K classes at hand, so that the state dict and the
number of classes define the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_layers import BatchNormUncentered2d, BcosConv2d, LogitLayer, class_prior_bias
from raytrain_xai.models.chain import Chain, run_chain
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual


class BcosBasicBlock(nn.Module):
    """Two 3x3 B-cos convolutions, plain addition, no activation."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = BcosConv2d(in_width, width, 3, stride, padding=1)
        self.bn1 = BatchNormUncentered2d(width)
        self.conv2 = BcosConv2d(width, width, 3, padding=1)
        self.bn2 = BatchNormUncentered2d(width)
        self.downsample = _downsample(in_width, width, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.bn1, self.conv2, self.bn2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, width, h / stride, w / stride)."""
        return _residual_forward(self, x)


class BcosBottleneck(nn.Module):
    """1x1, 3x3 (which strides: "v1.5"), 1x1 B-cos convolutions, plain addition, no activation."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = width * self.expansion
        self.conv1 = BcosConv2d(in_width, width, 1)
        self.bn1 = BatchNormUncentered2d(width)
        self.conv2 = BcosConv2d(width, width, 3, stride, padding=1)
        self.bn2 = BatchNormUncentered2d(width)
        self.conv3 = BcosConv2d(width, out_width, 1)
        self.bn3 = BatchNormUncentered2d(out_width)
        self.downsample = _downsample(in_width, out_width, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        return _residual_forward(self, x)


class BcosResNet(nn.Module):
    """Stem, four residual stages, B-cos 1x1 classifier *before* global average pooling, logit bias.

    Args:
        block: kind of residual block.
        depths: blocks per stage.
        num_classes: K.
        widths: channels per stage, before the block's expansion; the stem has ``widths[0]``.
        small_stem: 3x3 stem without pooling (output stride 16) for images of 64 to 112 pixels, instead of 7x7 and
            average pooling (output stride 32).
    """

    def __init__(
        self,
        block: type[BcosBasicBlock] | type[BcosBottleneck],
        depths: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        small_stem: bool = False,
    ) -> None:
        super().__init__()
        kernel = 3 if small_stem else 7
        self.conv1 = BcosConv2d(6, widths[0], kernel, stride=2, padding=kernel // 2)
        self.bn1 = BatchNormUncentered2d(widths[0])
        self.pool = nn.Identity() if small_stem else nn.AvgPool2d(3, stride=2, padding=1)
        in_widths = [widths[0], *(width * block.expansion for width in widths[:3])]
        layers = [
            _residual_stage(block, in_width, width, depth, stride)
            for in_width, width, depth, stride in zip(in_widths, widths, depths, (1, 2, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = BcosConv2d(widths[3] * block.expansion, num_classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.kaiming_normal_(module.linear.weight, mode="fan_out", nonlinearity="relu")

    def layers(self) -> list[nn.Sequential]:
        """The residual stages."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stages(self) -> list[nn.Module]:
        """Modules in forward order, which differs from the registration order of the published code."""
        stem = [self.conv1, self.bn1, self.pool]
        return flat(*stem, *self.layers(), self.fc, self.avgpool, self.flatten, self.logit_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) encoded as [image, 1 - image] -> (B, K) logits."""
        return run_chain(self.stages(), x)


def bcos_resnet_tiny(num_classes: int) -> BcosResNet:
    """One basic block per stage, widths 32 to 256: trains from scratch on small images without a GPU."""
    return BcosResNet(BcosBasicBlock, (1, 1, 1, 1), num_classes, widths=(32, 64, 128, 256), small_stem=True)


def bcos_resnet18(num_classes: int) -> BcosResNet:
    """B-cos ResNet-18."""
    return BcosResNet(BcosBasicBlock, (2, 2, 2, 2), num_classes)


def bcos_resnet34(num_classes: int) -> BcosResNet:
    """B-cos ResNet-34."""
    return BcosResNet(BcosBasicBlock, (3, 4, 6, 3), num_classes)


def bcos_resnet50(num_classes: int) -> BcosResNet:
    """B-cos ResNet-50."""
    return BcosResNet(BcosBottleneck, (3, 4, 6, 3), num_classes)


def cut(net: BcosResNet) -> Cut:
    """Stem, residual blocks, classifier."""
    layers = net.layers()
    return Cut(net.stages(), ends=[layer[-1] for layer in layers], blocks=flat(*layers))


@linearise.register(BcosBasicBlock)
@linearise.register(BcosBottleneck)
def _linearise_block(block: BcosBasicBlock | BcosBottleneck, x: Tensor) -> tuple[Tensor, Pullback]:
    return linearise_residual(x, block.branch(), block.downsample, None)


def _residual_forward(block: BcosBasicBlock | BcosBottleneck, x: Tensor) -> Tensor:
    y = run_chain(block.branch(), x)
    return y + (x if block.downsample is None else block.downsample(x))


def _downsample(in_width: int, out_width: int, stride: int) -> Chain | None:
    if stride == 1 and in_width == out_width:
        return None
    return Chain(BcosConv2d(in_width, out_width, 1, stride), BatchNormUncentered2d(out_width))


def _residual_stage(
    block: type[BcosBasicBlock] | type[BcosBottleneck],
    in_width: int,
    width: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    first = block(in_width, width, stride)
    rest = [block(width * block.expansion, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


ARCHITECTURES = {
    "bcos_resnet_tiny": Architecture(bcos_resnet_tiny, cut, head="fc", is_bcos=True, image_size=112),
    "bcos_resnet18": Architecture(bcos_resnet18, cut, head="fc", is_bcos=True),
    "bcos_resnet34": Architecture(bcos_resnet34, cut, head="fc", is_bcos=True),
    "bcos_resnet50": Architecture(bcos_resnet50, cut, head="fc", is_bcos=True),
}
