"""Prediction with a B-cos ResNet-50 at 224 pixels: against the ``bcos`` package and torchvision's plain ResNet-50."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.bcos_package import package_resnet
from bench.scenario import random_batch, settle_norms
from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.models.zoo import build_network

SIZE, NUM_IMAGES, NUM_CLASSES = 224, 4, 1000
TOLERANCE = 1e-5


@torch.no_grad()
def run(options: Options) -> list[Result]:
    """Two lines: cost over the plain network in channels-last memory, and speed-up over the package."""
    network = build_network("bcos_resnet50", NUM_CLASSES, norm_statistics="batch").to(options.device)
    plain = build_network("resnet50", NUM_CLASSES).to(options.device).eval()
    images = random_batch(
        NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=NUM_IMAGES, num_annotated=0, device=options.device
    ).images
    settle_norms(network, images)
    peer = package_resnet(network, "resnet50")
    encoded = network.encode(images)
    for module in (network, plain):
        module.to(memory_format=torch.channels_last)
    floats = (images / 255).to(memory_format=torch.channels_last)

    def package() -> Tensor:
        return peer(encoded)

    error = relative_error(network(images), package())
    variants = {"ours": lambda: network(images), "package": package, "plain": lambda: plain(floats)}
    timings = interleave(variants, options)
    case = f"R50@{SIZE}, B {NUM_IMAGES}"
    return [
        Result(
            bench="predict", case=case, value=timings.ratio("ours", "plain"), measure="plain net", target=1.05,
            is_minimum=False, error=error, tolerance=TOLERANCE, detail=describe(timings, "plain", "ours"),
        ),
        Result(
            bench="predict", case=case, value=timings.ratio("package", "ours"), measure="speed-up", target=1.2,
            is_minimum=True, error=error, tolerance=TOLERANCE, detail=describe(timings, "package"),
        ),
    ]  # fmt: skip
