"""Which positions of a feature map a concept layer is trained on: those that matter for what the network says.

Positions are drawn without replacement with probability proportional to the absolute contribution to the predicted
logit (Parchami-Araghi et al., NeurIPS 2025, released code): background fills most of a map and decides little. A draw
depends on (seed, epoch, image, position) alone, so any worker draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raytrain_xai.attribution.tapped import contract_channels
from raytrain_xai.draws import uniform
from raytrain_xai.models.chain import run_chain
from raytrain_xai.models.linearise import Pullback, linearise_chain
from raytrain_xai.models.network import Network

Sampling = Literal["contribution", "uniform"]

_PUBLISHED = 72 * 512  # values kept of an image in the released code, whatever the layer
_DRAW = 0x51A  # tag of this stream of random numbers
_NEVER = 1e-30  # relative weight below which a position counts as one without any


def positions_per_image(dim: int, num_positions: int, per_image: int | None = None) -> int:
    """M, the positions of an image that are kept: min(h·w, int(72·512 / C)), at least 1.

    Args:
        dim: C, channels.
        num_positions: h·w.
        per_image: instead of 72·512 / C.
    """
    return min(num_positions, max(1, _PUBLISHED // dim) if per_image is None else per_image)


def sample_positions(weights: Tensor, count: int, *, seed: int, epoch: int, image: Tensor) -> Tensor:
    """Draw positions without replacement, the next one always with probability proportional to its weight.

    The ``count`` largest log(weight) + Gumbel noise are such a draw (Efraimidis and Spirakis, 2006). Positions without
    weight come after all others, with equal chances among themselves.

    Args:
        weights: (B, P) float, >= 0, any scale.
        count: positions of an image, at most P.
        seed, epoch: of the draw.
        image: (B,) int64, number of each image in its split.
    Returns:
        (B, count) int64, different within a row.
    """
    num_positions = weights.shape[1]
    assert count <= num_positions
    position = torch.arange(num_positions, device=weights.device).expand(weights.shape)
    draw = uniform(position, image[:, None], seed, epoch, _DRAW) + 2.0**-33  # in the open interval (0, 1)
    wide = weights.to(torch.float64)
    share = wide / wide.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    keys = share.clamp(min=_NEVER).log() - (-draw.log()).log()
    return keys.topk(count, dim=1).indices


@torch.no_grad()
def sampled_vectors(
    network: Network, images: Tensor, image: Tensor, counts: Mapping[str, int | None], *, sampling: Sampling,
    seed: int, epoch: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Feature vectors at chosen positions of one or several taps: one forward pass, and one walk back for all taps.

    Args:
        network: B-cos, in evaluation mode.
        images: (B, 3, H, W) uint8, or float in [0, 1].
        image: (B,) int64, number of each image in its split.
        counts: tap -> positions of an image; None keeps all, row by row.
        sampling: by contribution, or all positions with equal chance.
        seed, epoch: of the draw.
    Returns:
        tap -> (B, M, D), in the type of the network.
    Raises:
        ConfigError: no such tap.
    """
    taps = sorted(counts, key=network.depth)
    is_drawn = any(count is not None for count in counts.values())
    if is_drawn and sampling == "contribution":
        maps, weights = _with_contributions(network, images, taps)
    else:
        maps = _maps(network, images, taps)
        weights = {tap: torch.ones_like(maps[tap][:, 0]) for tap in taps}
    vectors: dict[str, Tensor] = {}
    for tap, count in counts.items():
        rows = maps[tap].flatten(2).transpose(1, 2)
        if count is not None:
            at = sample_positions(weights[tap].flatten(1), count, seed=seed, epoch=epoch, image=image)
            rows = rows.gather(1, at[..., None].expand(-1, -1, rows.shape[2]))
        vectors[tap] = rows
    return vectors


def _maps(network: Network, images: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """Values (B, D, h, w) at taps in forward order; the network is run no further than the last."""
    x, depth = network.encode(images), 0
    maps: dict[str, Tensor] = {}
    for tap in taps:
        x, depth = run_chain(network.stages[depth : network.depth(tap)], x), network.depth(tap)
        maps[tap] = x
    return maps


def _with_contributions(
    network: Network, images: Tensor, taps: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values at taps in forward order, and how much each position adds to the predicted logit, absolute (B, h, w)."""
    x = network.features(images, taps[0])
    maps, walks = {taps[0]: x}, dict[str, Pullback]()
    for tap, following in zip(taps, [*taps[1:], None], strict=True):
        stop = None if following is None else network.depth(following)
        x, walks[tap] = linearise_chain(network.stages[network.depth(tap) : stop], x)
        if following is not None:
            maps[following] = x
    g = one_hot(x.argmax(dim=1), x.shape[1]).to(x.dtype)
    weights: dict[str, Tensor] = {}
    for tap in reversed(taps):
        g = walks[tap](g, None)
        weights[tap] = contract_channels(maps[tap], g).abs()
    return maps, weights
