"""torchvision's VGG networks, with and without batch norm, cut into stages. State-dict keys are torchvision's.

Source: Simonyan and Zisserman, ICLR 2015 (arXiv 1409.1556).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from raytrain_xai.models.architecture import Architecture, Cut, flat

if TYPE_CHECKING:
    from torchvision.models.vgg import VGG


def build(name: str, num_classes: int) -> VGG:
    """A VGG of torchvision by its name there, random weights."""
    from torchvision.models import vgg

    return getattr(vgg, name)(weights=None, num_classes=num_classes)


def cut(net: VGG) -> Cut:
    """Layers in a row. Mid1 to Final are behind the last four of the five pooling layers, as in a ResNet.

    Blocks are the ReLUs and the pooling layers; the values between a convolution and its ReLU have no tap, since the
    ReLU works in place.
    """
    layers = list(net.features.children())
    pools = [module for module in layers if isinstance(module, nn.MaxPool2d)]
    blocks = [module for module in layers if isinstance(module, (nn.ReLU, nn.MaxPool2d))]
    return Cut(flat(layers, net.avgpool, nn.Flatten(), net.classifier), ends=pools[1:], blocks=blocks)


ARCHITECTURES = {
    f"vgg{depth}{norm}": Architecture(partial(build, f"vgg{depth}{norm}"), cut, head="classifier.6", is_bcos=False)
    for depth in (11, 13, 16, 19)
    for norm in ("", "_bn")
}
