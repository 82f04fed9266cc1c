"""Small random networks and batches of noise for the tests of distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.models.architecture import Cut, named_taps
from raytrain_xai.models.bcos_resnet import BcosBasicBlock, BcosResNet
from raytrain_xai.models.bcos_resnet import cut as cut_resnet
from raytrain_xai.models.bcos_vit import BCOS, SimpleViT, Size
from raytrain_xai.models.bcos_vit import cut as cut_vit
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch


def noise_batch(num_images: int, size: int) -> Batch:
    """Images with one of three labels each, and no annotation."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator),
        labels=torch.eye(3)[torch.arange(num_images) % 3], boxes=torch.zeros(num_images, 0, 4),
        box_labels=torch.zeros(num_images, 0, dtype=torch.int64), masks=None,
        has_mask=torch.zeros(num_images, dtype=torch.bool), annotated_rows=torch.zeros(0, dtype=torch.int64),
        groups=torch.full((num_images,), -1), index=torch.arange(num_images), step_size=num_images, step_annotated=0,
    )  # fmt: skip


def bcos_resnet(seed: int = 0) -> Network:
    """Four narrow blocks, float64; last features of 1/16 of the image's side."""
    torch.manual_seed(seed)
    net = BcosResNet(BcosBasicBlock, (1, 1, 1, 1), 3, widths=(8, 8, 12, 16), stem="small")
    return _bcos(net, cut_resnet(net))


def bcos_vit(seed: int = 0) -> Network:
    """Three blocks of two heads on patches of 8 pixels, float64."""
    torch.manual_seed(seed)
    net = SimpleViT(BCOS, Size(16, 3, 2), 3, patch=8)
    return _bcos(net, cut_vit(net))


def plain_resnet(seed: int = 0) -> Network:
    """ResNet-18 with norms that learn, float64."""
    torch.manual_seed(seed)
    return build_network("resnet18", 3, norm_statistics="batch").double()


def settled(network: Network, batch: Batch) -> Network:
    """In evaluation mode with the statistics of the batch: with those of initialisation the logits are all bias."""
    norms = [module for module in network.modules() if hasattr(module, "momentum")]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(batch.images)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    return network.eval()


def distill_config(distill: dict[str, Any], **sections: Any) -> RunConfig:
    raw = {
        "name": "x", "epochs": 1, "data": {"path": "d", "image_size": 32}, "model": {"name": "bcos_resnet_tiny"},
        "evaluation": {"select": "last"},
    }  # fmt: skip
    return parse_config({**raw, "distill": {"teacher": "t", **distill}, **sections})


def _bcos(net: nn.Module, parts: Cut) -> Network:
    return Network(
        net, encode=AddInverse(), stages=parts.stages, taps=named_taps(net, parts), name="small_bcos", num_classes=3,
        is_bcos=True, head="fc",
    ).double()  # fmt: skip
