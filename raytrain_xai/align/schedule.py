"""The learning rate of the alignment, as a function of the step."""

from __future__ import annotations

import math

_RISE, _START, _END = 0.3, 1 / 25, 1 / 250_000  # share of the steps; rates relative to the largest


def one_cycle(step: int, num_steps: int) -> float:
    """Share of the largest rate at optimiser step ``step`` (from 0) of ``num_steps``.

    Half a cosine from 1/25 up to 1 over the first 30 % of the steps, half a cosine down to 1/250000 at the last step
    (Smith and Topin, 2018, arXiv 1708.07120, with the numbers that torch's OneCycleLR has). Momentum is not cycled.
    """
    peak = max(_RISE * num_steps - 1, 0.0)
    if step <= peak and peak > 0:
        return _between(_START, 1.0, step / peak)
    return _between(1.0, _END, (step - peak) / max(num_steps - 1 - peak, 1))


def _between(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
