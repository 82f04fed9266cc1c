"""B-cos ResNets: every unit aligns with its input, so the whole network is an input-dependent linear map.

ResNets, ResNeXts, wide ResNets and the ResNets of CIFAR. Source: Böhle, Fritz and Schiele, "B-cos Networks: Alignment
is All We Need for Interpretability", CVPR 2022, and its 2024 extension. State-dict keys are those of the published
B-cos v2 checkpoints. Blocks are left out in training after
:func:`~raytrain_xai.models.stochastic_depth.set_stochastic_depth`.

Deviation: the code of model guidance (Rao et al., ICCV 2023) keeps the logit bias of 1000 classes, -6.907, after the
head has been replaced; here the bias is always -log(K - 1) of the K classes at hand, so that the state dict and the
number of classes define the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal, cast

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_layers import BcosConv2d, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.chain import Chain, run_chain
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual
from raytrain_xai.models.stochastic_depth import StochasticDepth

_Block = Callable[[int, int, int], "BcosBasicBlock | BcosBottleneck"]


class BcosBasicBlock(nn.Module):
    """Two 3x3 B-cos convolutions, plain addition, no activation."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = BcosConv2d(in_width, width, 3, stride, padding=1)
        self.bn1 = BatchNormUncentered2d(width)
        self.conv2 = BcosConv2d(width, width, 3, padding=1)
        self.bn2 = BatchNormUncentered2d(width)
        self.stochastic_depth = StochasticDepth()
        self.downsample = _downsample(in_width, width, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.bn1, self.conv2, self.bn2, self.stochastic_depth]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, width, h / stride, w / stride)."""
        return _residual_forward(self, x)


class BcosBottleneck(nn.Module):
    """1x1, 3x3 (which strides: "v1.5"), 1x1 B-cos convolutions, plain addition, no activation.

    Args:
        groups: groups of the 3x3 convolution (ResNeXt).
        group_width: channels per group when ``width`` is 64; they grow with ``width``.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_width: int, width: int, stride: int, *, groups: int = 1, group_width: int = 64) -> None:
        super().__init__()
        inner, out_width = width * group_width // 64 * groups, width * self.expansion
        self.conv1 = BcosConv2d(in_width, inner, 1)
        self.bn1 = BatchNormUncentered2d(inner)
        self.conv2 = BcosConv2d(inner, inner, 3, stride, padding=1, groups=groups)
        self.bn2 = BatchNormUncentered2d(inner)
        self.conv3 = BcosConv2d(inner, out_width, 1)
        self.bn3 = BatchNormUncentered2d(out_width)
        self.stochastic_depth = StochasticDepth()
        self.downsample = _downsample(in_width, out_width, stride)

    def branch(self) -> list[nn.Module]:
        """Modules of the residual branch in forward order."""
        return [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3, self.stochastic_depth]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_width, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        return _residual_forward(self, x)


class BcosResNet(nn.Module):
    """Stem, residual stages, B-cos 1x1 classifier *before* global average pooling, logit bias.

    Args:
        block: (channels in, width, stride) -> residual block.
        depths: blocks per stage, three (CIFAR) or four stages.
        num_classes: K.
        widths: width per stage, which the block may multiply; the stem has ``widths[0]``.
        stem: ``large``: 7x7 with stride 2 and average pooling (output stride 32 after four stages); ``small``: 3x3 with
            stride 2, for images of 64 to 112 pixels; ``cifar``: 3x3 with stride 1, for 32 pixels.
    """

    def __init__(
        self,
        block: _Block,
        depths: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["large", "small", "cifar"] = "large",
    ) -> None:
        super().__init__()
        kernel = 7 if stem == "large" else 3
        self.conv1 = BcosConv2d(6, widths[0], kernel, stride=1 if stem == "cifar" else 2, padding=kernel // 2)
        self.bn1 = BatchNormUncentered2d(widths[0])
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stem == "large" else nn.Identity()
        channels = widths[0]
        self.num_stages = len(depths)
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks = [block(channels, width, 1 if number == 1 else 2)]
            channels = width * blocks[0].expansion
            blocks += [block(channels, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = BcosConv2d(channels, num_classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.kaiming_normal_(module.linear.weight, mode="fan_out", nonlinearity="relu")

    def layers(self) -> list[nn.Sequential]:
        """The residual stages."""
        return [cast("nn.Sequential", self.get_submodule(f"layer{number + 1}")) for number in range(self.num_stages)]

    def stages(self) -> list[nn.Module]:
        """Modules in forward order, which differs from the registration order of the published code."""
        stem = [self.conv1, self.bn1, self.pool]
        return flat(*stem, *self.layers(), self.fc, self.avgpool, self.flatten, self.logit_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) encoded as [image, 1 - image] -> (B, K) logits."""
        return run_chain(self.stages(), x)


def bcos_resnet_tiny(num_classes: int) -> BcosResNet:
    """One basic block per stage, widths 32 to 256: trains from scratch on small images without a GPU."""
    return BcosResNet(BcosBasicBlock, (1, 1, 1, 1), num_classes, widths=(32, 64, 128, 256), stem="small")


def cut(net: BcosResNet) -> Cut:
    """Stem, residual blocks, classifier. Of three stages, Mid3 is the middle block of the last."""
    layers = net.layers()
    ends = [layer[-1] for layer in layers]
    if len(ends) == 3:
        ends.insert(2, layers[2][(len(layers[2]) - 1) // 2])
    return Cut(net.stages(), ends=ends, blocks=flat(*layers))


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


def _imagenet(block: _Block, depths: Sequence[int]) -> Architecture:
    return Architecture(partial(BcosResNet, block, depths), cut, head="fc", is_bcos=True)


def _cifar(depth: int) -> Architecture:
    build = partial(BcosResNet, BcosBasicBlock, [depth] * 3, widths=(16, 32, 64), stem="cifar")
    return Architecture(build, cut, head="fc", is_bcos=True, image_size=32)


ARCHITECTURES = {
    "bcos_resnet_tiny": Architecture(bcos_resnet_tiny, cut, head="fc", is_bcos=True, image_size=112),
    "bcos_resnet18": _imagenet(BcosBasicBlock, (2, 2, 2, 2)),
    "bcos_resnet34": _imagenet(BcosBasicBlock, (3, 4, 6, 3)),
    "bcos_resnet50": _imagenet(BcosBottleneck, (3, 4, 6, 3)),
    "bcos_resnet101": _imagenet(BcosBottleneck, (3, 4, 23, 3)),
    "bcos_resnet152": _imagenet(BcosBottleneck, (3, 8, 36, 3)),
    "bcos_resnext50_32x4d": _imagenet(partial(BcosBottleneck, groups=32, group_width=4), (3, 4, 6, 3)),
    "bcos_resnext101_32x8d": _imagenet(partial(BcosBottleneck, groups=32, group_width=8), (3, 4, 23, 3)),
    "bcos_wide_resnet50_2": _imagenet(partial(BcosBottleneck, group_width=128), (3, 4, 6, 3)),
    "bcos_wide_resnet101_2": _imagenet(partial(BcosBottleneck, group_width=128), (3, 4, 23, 3)),
    **{f"bcos_cifar_resnet{6 * depth + 2}": _cifar(depth) for depth in (3, 5, 7, 9, 18)},
}
