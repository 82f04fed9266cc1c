"""Guidance at the last features of a ResNet-18, per attribution and loss: cost over the plain step."""

from __future__ import annotations

from bench.guided_step import PARITY, our_step, parity, without_guidance
from bench.scenario import random_batch
from bench.timing import Options, Result, describe, interleave
from raytrain_xai.config import GuidanceConfig
from raytrain_xai.models.zoo import build_network

SIZE, NUM_IMAGES, NUM_CLASSES = 112, 8, 20
LOSSES = ("energy", "l1", "ppce", "rrr")


def run(options: Options) -> list[Result]:
    """One line per attribution and loss."""
    network = build_network("resnet18", NUM_CLASSES).to(options.device).eval()  # stored statistics, as in training
    batch = random_batch(NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=12, num_annotated=NUM_IMAGES, device=options.device)
    results: list[Result] = []
    for method in ("gradcam", "ixg"):
        guidances = [GuidanceConfig(loss=loss, weight=0.1, attribution=method, layer="Final") for loss in LOSSES]
        errors = [parity(network, guidance, method, num_annotated=3) for guidance in guidances]
        steps = {guidance.loss: our_step(network, batch, guidance) for guidance in guidances}
        steps["own plain"] = our_step(network, batch, without_guidance(guidances[0]))
        timings = interleave(steps, options, repeats=4)
        results += [
            Result(
                bench="guidance_final", case=f"R18@{SIZE}, {method}, {guidance.loss}",
                value=timings.ratio(guidance.loss, "own plain"), measure="own plain step", target=1.03,
                is_minimum=False, error=error, tolerance=PARITY,
                detail=describe(timings, guidance.loss, "own plain"),
            )
            for guidance, error in zip(guidances, errors, strict=True)
        ]  # fmt: skip
    return results
