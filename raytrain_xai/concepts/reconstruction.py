"""What nested dictionaries keep of vectors, as sums over images that any sharding merges to the same result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.usage import ALWAYS_ON
from raytrain_xai.field_sums import FieldSums


@dataclass(frozen=True)
class ReconstructionSums(FieldSums):
    """Sums over images and over the positions of their maps; G groups of latents.

    Attributes:
        images, positions: () int64.
        squared_error: (G,) float64, of the reconstruction by the first 1, 2 .. G groups.
        total: (D,) float64, sum of the vectors.
        total_square: () float64, sum of their squares.
        cosine: () float64, between vector and full reconstruction.
        fired: (K,) int64, positions at which each latent is active.
        present: () int64, latents that are active in an image, over images.
    """

    images: Tensor
    positions: Tensor
    squared_error: Tensor
    total: Tensor
    total_square: Tensor
    cosine: Tensor
    fired: Tensor
    present: Tensor

    @classmethod
    def empty(cls, sae: MatryoshkaSae) -> Self:
        """Sums over no image, on the device of an autoencoder."""
        device = sae.encoder.device
        count = torch.zeros((), dtype=torch.int64, device=device)
        value = torch.zeros((), dtype=torch.float64, device=device)
        return cls(
            images=count, positions=count, squared_error=value.new_zeros(sae.num_groups),
            total=value.new_zeros(sae.dim), total_square=value, cosine=value, fired=count.new_zeros(sae.num_latents),
            present=count,
        )  # fmt: skip


@torch.no_grad()
def reconstruction_sums(sae: MatryoshkaSae, vectors: Tensor) -> ReconstructionSums:
    """Sums over a batch of maps: vectors (B, P, D) of the positions of B images, codes by the threshold."""
    num_images, num_positions = vectors.shape[:2]
    x = sae.inputs(vectors.flatten(0, 1))
    code = sae.encode(x)
    counts = range(1, sae.num_groups + 1)
    prefixes = [sae.decode(sae.prefix(code, count)) for count in counts]  # the last one is everything
    is_used = code.values > 0
    image = torch.arange(num_images, device=x.device).repeat_interleave(num_positions)[:, None].expand_as(code.indices)
    seen = x.new_zeros(num_images, sae.num_latents, dtype=torch.bool)
    seen[image[is_used], code.indices[is_used]] = True
    return ReconstructionSums(
        images=torch.tensor(num_images, device=x.device),
        positions=torch.tensor(len(x), device=x.device),
        squared_error=torch.stack([(prefix - x).double().square().sum() for prefix in prefixes]),
        total=x.double().sum(dim=0),
        total_square=x.double().square().sum(),
        cosine=functional.cosine_similarity(prefixes[-1], x, dim=1).double().sum(),
        fired=torch.bincount(code.indices[is_used], minlength=sae.num_latents),
        present=seen.sum(),
    )


def summarise_reconstruction(sums: ReconstructionSums) -> dict[str, float]:
    """Metrics of a state that holds one image or more.

    Returns:
        variance_explained (at most 1; 1 - squared error / squared distance to the mean vector), and
        variance_explained_1 .. G-1 the same by the first groups only; cosine (mean between vector and reconstruction);
        l0 (active latents at a position), image_l0 (in an image), dead (latents that are active nowhere), always_on
        (at more than 60 % of the positions).
    """
    images, positions = int(sums.images), int(sums.positions)
    variance = float(sums.total_square - sums.total.square().sum() / positions)
    errors: list[float] = sums.squared_error.tolist()
    explained = [1 - error / variance if variance > 0 else 0.0 for error in errors]
    return {
        "variance_explained": explained[-1],
        **{f"variance_explained_{count}": value for count, value in enumerate(explained[:-1], start=1)},
        "cosine": float(sums.cosine) / positions,
        "l0": int(sums.fired.sum()) / positions,
        "image_l0": int(sums.present) / images,
        "dead": float((sums.fired == 0).sum()),
        "always_on": float((sums.fired > ALWAYS_ON * positions).sum()),
    }
