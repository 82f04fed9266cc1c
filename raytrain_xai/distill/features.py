"""One forward pass that gives the logits and the values at several taps, without hooks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain_xai.attribution.tapped import TappedPass
from raytrain_xai.models.chain import run_chain
from raytrain_xai.models.linearise import Pullback, linearise_chain
from raytrain_xai.models.network import Network, evaluation_mode

Features = dict[str, Tensor]
"""Tap -> values (B, D, h, w)."""


def tapped_features(network: Network, images: Tensor, taps: Sequence[str]) -> tuple[Tensor, Features]:
    """Logits and the values at some taps of the pass that made them.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        taps: names, in any order.
    Returns:
        Logits (B, C) and the values by name, with their graph unless gradients are disabled.
    Raises:
        ConfigError: the network has no such tap.
    """
    depths = {tap: network.depth(tap) for tap in taps}
    x, at = network.encode(images), 0
    values = {0: x}
    for depth in sorted(set(depths.values())):
        x, at = run_chain(network.stages[at:depth], x), depth
        values[depth] = x
    return run_chain(network.stages[at:], x), {tap: values[depth] for tap, depth in depths.items()}


def tapped_pass_with_features(
    network: Network, images: Tensor, layer: str, taps: Sequence[str]
) -> tuple[TappedPass, Features]:
    """:func:`~raytrain_xai.attribution.tapped.tapped_pass` that gives the values at some taps besides.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        layer: tap that the pass can be walked back to.
        taps: names, in any order.
    Raises:
        ConfigError: the network has no such layer or tap.
    """
    start = network.depth(layer)
    depths = {tap: network.depth(tap) for tap in taps}
    x, at = network.encode(images), 0
    values = {0: x}
    walks: list[Pullback] = []
    for depth in sorted({start, *depths.values(), len(network.stages)}):
        if depth <= start:
            x = run_chain(network.stages[at:depth], x)
        else:
            x, walk = linearise_chain(network.stages[at:depth], x)
            walks.append(walk)
        at = depth
        values[depth] = x

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        for walk in reversed(walks):
            g = walk(g, rows)
        return g

    return TappedPass(x, values[start], pullback), {tap: values[depth] for tap, depth in depths.items()}


@torch.no_grad()
def tap_shapes(network: Network, taps: Sequence[str], size: int) -> dict[str, tuple[int, int, int]]:
    """Channels, height and width at taps for square images, found by a pass of one black image.

    The network stays in the mode it is in, and its running statistics stay as they are.

    Args:
        size: side of the images, pixels.
    Raises:
        ConfigError: the network has no such tap, or does not take images of this size.
    """
    with evaluation_mode(network):
        image = torch.zeros(1, 3, size, size, dtype=network.dtype, device=next(network.net.parameters()).device)
        features = tapped_features(network, image, taps)[1]
    return {tap: (value.shape[1], value.shape[2], value.shape[3]) for tap, value in features.items()}
