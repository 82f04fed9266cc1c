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
from collections.abc import Sequence
from typing import Literal

from torch import nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models import bcos_resnet, standard, xdnn
from raytrain_xai.models.bcos_layers import AddInverse
from raytrain_xai.models.encoding import Normalise
from raytrain_xai.models.network import Network
from raytrain_xai.models.weights import load_weights

BCOS = {
    "bcos_resnet_tiny": bcos_resnet.bcos_resnet_tiny,
    "bcos_resnet18": bcos_resnet.bcos_resnet18,
    "bcos_resnet34": bcos_resnet.bcos_resnet34,
    "bcos_resnet50": bcos_resnet.bcos_resnet50,
}
XDNN = {"xdnn_resnet18": xdnn.xdnn_resnet18, "xdnn_resnet50": xdnn.xdnn_resnet50}
RESNET = {"resnet18": standard.resnet18, "resnet50": standard.resnet50}
SQUEEZENET = "squeezenet1_1"
MODEL_NAMES = (*BCOS, *RESNET, SQUEEZENET, *XDNN)


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
    net, stages, ends = _architecture(name, num_classes)
    network = Network(
        net, encode=AddInverse() if name in BCOS else Normalise(), stages=stages, taps=_taps(stages, ends), name=name,
        num_classes=num_classes, is_bcos=name in BCOS, frozen_norms=norm_statistics == "frozen",
    )  # fmt: skip
    if weights is not None:
        load_weights(network, weights)
    return network


def _architecture(name: str, num_classes: int) -> tuple[nn.Module, list[nn.Module], list[nn.Module]]:
    """The net, its modules in forward order, and those that end in the taps Mid1, Mid2, Mid3 and Final."""
    if name in BCOS:
        net = BCOS[name](num_classes)
        return net, net.stages(), [net.layer1, net.layer2, net.layer3, net.layer4]
    if name in XDNN:
        net = XDNN[name](num_classes)
        return net, net.stages(), [net.layer1, net.layer2, net.layer3, net.layer4]
    if name in RESNET:
        net = RESNET[name](num_classes)
        return net, standard.resnet_stages(net), [net.layer1, net.layer2, net.layer3, net.layer4]
    if name == SQUEEZENET:
        net = standard.squeezenet1_1(num_classes)
        return net, standard.squeezenet_stages(net), [net.features[index] for index in (4, 7, 10, 12)]
    raise ConfigError(_unknown(name))


def _taps(stages: Sequence[nn.Module], ends: Sequence[nn.Module]) -> dict[str, int]:
    """Tap names with the number of stages up to and including each end; modules compare by identity."""
    positions = [list(stages).index(end) + 1 for end in ends]
    return {"Input": 0, **dict(zip(("Mid1", "Mid2", "Mid3", "Final"), positions, strict=True))}


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, MODEL_NAMES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown model {name!r}; {hint}models: {', '.join(MODEL_NAMES)}"
