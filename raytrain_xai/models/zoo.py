"""Architectures by name, as networks with taps.

=================  ========================  ============  ============  ======================  ==================
family             Mid1                      Mid2          Mid3          Final                   further taps
=================  ========================  ============  ============  ======================  ==================
ResNet and kin     end of layer1             layer2        layer3        layer4                  every block
CIFAR ResNet       end of layer1             layer2        middle of     layer3                  every block
                                                           layer3
DenseNet           end of denseblock1        denseblock2   denseblock3   last norm (and ReLU)    every dense layer
VGG                second pooling layer      third         fourth        fifth                   every ReLU or norm,
                                                                                                 every pooling
ConvNeXt           end of the first group    second        third         fourth                  every block
simple_vit, vitc   a quarter of the blocks   half          three         last block              every block
                                                           quarters
vit (torchvision)  none                      none          none          none                    ``conv_proj``
squeezenet1_1      ``features.4``, 128       ``.7``, 256   ``.10``, 384  ``.12``, 512 channels   every Fire module
=================  ========================  ============  ============  ======================  ==================

``Input`` is the network input, [image, 1 - image] for B-cos and the normalised image otherwise. Further taps have the
names of their modules, ``layer1.0`` or ``features.denseblock2.denselayer3``. Mid1 to Final have a quarter, 1/8, 1/16
and 1/32 of the image's side, except in small networks and in transformers, which keep 1/16 (torchvision's have a class
token beside the map, see :mod:`.standard_vit`). Mid1 to Mid3 of SqueezeNet are the last values at each resolution but
the coarsest, where Mid3 lies in the middle.
"""

from __future__ import annotations

import difflib
from typing import Literal

from raytrain_xai.errors import ConfigError
from raytrain_xai.models import (
    bcos_convnext,
    bcos_densenet,
    bcos_resnet,
    bcos_vgg,
    bcos_vit,
    bcosify,
    standard,
    xdnn,
)
from raytrain_xai.models.architecture import Architecture, named_taps
from raytrain_xai.models.encoding import AddInverse, Normalise
from raytrain_xai.models.network import Network
from raytrain_xai.models.weights import load_weights

ARCHITECTURES: dict[str, Architecture] = {
    **bcos_resnet.ARCHITECTURES,
    **bcos_densenet.ARCHITECTURES,
    **bcos_vgg.ARCHITECTURES,
    **bcos_convnext.ARCHITECTURES,
    **bcos_vit.ARCHITECTURES,
    **standard.ARCHITECTURES,
    **xdnn.ARCHITECTURES,
    **bcosify.ARCHITECTURES,
}
MODEL_NAMES = tuple(ARCHITECTURES)


def build_network(
    name: str,
    num_classes: int,
    *,
    weights: str | None = None,
    norm_statistics: Literal["batch", "local", "frozen"] = "frozen",
) -> Network:
    """Build an architecture with a head for ``num_classes`` and load weights into it.

    Args:
        name: one of ``MODEL_NAMES``.
        num_classes: K >= 1.
        weights: see :func:`~raytrain_xai.models.weights.load_weights`; None leaves the random initialisation.
        norm_statistics: frozen keeps normalisation layers on their stored statistics in training too; with random
            weights these are mean 0 and variance 1, so train networks with norms from scratch with batch (or local,
            which is the same inside one process).
    Raises:
        ConfigError: unknown name, no class, or no such weights for this architecture.
        CheckpointError: the weights cannot be read or belong to another architecture.
    """
    if num_classes < 1:
        raise ConfigError(f"a classifier needs at least one class, got {num_classes}")
    architecture = find_architecture(name)
    net = architecture.build(num_classes)
    cut = architecture.cut(net)
    network = Network(
        net, encode=AddInverse() if architecture.is_bcos else Normalise(), stages=cut.stages,
        taps=named_taps(net, cut), name=name, num_classes=num_classes, is_bcos=architecture.is_bcos,
        head=architecture.head, frozen_norms=norm_statistics == "frozen",
    )  # fmt: skip
    if weights is not None:
        load_weights(network, weights)
    return network


def find_architecture(name: str) -> Architecture:
    """Look a name up.

    Raises:
        ConfigError: unknown name; suggests similar ones.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    near = difflib.get_close_matches(name, MODEL_NAMES, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"unknown model {name!r}; {hint}`raytrain-xai models list` shows all {len(MODEL_NAMES)}")
