"""Guided step with Energy at the input of a B-cos ResNet-50, every image annotated, against the plain formulation."""

from __future__ import annotations

from bench.guided_step import PARITY, SIZE, compare_at_input
from bench.timing import Options, Result, describe

NUM_IMAGES = 4


def run(options: Options) -> list[Result]:
    """One line: speed-up over the plain formulation; the detail has the cost over our own plain step."""
    timings, error = compare_at_input(options, num_images=NUM_IMAGES, num_pairs=6, num_annotated=NUM_IMAGES)
    detail = f"{timings.ratio('ours', 'own plain'):.2f}x own plain; {describe(timings, 'peer', 'ours', 'own plain')}"
    return [
        Result(
            bench="guidance_input", case=f"R50@{SIZE}, B {NUM_IMAGES}, Energy", value=timings.ratio("peer", "ours"),
            measure="speed-up", target=1.5, is_minimum=True, error=error, tolerance=PARITY, detail=detail,
        )
    ]  # fmt: skip
