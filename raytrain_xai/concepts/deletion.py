"""Deletion curves: remove the most important concepts first and watch the logit fall.

The faster it falls, the better the order. All orders are compared on the same concepts of the same images
(Parchami-Araghi et al., NeurIPS 2025, section 4; no code was published, the grid is ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.intervene import intervene
from raytrain_xai.concepts.trace import ConceptPass
from raytrain_xai.models.network import Network


@dataclass(frozen=True)
class DeletionCurve:
    """Sums over images, so that batches and workers add up. G points.

    Attributes:
        deleted: G numbers of deleted concepts, ascending from 0; the last deletes all.
        logit: (G,) sum of the explained logit minus its bias.
        kept: (G,) number of images in which the explained class still has the largest logit.
        images: number of images.
    """

    deleted: tuple[int, ...]
    logit: Tensor
    kept: Tensor
    images: int

    def merge(self, other: DeletionCurve) -> DeletionCurve:
        """Curve of the images of both.

        Raises:
            ValueError: the two have different points.
        """
        if self.deleted != other.deleted:
            raise ValueError("curves with different numbers of deleted concepts cannot be added")
        return DeletionCurve(self.deleted, self.logit + other.logit, self.kept + other.kept, self.images + other.images)

    @property
    def area(self) -> float:
        """Mean over the points before the last of the logit relative to that of nothing deleted; lower is better."""
        return float((self.logit[:-1] / self.logit[0]).mean())


def deletion_grid(largest: int) -> tuple[int, ...]:
    """0, 1, 2, 4, 8, ... below ``largest``, and ``largest``."""
    powers = [2**exponent for exponent in range(largest.bit_length()) if 2**exponent < largest]
    return (0, *powers, largest)


def deletion_curve(
    network: Network, passed: ConceptPass, tap: str, target: Tensor, importance: Tensor, deleted: tuple[int, ...], *,
    protected: Tensor | None = None, rows_at_once: int = 64,
) -> DeletionCurve:  # fmt: skip
    """Delete concepts of every image in descending order of importance.

    Args:
        network, passed, tap: as made by :func:`~raytrain_xai.concepts.trace.concept_pass`.
        target: (B,) int64, explained class of each image.
        importance: (B, K); minus infinity for concepts that are not active, which are deleted last.
        deleted: numbers of deleted concepts; the last point deletes every unprotected concept, whatever it says.
        protected: (K,) bool, concepts that are never deleted, such as those that are always on.
        rows_at_once: interventions that run together.
    Returns:
        The curve, summed over the images.
    """
    if protected is not None:
        importance = importance.masked_fill(protected, -torch.inf)
    rank = importance.argsort(dim=1, descending=True).argsort(dim=1)  # place of a concept in the order of its image
    limits = torch.tensor([*deleted[:-1], importance.shape[1]], device=rank.device)
    num_images, num_points = len(target), len(deleted)
    rows = torch.arange(num_images, device=rank.device).repeat_interleave(num_points)
    points = limits.repeat(num_images)
    logit, kept = [], []
    for at, limit in zip(rows.split(rows_at_once), points.split(rows_at_once), strict=True):
        factors = (rank[at] >= limit[:, None]).to(passed.logits.dtype)
        if protected is not None:
            factors = torch.maximum(factors, protected.to(factors))
        answers = intervene(network, passed, tap, factors, at)
        own = target[at]
        logit.append(answers.gather(1, own[:, None]).squeeze(1) - passed.bias)
        kept.append(answers.argmax(dim=1) == own)
    shape = (num_images, num_points)
    return DeletionCurve(
        deleted,
        torch.cat(logit).view(shape).double().sum(0),
        torch.cat(kept).view(shape).double().sum(0),
        num_images,
    )
