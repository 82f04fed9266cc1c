"""Which images a step learns from."""

from __future__ import annotations

import numpy as np

_DRAWS = 11  # tag of this random stream


def drawn_rows(num_images: int, count: int, *, step: int, key: tuple[int, int]) -> np.ndarray:
    """Rows of a set in a step: it is gone through in a new random order each time, across steps without a gap.

    A function of its arguments, so that a run may be resumed at any step.

    Args:
        num_images: of the set.
        count: drawn in every step.
        step: from 0.
        key: seed of the run and number of the set.
    Returns:
        (count,) int64; an image twice only where a pass through the set ends within the step.
    """
    first = step * count
    passes = range(first // num_images, (first + count - 1) // num_images + 1)
    order = np.concatenate([np.random.default_rng([*key, number, _DRAWS]).permutation(num_images) for number in passes])
    start = first - passes[0] * num_images
    return order[start : start + count]
