"""Results of scoring concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raytrain_xai.concepts.c2 import MIN_COUNTED


@dataclass(frozen=True)
class SourceScore:
    """One set of concepts.

    Attributes:
        name: ``ours`` or a baseline.
        num_concepts: K.
        concept, group: (n,) int64, the scored concepts; group: the class for per_class, else 0.
        consistency: (n,) float64 in [-1, 1].
        images: (n,) int64, images that it was computed from, at least 2.
        baseline: (G,) float64, consistency of the random concept in each group.
    """

    name: str
    num_concepts: int
    concept: Tensor
    group: Tensor
    consistency: Tensor
    images: Tensor
    baseline: Tensor

    @property
    def counted(self) -> Tensor:
        """(m,) float64: consistency of those that enter the means, with five images or more."""
        return self.consistency[self.images >= MIN_COUNTED]

    @property
    def mean_consistency(self) -> float:
        """Mean over the counted; NaN where none counts."""
        return float(self.counted.mean())

    @property
    def c2(self) -> float:
        """Mean over the counted of the consistency minus that of the random concept in the same group.

        With classes this deviates from the published code, which takes off the mean over classes: there every class has
        as many concepts, here it need not.
        """
        above = self.consistency - self.baseline[self.group]
        return float(above[self.images >= MIN_COUNTED].mean())


@dataclass(frozen=True)
class Scores:
    """Result of a job.

    Attributes:
        sources: ours first.
        random: (draws, G) float64, consistency of the random concept; NaN in a class with fewer than two images.
        groups: class names for per_class, else empty.
        num_images: images of the split.
        names: names of our concepts that have one.
    """

    sources: tuple[SourceScore, ...]
    random: Tensor
    groups: tuple[str, ...]
    num_images: int
    names: Mapping[int, str]
