"""A small encoder and model with random weights, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import to_patch_multiple

DIM, LATENTS, PATCH = 12, 40, 8


@dataclass
class SmallEncoder:
    """Patches of 8 x 8 pixels, projected at random; texts are vectors drawn by their letters."""

    name: str = "small"
    fingerprint: str = "0" * 64
    dim: int = DIM
    multiple: int = PATCH
    image_size: int = 32
    logit_scale: float = 20.0
    text_mean: Tensor = field(default_factory=lambda: torch.zeros(DIM))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    projection: Tensor = field(default_factory=lambda: _random((DIM, 3, PATCH, PATCH), 1))

    def patches(self, images: Tensor) -> Tensor:
        pixels = to_patch_multiple(images, self.multiple, self.device).float() / 255 - 0.5
        return functional.conv2d(pixels, self.projection, stride=self.multiple)

    def text(self, texts: Sequence[str]) -> Tensor:
        seeds = [sum(ord(letter) * (i + 1) for i, letter in enumerate(text)) for text in texts]
        vectors = [_random((DIM,), seed) for seed in seeds]
        return functional.normalize(torch.stack([torch.zeros(DIM), *vectors])[1:], dim=1)


class ForegroundEncoder(SmallEncoder):
    """Things are on the left."""

    def patches_and_foreground(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(images)
        columns = torch.arange(patches.shape[3]) < patches.shape[3] / 2
        return patches, columns.float().expand(len(patches), patches.shape[2], -1)


def small_model(encoder: SmallEncoder | None = None) -> InsightModel:
    """40 latents in two groups, about a quarter of them active in a patch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = MatryoshkaSae(DIM, LATENTS, 4, (10, 30))
        torch.nn.init.normal_(sae.decoder_bias, std=0.3)
        torch.nn.init.normal_(sae.encoder_bias, std=0.1)
    sae.threshold.fill_(0.2)
    config = InsightRunConfig.model_validate({
        "job": "concepts", "name": "small", "encoder": "embedded",
        "sae": {"latents": LATENTS, "k": 4, "group_fractions": [0.25, 0.75]},
    })  # fmt: skip
    return InsightModel(encoder or SmallEncoder(), sae, {}, None, config, "small", "0" * 64)


def random_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Coarse random pictures, so that segments are larger than a patch."""
    coarse = torch.rand(count, 3, 3, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return functional.interpolate(coarse, size=(height, width), mode="nearest").to(torch.uint8)


def label_vectors(count: int) -> Tensor:
    return functional.normalize(_random((count, DIM), 7), dim=1)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
