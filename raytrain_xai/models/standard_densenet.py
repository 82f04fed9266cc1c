"""torchvision's DenseNets, cut into stages. State-dict keys are torchvision's.

Source: Huang et al., CVPR 2017 (arXiv 1608.06993). The dense blocks are rebuilt from torchvision's layers as chains of
:class:`~raytrain_xai.models.dense.DenseLayer`; the values and the keys are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.dense import DenseLayer

if TYPE_CHECKING:
    from torchvision.models.densenet import DenseNet


def build(name: str, num_classes: int) -> DenseNet:
    """A DenseNet of torchvision by its name there, random weights."""
    from torchvision.models import densenet

    return adapted(getattr(densenet, name)(weights=None, num_classes=num_classes))


def adapted(net: DenseNet) -> DenseNet:
    """The same net with its four dense blocks as chains."""
    for number in (1, 2, 3, 4):
        block = net.features.get_submodule(f"denseblock{number}")
        layers = [(key, DenseLayer(OrderedDict(layer.named_children()))) for key, layer in block.named_children()]
        setattr(net.features, f"denseblock{number}", nn.Sequential(OrderedDict(layers)))
    return net


def cut(net: DenseNet) -> Cut:
    """Stem, dense layers, transitions, classifier.

    Mid1 to Mid3 are the ends of the first three dense blocks, before the transition; Final is behind the last norm and
    its ReLU, the features that are pooled. A dense layer's tap holds all channels so far.
    """
    last_relu = nn.ReLU()
    blocks = [cast("nn.Sequential", getattr(net.features, f"denseblock{number}")) for number in (1, 2, 3, 4)]
    stages = flat(*net.features.children(), last_relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    return Cut(stages, ends=[*(block[-1] for block in blocks[:3]), last_relu], blocks=flat(*blocks))


ARCHITECTURES = {
    name: Architecture(partial(build, name), cut, head="classifier", is_bcos=False)
    for name in ("densenet121", "densenet161", "densenet169", "densenet201")
}
