"""Attribution methods of the benchmark by name: ours from the core, RISE, and peers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raytrain_xai.attribution.attribute import BCOS_METHODS, STANDARD_METHODS, attribute, check_attribution
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.errors import ConfigError
from raytrain_xai.guidance.postprocess import localise_map
from raytrain_xai.localisation.peers import PERTURBATION, PROPAGATION, check_peer, peer_maps
from raytrain_xai.localisation.rise import rise

if TYPE_CHECKING:
    from raytrain_xai.models.network import Network

CORE = (*BCOS_METHODS, *STANDARD_METHODS)
PEERS = (*PERTURBATION, *PROPAGATION)
METHODS = (*CORE, "rise", *PEERS)
INTGRAD_STEPS = 50  # of the published benchmark


@dataclass(frozen=True)
class Method:
    """An attribution method at a tap; all but those of the core are defined at ``Input`` only."""

    name: str
    layer: str = "Input"

    def __str__(self) -> str:
        return f"{self.name}@{self.layer}" if self.name in CORE else self.name


def parse_method(text: str) -> Method:
    """Read ``NAME`` or ``NAME@LAYER``; without a layer, Grad-CAM is taken at ``Final`` and the others at ``Input``.

    Raises:
        ConfigError: unknown name, or a layer for a method that explains the input only.
    """
    name, at, layer = text.partition("@")
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown method {name!r}; {hint}methods: {', '.join(METHODS)}")
    if at and not layer:
        raise ConfigError(f"{text!r} names no layer; write {name} or {name}@LAYER")
    if layer not in ("", "Input") and name not in CORE:
        raise ConfigError(f"{name} explains the network input only, not {layer!r}; write {name}")
    return Method(name, layer or ("Final" if name == "gradcam" else "Input"))


def check_method(network: Network, method: Method) -> None:
    """Refuse a method that does not fit a network, before anything runs.

    Raises:
        ConfigError: says why, and what fits.
    """
    if method.name in CORE:
        check_attribution(network, method.name, method.layer)
    elif method.name in PEERS:
        check_peer(network, method.name)


def attribution_maps(network: Network, method: Method, mosaics: Tensor, targets: Tensor) -> Tensor:
    """Explain several classes of every image, at image size.

    The methods of the core take one forward pass over the images and one walk back over all (image, class) pairs.

    Args:
        network: in evaluation mode, on the device of the tensors.
        method: one that :func:`check_method` accepts.
        mosaics: (G, 3, H, W) uint8, or float in [0, 1].
        targets: (G, n) int64, classes explained for each image.
    Returns:
        (G, n, H, W) float32 or wider, signed (Grad-CAM: >= 0); maps of inner layers are resized bilinearly.
    """
    if method.name in PEERS:
        return peer_maps(network, network.encode(mosaics), targets, method.name)
    with torch.no_grad():
        if method.name == "rise":
            return rise(nn.Sequential(*network.stages), network.encode(mosaics), targets)
        tapped = tapped_pass(network, mosaics, method.layer)
        rows = torch.arange(len(mosaics), device=mosaics.device).repeat_interleave(targets.shape[1])
        attr = attribute(
            network, tapped, targets.flatten(), rows,
            method=method.name, layer=method.layer, intgrad_steps=INTGRAD_STEPS,
        )  # fmt: skip
        size = (mosaics.shape[2], mosaics.shape[3])
        return localise_map(attr, size, None, "canonical").unflatten(0, (len(mosaics), -1))
