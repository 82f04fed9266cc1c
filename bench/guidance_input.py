"""Guided step with Energy at the input of a B-cos ResNet-50, every image annotated, against the plain formulation."""

from __future__ import annotations

import torch

from bench.guided_step import our_step, parity, peer_step, without_guidance
from bench.peer import peer_network
from bench.scenario import random_batch
from bench.timing import Options, Result, describe, interleave
from raytrain_xai.config import GuidanceConfig
from raytrain_xai.models.zoo import build_network

SIZE, NUM_IMAGES, NUM_CLASSES = 224, 4, 20
GUIDANCE = GuidanceConfig(loss="energy", weight=0.1, layer="Input")
TOLERANCE = 1e-9  # of float64 gradients


def run(options: Options) -> list[Result]:
    """One line: speed-up over the plain formulation; the detail has the cost over our own plain step."""
    small = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    error = parity(small, GUIDANCE, "bcos", num_annotated=3)
    network = build_network("bcos_resnet50", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    batch = random_batch(
        NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=6, num_annotated=NUM_IMAGES, device=options.device
    )  # fmt: skip
    peer = peer_network(network)
    network.to(memory_format=torch.channels_last)
    variants = {
        "ours": our_step(network, batch, GUIDANCE),
        "own plain": our_step(network, batch, without_guidance(GUIDANCE)),
        "peer": peer_step(peer, batch, GUIDANCE, "bcos"),
    }
    timings = interleave(variants, options)
    detail = f"{timings.ratio('ours', 'own plain'):.2f}x own plain; {describe(timings, *variants)}"
    return [
        Result(
            bench="guidance_input", case=f"R50@{SIZE}, B {NUM_IMAGES}, Energy", value=timings.ratio("peer", "ours"),
            measure="speed-up", target=1.5, is_minimum=True, error=error, tolerance=TOLERANCE, detail=detail,
        )
    ]  # fmt: skip
