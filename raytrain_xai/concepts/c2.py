"""C2: do the images of a concept show the same thing? (Parchami-Araghi et al., NeurIPS 2025, arXiv 2510.25512, 4.3)

A concept has a vector for every image it is seen in, the features of an independent model averaged with the concept's
attribution as weights (:mod:`.weighted_features`). Its consistency is the mean cosine between the vectors of two
different images, weighted by the product of the activations; C2 is the mean over concepts minus the consistency of
random maps.

The sum over pairs is never formed. With unit vectors u_i, weights w_i and s = sum of w_i u_i,

    sum over i != j of w_i w_j cos_ij = |s|^2 - sum of w_i^2,

so K x (E + 3) running sums in float64 hold any number of images, and sums of different workers add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.draws import uniform

TOP_SHARE = 0.05  # of the images in which a concept is active
MIN_IMAGES = 10  # of a concept that are looked at, if it has so many
MIN_COUNTED = 5  # images of a concept that enters the mean; 2 are enough for a consistency
_ROWS = 1024  # added at once: float64 copies that stay in the cache, 8 times as fast as the whole
_PENDING = 1 << 22  # activations held before the largest ones are picked out: about 80 MB


@dataclass(frozen=True)
class ConsistencySums:
    """Running sums of K concepts, changed in place by :meth:`add` and :meth:`merge`.

    Attributes:
        vector: (K, E) float64, sum of w u.
        own: (K,) float64, sum of |w u|^2: the pairs of an image with itself.
        square: (K,) float64, sum of w^2.
        weight: (K,) float64, sum of w.
        count: (K,) int64, images.
    """

    vector: Tensor
    own: Tensor
    square: Tensor
    weight: Tensor
    count: Tensor

    @classmethod
    def empty(cls, num_concepts: int, dim: int, device: torch.device | str = "cpu") -> ConsistencySums:
        """No image yet."""
        vector = torch.zeros(num_concepts, dim, dtype=torch.float64, device=device)
        own, square, weight = (vector.new_zeros(num_concepts) for _ in range(3))
        return cls(vector, own, square, weight, torch.zeros_like(own, dtype=torch.int64))

    def add(self, concept: Tensor, features: Tensor, weight: Tensor) -> None:
        """Add (concept, image) pairs; a concept occurs once per image.

        Args:
            concept: (N,) int64.
            features: (N, E) float, centred. A vector of length 0 has no direction: its cosines count as 0.
            weight: (N,) float, > 0, any scale.
        """
        w = weight.double()
        length = torch.cat([self._add_vectors(*part) for part in _chunks(concept, features, w)])
        own = torch.where(length > 0, w, 0.0).square()
        self.own.index_add_(0, concept, own)
        self.square.index_add_(0, concept, w.square())
        self.weight.index_add_(0, concept, w)
        self.count.index_add_(0, concept, torch.ones_like(concept))

    def merge(self, other: ConsistencySums, concept: Tensor | None = None) -> None:
        """Add the sums of other images.

        Args:
            other: sums of n concepts.
            concept: (n,) int64, which ones, without repeats; None: all in order.
        """
        at = torch.arange(len(other.count), device=self.count.device) if concept is None else concept
        for mine, theirs in zip(self.parts(), other.parts(), strict=True):
            mine.index_add_(0, at, theirs)

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The sums in the order of the fields."""
        return self.vector, self.own, self.square, self.weight, self.count

    def _add_vectors(self, concept: Tensor, features: Tensor, w: Tensor) -> Tensor:
        """Add w u to the vectors; returns the (N,) lengths of the features."""
        u = features.to(torch.float64, copy=True)
        length = torch.linalg.vector_norm(u, dim=1)
        scale = torch.where(length > 0, w / length, 0.0)
        self.vector.index_add_(0, concept, u.mul_(scale[:, None]))
        return length

    def consistency(self) -> Tensor:
        """(K,) float64 in [-1, 1]: weighted mean cosine of two different images; NaN with fewer than 2 images."""
        pairs = self.vector.square().sum(dim=1) - self.own
        value = pairs / (self.weight.square() - self.square)
        return torch.where(self.count >= 2, value, math.nan)


@dataclass(frozen=True)
class Presences:
    """(Concept, image) pairs in which a concept is active.

    Attributes:
        concept, image: (N,) int64.
        value: (N,) float32, > 0, the activation S.
    """

    concept: Tensor
    image: Tensor
    value: Tensor


