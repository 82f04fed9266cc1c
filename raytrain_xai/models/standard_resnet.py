"""torchvision's ResNets, cut into stages, with the linear views of their blocks. State-dict keys are torchvision's.

Source: He et al., CVPR 2016 (arXiv 1512.03385); bottlenecks stride in the 3x3 convolution ("v1.5").
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


def build(name: str, num_classes: int) -> ResNet:
    """A ResNet of torchvision by its name there, random weights."""
    from torchvision.models import resnet

    _register_blocks()
    return getattr(resnet, name)(weights=None, num_classes=num_classes)


def cut(net: ResNet) -> Cut:
    """Stem, residual blocks, classifier."""
    layers = [net.layer1, net.layer2, net.layer3, net.layer4]
    stages = flat(net.conv1, net.bn1, net.relu, net.maxpool, *layers, net.avgpool, nn.Flatten(), net.fc)
    return Cut(stages, ends=[layer[-1] for layer in layers], blocks=flat(*layers))


@cache  # a registration per process, made only once torchvision is known to be needed
def _register_blocks() -> None:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    linearise.register(BasicBlock, _linearise_basic_block)
    linearise.register(Bottleneck, _linearise_bottleneck)


def _linearise_basic_block(block: BasicBlock, x: Tensor) -> tuple[Tensor, Pullback]:
    branch = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
    return linearise_residual(x, branch, block.downsample, block.relu)


def _linearise_bottleneck(block: Bottleneck, x: Tensor) -> tuple[Tensor, Pullback]:
    branch = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2, block.relu, block.conv3, block.bn3]
    return linearise_residual(x, branch, block.downsample, block.relu)


ARCHITECTURES = {
    name: Architecture(partial(build, name), cut, head="fc", is_bcos=False)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
}
