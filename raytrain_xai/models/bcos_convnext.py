"""B-cos ConvNeXts: no activation, B-cos convolutions, bias-free norms, the classifier before the global pooling.

Source: Liu et al., CVPR 2022 (arXiv 2201.03545), in the B-cos form of Böhle et al., TPAMI 2024 (arXiv 2306.10898); atto
is the small variant of Woo et al., CVPR 2023 (arXiv 2301.00808). State-dict keys are those of the published B-cos v2
checkpoints. Suffix of a name: ``_pn`` for position norm (eps 1e-6), ``_bnu`` for uncentred batch norm.

Deviation: blocks are left out in training only after
:func:`~raytrain_xai.models.stochastic_depth.set_stochastic_depth`; the published trainings do so with probabilities up
to 0.1 (atto, tiny), 0.4 (small) and 0.5 (base, large).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_layers import BcosConv2d, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d, PositionNorm2d
from raytrain_xai.models.chain import Chain, run_chain
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_scaled_residual
from raytrain_xai.models.stochastic_depth import StochasticDepth

LAYER_SCALE = 1e-6  # initial factor of every residual branch
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "pn": partial(PositionNorm2d, eps=1e-6),
    "bnu": BatchNormUncentered2d,
}
SIZES = {
    "atto": ((40, 80, 160, 320), (2, 2, 6, 2)),
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "small": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "base": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "large": ((192, 384, 768, 1536), (3, 3, 27, 3)),
}


class BcosConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, 1x1 to four times the width and back, scaled per channel and added to the input."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.block = Chain(
            BcosConv2d(width, width, 7, padding=3, groups=width),
            norm(width),
            BcosConv2d(width, 4 * width, 1),
            BcosConv2d(4 * width, width, 1),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), LAYER_SCALE))
        self.stochastic_depth = StochasticDepth()

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> same."""
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


class BcosConvNeXt(nn.Module):
    """4x4 stem, four groups of blocks with downsampling between them, norm and B-cos 1x1 classifier, pooling, bias.

    Args:
        widths: channels per group.
        depths: blocks per group.
        norm: channels -> normalisation.
        num_classes: K.
    """

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], norm: Callable[[int], nn.Module], num_classes: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [BcosConv2d(6, widths[0], 4, stride=4), norm(widths[0])]
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if number:
                below = widths[number - 1]
                layers.append(Chain(norm(below), BcosConv2d(below, width, 2, stride=2)))
            layers.append(nn.Sequential(*[BcosConvNeXtBlock(width, norm) for _ in range(depth)]))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(norm(widths[-1]), BcosConv2d(widths[-1], num_classes, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.trunc_normal_(module.linear.weight, std=0.02)

    def groups(self) -> list[nn.Sequential]:
        """The four groups of blocks."""
        return [cast("nn.Sequential", layer) for layer in self.features[2::2]]

    def stages(self) -> list[nn.Module]:
        """Modules in forward order."""
        return flat(*self.features, self.classifier, self.avgpool, self.flatten, self.logit_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) encoded as [image, 1 - image] -> (B, K) logits."""
        return run_chain(self.stages(), x)


def cut(net: BcosConvNeXt) -> Cut:
    """Stem, blocks, downsampling, classifier; Mid1 to Final are the ends of the four groups."""
    groups = net.groups()
    return Cut(net.stages(), ends=[group[-1] for group in groups], blocks=flat(*groups))


@linearise.register(BcosConvNeXtBlock)
def _(block: BcosConvNeXtBlock, x: Tensor) -> tuple[Tensor, Pullback]:
    return linearise_scaled_residual(x, block.block, block.layer_scale, block.stochastic_depth)


ARCHITECTURES = {
    f"bcos_convnext_{size}_{norm}": Architecture(
        partial(BcosConvNeXt, *SIZES[size], NORMS[norm]), cut, head="classifier.1", is_bcos=True
    )
    for size in SIZES
    for norm in NORMS
}
