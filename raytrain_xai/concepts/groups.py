"""How a Matryoshka dictionary is cut into its nested groups; without torch, for the configuration asks too."""

from __future__ import annotations

from collections.abc import Sequence

from raytrain_xai.errors import ConfigError

ROUNDING = 1e-6  # latents; a fraction that was made of a number of latents gives it again


def group_sizes(num_latents: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Latents of each group: fractions of all, rounded down; the last group takes what remains.

    Args:
        fractions: positive, with sum 1.
    Raises:
        ConfigError: a group would be empty.
    """
    sizes = [int(fraction * num_latents + ROUNDING) for fraction in fractions[:-1]]
    sizes.append(num_latents - sum(sizes))
    if min(sizes) < 1:
        raise ConfigError(f"groups of {sizes} latents: with {num_latents} latents, fractions {list(fractions)} leave "
                          "one empty; set more latents or fewer groups")  # fmt: skip
    return tuple(sizes)
