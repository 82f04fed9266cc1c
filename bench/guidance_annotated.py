"""Guided step with Energy at the input of a B-cos ResNet-50 when one image in eight is annotated."""

from __future__ import annotations

import torch

from bench.guided_step import our_step, parity, peer_step, without_guidance
from bench.peer import peer_network
from bench.scenario import random_batch
from bench.timing import Options, Result, describe, interleave
from raytrain_xai.config import GuidanceConfig
from raytrain_xai.models.zoo import build_network

SIZE, NUM_IMAGES, NUM_CLASSES = 224, 8, 20
GUIDANCE = GuidanceConfig(loss="energy", weight=0.1, layer="Input")
TOLERANCE = 1e-9  # of float64 gradients


def run(options: Options) -> list[Result]:
    """Two lines: speed-up over the plain formulation, and cost over our own plain step."""
    small = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    error = parity(small, GUIDANCE, "bcos", num_annotated=1)
    network = build_network("bcos_resnet50", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    batch = random_batch(NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=12, num_annotated=1, device=options.device)
    peer = peer_network(network)
    network.to(memory_format=torch.channels_last)
    variants = {
        "ours": our_step(network, batch, GUIDANCE),
        "own plain": our_step(network, batch, without_guidance(GUIDANCE)),
        "peer": peer_step(peer, batch, GUIDANCE, "bcos"),
    }
    timings = interleave(variants, options)
    case, detail = f"R50@{SIZE}, 1 of {NUM_IMAGES} rows", describe(timings, *variants)
    return [
        Result(
            bench="guidance_annotated", case=case, value=timings.ratio("peer", "ours"), measure="speed-up", target=2.0,
            is_minimum=True, error=error, tolerance=TOLERANCE, detail=detail,
        ),
        Result(
            bench="guidance_annotated", case=case, value=timings.ratio("ours", "own plain"), measure="own plain step",
            target=1.2, is_minimum=False, error=error, tolerance=TOLERANCE, detail="",
        ),
    ]  # fmt: skip
