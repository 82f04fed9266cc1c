"""Guided step with Energy at the input of a B-cos ResNet-50 when one image in eight is annotated."""

from __future__ import annotations

from bench.guided_step import PARITY, SIZE, compare_at_input
from bench.timing import Options, Result, describe

NUM_IMAGES = 8


def run(options: Options) -> list[Result]:
    """Two lines: speed-up over the plain formulation, and cost over our own plain step."""
    timings, error = compare_at_input(options, num_images=NUM_IMAGES, num_pairs=12, num_annotated=1)
    case = f"R50@{SIZE}, 1 of {NUM_IMAGES} rows"
    return [
        Result(
            bench="guidance_annotated", case=case, value=timings.ratio("peer", "ours"), measure="speed-up", target=2.0,
            is_minimum=True, error=error, tolerance=PARITY, detail=describe(timings, "peer", "ours", "own plain"),
        ),
        Result(
            bench="guidance_annotated", case=case, value=timings.ratio("ours", "own plain"), measure="own plain step",
            target=1.2, is_minimum=False, error=error, tolerance=PARITY, detail="",
        ),
    ]  # fmt: skip
