"""A training split through a network: how bad each image is by some measure, or where it lies in feature space."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.errors import CheckpointError
from raytrain_xai.explain import Explainer
from raytrain_xai.types import Batch

Progress = Callable[[int], None]
_PAIRS_PER_IMAGE = 4  # pairs of one walk back, per image of a batch: bounds memory as evaluation does


class PairScore(Protocol):
    """How much an image calls for annotation because of one of its classes."""

    def __call__(self, images: Tensor, rows: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 and the pairs (R,), (R,) int64 of images and classes -> (R,) float in [0, 1]."""
        ...


@torch.no_grad()
def worst_of_images(explainer: Explainer, batches: Iterable[Batch], score: PairScore, progress: Progress) -> Tensor:
    """The largest score of each image over its classes: guidance needs all boxes of an image, so one class is enough.

    Args:
        explainer: whose network is asked; for the message of a broken one.
        batches: N images in all, in stored order.
        score: see there.
        progress: called with the number of images that are done.
    Returns:
        (N,) float64 on the CPU.
    Raises:
        CheckpointError: a score is not finite.
    """
    found: list[Tensor] = []
    for batch in batches:
        rows, target = (batch.labels > 0).nonzero(as_tuple=True)  # before the transfer: the device need not wait
        rows, target = rows.to(explainer.device), target.to(explainer.device)
        pairs = score(batch.images.to(explainer.device), rows, target).double()
        worst = torch.zeros(len(batch.images), dtype=torch.float64, device=pairs.device)
        found.append(worst.scatter_reduce(0, rows, pairs, "amax"))
        progress(len(batch.images))
    scores = torch.cat(found).cpu()
    if not bool(scores.isfinite().all()):
        raise CheckpointError(f"{explainer.network.name} gives scores that are no numbers; its weights are broken")
    return scores


@torch.no_grad()
def pooled_features(explainer: Explainer, batches: Iterable[Batch], layer: str, progress: Progress) -> Tensor:
    """Mean over positions of the features at a tap.

    Returns:
        (N, D) float32 on the CPU.
    Raises:
        ConfigError: the network has no such tap.
        CheckpointError: a feature is not finite.
    """
    found: list[Tensor] = []
    for batch in batches:
        features = explainer.network.features(batch.images.to(explainer.device), layer)
        found.append(features.float().mean(dim=(2, 3)))
        progress(len(batch.images))
    pooled = torch.cat(found).cpu()
    if not bool(pooled.isfinite().all()):
        raise CheckpointError(f"{explainer.network.name} gives features that are no numbers; its weights are broken")
    return pooled


def pair_maps(explainer: Explainer, images: Tensor, rows: Tensor, target: Tensor, *, method: str, layer: str) -> Tensor:
    """Attribution maps of pairs at the resolution of a tap, (R, h, w), signed; one forward pass for all of them."""
    tapped = tapped_pass(explainer.network, images, layer)
    size = _PAIRS_PER_IMAGE * len(images)
    return torch.cat([
        attribute(
            explainer.network, tapped, classes, own, method=method, layer=layer, intgrad_steps=explainer.intgrad_steps
        )
        for own, classes in zip(rows.split(size), target.split(size), strict=True)
    ])  # fmt: skip
