"""The C2-score: running sums against the sum over pairs, and pooled maps against up-sampled features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.concepts.c2 import ConsistencySums
from raytrain_xai.concepts.weighted_features import weighted_features

TOLERANCE = 1e-5  # float32 features
CONCEPTS, IMAGES, DIM = 512, 100, 384
GRID, SIZE, MAPS = 16, 224, 10  # patches of a ViT-S/14, pixels, explanations of an image


def run(options: Options) -> list[Result]:
    """Consistencies of many concepts, and feature vectors of many explanations."""
    return [_consistency(options), _features(options)]


def _consistency(options: Options) -> Result:
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(CONCEPTS, IMAGES, DIM, generator=generator) + 0.3).to(options.device)
    weight = (torch.rand(CONCEPTS, IMAGES, generator=generator) + 0.1).to(options.device)
    concept = torch.arange(CONCEPTS, device=options.device).repeat_interleave(IMAGES)

    def ours() -> Tensor:
        sums = ConsistencySums.empty(CONCEPTS, DIM, options.device)
        sums.add(concept, features.flatten(0, 1), weight.flatten())
        return sums.consistency()

    def peer() -> Tensor:
        """Concept by concept, in float64: similarity matrix, weight matrix, both without their diagonals."""
        off = ~torch.eye(IMAGES, dtype=torch.bool, device=options.device)
        scores: list[Tensor] = []
        for vectors, weights in zip(features.double(), weight.double(), strict=True):
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            similarity = (unit @ unit.T)[off]
            products = (weights[:, None] * weights[None])[off]
            scores.append((similarity * products).sum() / products.sum())
        return torch.stack(scores)

    timings = interleave({"ours": ours, "peer": peer}, options)
    return Result(
        bench="c2",
        case=f"{CONCEPTS} concepts x {IMAGES} images",
        value=timings.ratio("peer", "ours"),
        measure="speed-up",
        target=12,
        is_minimum=True,
        error=relative_error(ours(), peer()),
        tolerance=TOLERANCE,
        detail=describe(timings, "peer", "ours"),
    )


def _features(options: Options) -> Result:
    generator = torch.Generator().manual_seed(0)
    images = 4
    features = torch.randn(images, DIM, GRID, GRID, generator=generator).to(options.device)
    maps = torch.rand(images * MAPS, SIZE, SIZE, generator=generator).to(options.device)
    rows = torch.arange(images, device=options.device).repeat_interleave(MAPS)

    def ours() -> Tensor:
        return weighted_features(features, maps, rows)

    def peer() -> Tensor:
        """Features brought to the size of the image once, then one product per explanation."""
        dense = functional.interpolate(features, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return torch.stack(
            [
                (attribution * dense[row]).sum(dim=(1, 2)) / attribution.sum()
                for attribution, row in zip(maps, rows.tolist(), strict=True)
            ]
        )

    timings = interleave({"ours": ours, "peer": peer}, options)
    return Result(
        bench="c2",
        case=f"{MAPS} explanations of an image, {SIZE}²",
        value=timings.ratio("peer", "ours"),
        measure="speed-up",
        target=20,
        is_minimum=True,
        error=relative_error(ours(), peer()),
        tolerance=TOLERANCE,
        detail=describe(timings, "peer", "ours"),
    )