class StrongestImages:
    """The images that a concept is judged by: of those in which it is active the top 5 %, but at least ten.

    Fed with all activations in any order, it keeps per concept how many were positive and the largest values, just
    enough of them for the rule. What it selects does not depend on the order.

    Args:
        num_concepts: K.
        num_images: an upper bound on the images of one concept.
    """

    def __init__(self, num_concepts: int, num_images: int) -> None:
        self._kept_per_concept = max(math.ceil(TOP_SHARE * num_images) + 2, MIN_IMAGES + 1)
        self._count = torch.zeros(num_concepts, dtype=torch.int64)
        self._kept = Presences(self._count[:0], self._count[:0], torch.zeros(0))
        self._pending: list[Presences] = []
        self._num_pending = 0

    @property
    def count(self) -> Tensor:
        """(K,) int64: images in which each concept is active."""
        return self._count

    def add(self, found: Presences) -> None:
        """Activations of some images; those that are not positive are left out."""
        positive = found.value > 0
        found = Presences(found.concept[positive], found.image[positive], found.value[positive])
        self._count += torch.bincount(found.concept, minlength=len(self._count))
        self._pending.append(found)
        self._num_pending += len(found.value)
        if self._num_pending > _PENDING:
            self._compact()

    def select(self) -> Presences:
        """The selected pairs, by concept and falling activation.

        A concept keeps the values above the smaller of two thresholds: the 95 % quantile of its positive values
        (interpolated linearly) and its 11th largest value; all values where it has ten or fewer. Values equal to the
        threshold are left out, as published.
        """
        self._compact()
        kept, count = self._kept, self._count
        present, start = _starts(kept.concept, len(count))
        number = count[present]
        # position of the quantile, counted from the largest value: between two ranks
        rank = (number - 1) * TOP_SHARE
        above = rank.floor().long()
        value = kept.value.double()
        last = torch.minimum(number, torch.tensor(self._kept_per_concept)) - 1
        upper = value[start + above]
        lower = value[start + torch.minimum(above + 1, last)]
        quantile = upper + (rank - above) * (lower - upper)
        eleventh = value[start + torch.clamp(last, max=MIN_IMAGES)]
        threshold = torch.where(number > MIN_IMAGES, torch.minimum(quantile, eleventh), 0.0)
        limit = torch.zeros(len(count), dtype=torch.float64)
        limit[present] = threshold
        chosen = value > limit[kept.concept]
        return Presences(kept.concept[chosen], kept.image[chosen], kept.value[chosen])

    def _compact(self) -> None:
        """Sort by concept, falling value and image, and drop what no threshold can depend on."""
        parts = [self._kept, *self._pending]
        concept, image, value = (torch.cat([getattr(p, name) for p in parts]) for name in ("concept", "image", "value"))
        order = image.argsort()
        order = order[value[order].argsort(descending=True, stable=True)]
        order = order[concept[order].argsort(stable=True)]
        concept, image, value = concept[order], image[order], value[order]
        present, start = _starts(concept, len(self._count))
        first = torch.zeros(len(self._count), dtype=torch.int64)
        first[present] = start
        keep = torch.arange(len(concept)) - first[concept] < self._kept_per_concept
        self._kept = Presences(concept[keep], image[keep], value[keep])
        self._pending, self._num_pending = [], 0


def random_maps(image: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """The maps of a concept that knows nothing: max(r, u), r uniform per pixel and u uniform per image.

    Args:
        image: (B,) int64, numbers of the images; with ``seed`` they decide the maps, whoever draws them.
        size: (H, W).
    Returns:
        (B, H, W) float32 in [0, 1); the activation that belongs to a map is its sum.
    """
    pixel = torch.arange(size[0] * size[1], device=image.device)
    noise = uniform(pixel[None], image[:, None], seed, 1)
    floor = uniform(image, seed, 2)
    return torch.maximum(noise, floor[:, None]).float().view(len(image), *size)


def _chunks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    return zip(*(tensor.split(_ROWS) for tensor in tensors), strict=True)


def _starts(concept: Tensor, num_concepts: int) -> tuple[Tensor, Tensor]:
    """Concepts that occur in a sorted list, and where each begins."""
    number = torch.bincount(concept, minlength=num_concepts)
    present = number.nonzero().squeeze(1)
    return present, (number.cumsum(0) - number)[present]
