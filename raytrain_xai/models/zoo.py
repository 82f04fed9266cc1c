"""Architectures by name, as networks with taps.

======  ===========================  ====================================
tap     ResNets (B-cos, X-DNN, ...)  squeezenet1_1 (index in ``features``)
======  ===========================  ====================================
Input   network input                network input
Mid1    output of layer1             second Fire (4), 128 channels
Mid2    output of layer2             fourth Fire (7), 256 channels
Mid3    output of layer3             sixth Fire (10), 384 channels
Final   output of layer4             last Fire (12), 512 channels
======  ===========================  ====================================

Mid1 to Mid3 of SqueezeNet are the last values at each resolution but the coarsest, where Mid3 lies in the middle. The
network input is [image, 1 - image] for B-cos and the normalised image otherwise.
"""

from __future__ import annotations

import difflib
from typing import Literal

from raytrain_xai.errors import ConfigError
from raytrain_xai.models import bcos_resnet, bcos_vit, standard, xdnn
from raytrain_xai.models.architecture import Architecture, named_taps
from raytrain_xai.models.bcos_layers import AddInverse
from raytrain_xai.models.encoding import Normalise
from raytrain_xai.models.network import Network
from raytrain_xai.models.weights import load_weights

ARCHITECTURES: dict[str, Architecture] = {
    **bcos_resnet.ARCHITECTURES,
    **bcos_vit.ARCHITECTURES,
    **standard.ARCHITECTURES,
    **xdnn.ARCHITECTURES,
}
MODEL_NAMES = tuple(ARCHITECTURES)


def build_network(
    name: str,
    num_classes: int,
    *,
    weights: str | None = None,
    norm_statistics: Literal["batch", "frozen"] = "frozen",
) -> Network:
    """Build an architecture with a head for ``num_classes`` and load weights into it.

    Args:
        name: one of ``MODEL_NAMES``.
        num_classes: K >= 1.
        weights: see :func:`~raytrain_xai.models.weights.load_weights`; None leaves the random initialisation.
        norm_statistics: frozen keeps normalisation layers on their stored statistics in training too; with random
            weights these are mean 0 and variance 1, so train networks with norms from scratch with batch.
    Raises:
        ConfigError: unknown name (lists the known ones), no class, or no embedded weights for this architecture.
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
        ConfigError: unknown name; lists the known ones.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    near = difflib.get_close_matches(name, MODEL_NAMES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown model {name!r}; {hint}models: {', '.join(MODEL_NAMES)}")
