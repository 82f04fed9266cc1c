"""B-cos VGG networks: no activation, B-cos convolutions, average pooling, the classifier before the global pooling.

Source: Simonyan and Zisserman, ICLR 2015 (arXiv 1409.1556), in the B-cos form of Böhle et al., TPAMI 2024 (arXiv
2306.10898). State-dict keys are those of the published B-cos v2 checkpoints, in which the places of the norms are
counted also where there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_layers import BcosConv2d, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.chain import run_chain

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class BcosVgg(nn.Module):
    """Five groups of 3x3 convolutions with average pooling behind each, three classifier convolutions, logit bias.

    Args:
        depths: convolutions per group.
        num_classes: K.
        with_norms: an uncentred batch norm behind every convolution of the groups.
        widths: channels per group.
        hidden: channels between the classifier convolutions.
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int,
        *,
        with_norms: bool,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
    ) -> None:
        super().__init__()
        channels, layers = 6, []
        for depth, width in zip(depths, widths, strict=True):
            for _ in range(depth):
                norm = BatchNormUncentered2d(width) if with_norms else nn.Identity()
                layers += [BcosConv2d(channels, width, 3, padding=1), norm]
                channels = width
            layers.append(nn.AvgPool2d(2, stride=2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            BcosConv2d(channels, hidden, 7, padding=3),
            BcosConv2d(hidden, hidden, 1),
            BcosConv2d(hidden, num_classes, 1),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.kaiming_normal_(module.linear.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[nn.Module]:
        """Modules in forward order."""
        return flat(self.features, self.classifier, self.avgpool, self.flatten, self.logit_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) encoded as [image, 1 - image] -> (B, K) logits."""
        return run_chain(self.stages(), x)


def cut(net: BcosVgg) -> Cut:
    """Layers in a row. Mid1 to Final are behind the last four of the five pooling layers, as in a ResNet.

    Blocks are the norms (or their empty places) and the pooling layers.
    """
    blocks = [layer for layer in net.features if not isinstance(layer, BcosConv2d)]
    pools = [layer for layer in blocks if isinstance(layer, nn.AvgPool2d)]
    return Cut(net.stages(), ends=pools[1:], blocks=blocks)


ARCHITECTURES = {
    f"bcos_vgg{depth}{suffix}": Architecture(
        partial(BcosVgg, DEPTHS[depth], with_norms=bool(suffix)), cut, head="classifier.2", is_bcos=True
    )
    for depth in DEPTHS
    for suffix in ("", "_bnu")
}
