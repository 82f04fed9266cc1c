"""What a concept layer keeps of a network, as sums over images that any sharding merges to the same result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raytrain_xai.concepts.code import sum_per_latent
from raytrain_xai.concepts.layer import ConceptLayer, to_vectors
from raytrain_xai.concepts.ranking import concepts_for_share
from raytrain_xai.concepts.trace import activations
from raytrain_xai.concepts.usage import ALWAYS_ON
from raytrain_xai.field_sums import FieldSums
from raytrain_xai.models.bcos_layers import logit_bias
from raytrain_xai.models.network import Network


@dataclass(frozen=True)
class FidelitySums(FieldSums):
    """Sums over images and over the positions of their maps.

    Attributes:
        images, positions: () int64.
        squared_error: () float64, of the reconstruction, over positions and channels.
        total: (D,) float64, sum of the features over positions.
        total_square: () float64, sum of their squares.
        fired: (K,) int64, positions at which each latent is active.
        present: () int64, latents that are active in an image, over images.
        carriers: () int64, concepts that carry 80 % of the positive contribution to the predicted class, over images.
        residual: () float64, |sum of contributions + bias - logit| of the predicted class, over images.
    """

    images: Tensor
    positions: Tensor
    squared_error: Tensor
    total: Tensor
    total_square: Tensor
    fired: Tensor
    present: Tensor
    carriers: Tensor
    residual: Tensor

    @classmethod
    def empty(cls, dim: int, num_latents: int, device: torch.device) -> Self:
        """Sums over no image."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        value = torch.zeros((), dtype=torch.float64, device=device)
        fired, total = count.new_zeros(num_latents), value.new_zeros(dim)
        return cls(count, count, value, total, value, fired, count, count, value)


@torch.no_grad()
def fidelity_sums(network: Network, layer: ConceptLayer, tap: str, images: Tensor) -> FidelitySums:
    """Sums over a batch.

    Args:
        network: B-cos network without the layer, in evaluation mode.
        layer: concept layer.
        tap: its place.
        images: (B, 3, H, W) uint8, or float in [0, 1], on the device of the network.
    """
    x = network.features(images, tap)
    size, code = (x.shape[2], x.shape[3]), layer.encode(x)
    reconstruction = layer.decode(code, size)
    logits, walk = network.linearise_from(reconstruction, tap)
    target = logits.argmax(dim=1)
    seed = one_hot(target, logits.shape[1]).to(logits.dtype)
    places = layer.code_gradient(walk(seed, None), code) * code.values
    contribution = sum_per_latent(places, code.indices, code.num_latents)
    explained = contribution.sum(dim=1) + logit_bias(network.net)
    vectors = to_vectors(x).flatten(0, 1).double()
    return FidelitySums(
        images=_count(x.shape[0], x),
        positions=_count(vectors.shape[0], x),
        squared_error=(reconstruction.double() - x.double()).square().sum(),
        total=vectors.sum(dim=0),
        total_square=vectors.square().sum(),
        fired=torch.bincount(code.indices[code.values > 0], minlength=code.num_latents),
        present=(activations(code) > 0).sum(),
        carriers=concepts_for_share(contribution).sum(),
        residual=(explained - logits.gather(1, target[:, None]).squeeze(1)).abs().double().sum(),
    )


def summarise_fidelity(sums: FidelitySums) -> dict[str, float]:
    """Metrics of a state that holds one image or more.

    Returns:
        variance_explained (at most 1; 1 - squared error / squared distance to the mean vector), l0 (active latents at a
        position), image_l0 (in an image), carriers (concepts that carry 80 % of the positive contribution; mean), dead
        (latents that are active nowhere), always_on (at more than 60 % of the positions), residual (mean, in units of
        the logit: rounding only, unless the layer is not exact).
    """
    images, positions = int(sums.images), int(sums.positions)
    variance = float(sums.total_square - sums.total.square().sum() / positions)
    return {
        "variance_explained": 1 - float(sums.squared_error) / variance if variance > 0 else 0.0,
        "l0": int(sums.fired.sum()) / positions,
        "image_l0": int(sums.present) / images,
        "carriers": int(sums.carriers) / images,
        "dead": float((sums.fired == 0).sum()),
        "always_on": float((sums.fired > ALWAYS_ON * positions).sum()),
        "residual": float(sums.residual) / images,
    }


def frequency_histogram(
    fired: Tensor, positions: int, bins_per_decade: int = 4, decades: int = 5
) -> dict[str, list[float]]:
    """How many latents are active how often.

    Args:
        fired: (K,) int64, at how many of the ``positions`` each latent is active.
    Returns:
        ``edges``: shares of positions, powers of ten from 10^-decades to 1; ``counts``: latents between neighbouring
        edges, the first one also holds those below. Latents that are active nowhere are in none.
    """
    frequency = fired[fired > 0].double().cpu() / positions
    edges = torch.linspace(-decades, 0, decades * bins_per_decade + 1, dtype=torch.float64)
    place = torch.bucketize(frequency.log10(), edges, right=False) - 1  # a share of 1 belongs to the last bin
    counts = torch.bincount(place.clamp(min=0), minlength=len(edges) - 1)
    return {"edges": (10**edges).tolist(), "counts": [float(count) for count in counts.tolist()]}


def _count(number: int, like: Tensor) -> Tensor:
    return torch.tensor(number, dtype=torch.int64, device=like.device)
