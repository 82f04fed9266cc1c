"""Feature absorption: a general concept that falls silent where a special one has taken over its part.

A concept for dogs that is silent on pugs, because the concept for pugs also says "dog", is full of holes that nothing
shows (Chanin et al. 2024, arXiv 2409.14507). Measured here per class of masks:

- its direction t is that from the mean reconstruction elsewhere to the mean reconstruction on the class, unit length;
- its *main* concept detects its positions best (F1 of being active);
- *absorbing* concepts are others that point along t (v·t >= 0.1) and are special: the share of their activation that
  lies on the class is at least a half, or that of the main one;
- absorption is the part of the evidence Σ z v·t of all these concepts, on the class, that absorbing concepts give at
  positions where the main one is silent: 0 where the main concept covers its class, 1 where it never says anything.

Deviations: the published measure takes a trained linear probe as t, and counts positions, not evidence, where one
concept gives most of it; here the parts are summed, as several small concepts absorb together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.field_sums import FieldSums
from raytrain_xai.insight.description import VOID, Description

ALONG = 0.1  # least v·t of an absorbing concept
HALF = 0.5  # share of its activation that a special concept has on its class, where the main one has no less
MIN_POSITIONS = 100  # of a class


@dataclass(frozen=True)
class ClassConcepts:
    """Which concepts speak for which class. C classes, K concepts.

    Attributes:
        main: (C,) int64, the concept that detects a class best; -1 for a class with too few positions.
        f1: (C,) float64, how well; 0 without.
        evidence: (C, K) float32, v·t of the main and the absorbing concepts, 0 of all others.
    """

    main: Tensor
    f1: Tensor
    evidence: Tensor

    def to(self, device: torch.device) -> ClassConcepts:
        """The same on another device."""
        return ClassConcepts(self.main.to(device), self.f1.to(device), self.evidence.to(device))


@dataclass(frozen=True)
class Absorption(FieldSums):
    """Evidence for each of C classes, in units of the vectors.

    Attributes:
        total: (C,) float64, of main and absorbing concepts.
        silent: (C,) float64, of it, what absorbing concepts give where the main one is silent.
    """

    total: Tensor
    silent: Tensor

    @property
    def share(self) -> Tensor:
        """(C,) float64 in [0, 1]; NaN for a class without evidence."""
        return self.silent / self.total


def class_concepts(sums: Description, dictionary: Tensor) -> ClassConcepts:
    """Main and absorbing concepts of every class.

    Args:
        sums: over images with masks.
        dictionary: (K, D), on the CPU.
    """
    columns = len(sums.class_positions)
    concept, column = sums.on_class.cells(columns)
    active, mass = torch.zeros(2, columns, sums.seen.num_latents, dtype=torch.float64)
    active[column, concept], mass[column, concept] = sums.on_class.sums.unbind(dim=1)
    positions = sums.class_positions.double()
    elsewhere = (mass.sum(dim=0) - mass) / (positions.sum() - positions).clamp(min=1)[:, None]
    direction = (mass / positions.clamp(min=1)[:, None] - elsewhere) @ dictionary.double()
    along = torch.nn.functional.normalize(direction, dim=1) @ dictionary.double().T
    f1 = 2 * active / (active.sum(dim=0) + positions[:, None]).clamp(min=1)
    best, main = f1[1:].max(dim=1)
    is_large = (positions[1:] >= MIN_POSITIONS) & (best > 0)
    special = (mass / mass.sum(dim=0).clamp(min=1e-30))[1:]  # (C, K), share of a concept's activation
    absorbs = (along[1:] >= ALONG) & (special >= special.gather(1, main[:, None]).clamp(max=HALF)) & (mass[1:] > 0)
    speaks = absorbs.scatter(1, main[:, None], value=True) & is_large[:, None]
    evidence = torch.where(speaks, along[1:].clamp(min=0), 0.0)
    return ClassConcepts(torch.where(is_large, main, -1), torch.where(is_large, best, 0.0), evidence.float())


def absorption(code: SparseCode, labels: Tensor, concepts: ClassConcepts) -> Absorption:
    """The evidence in some images.

    Args:
        code: (B, P, k).
        labels: (B, P) uint8, see :func:`raytrain_xai.insight.description.patch_labels`.
        concepts: on the device of the code.
    """
    num_classes = len(concepts.main)
    labelled = (labels > 0) & (labels != VOID)
    own = labels[labelled].long() - 1
    values, indices = code.values[labelled], code.indices[labelled]
    evidence = (values * concepts.evidence[own[:, None], indices]).sum(dim=1).double()
    is_silent = ~((indices == concepts.main[own, None]) & (values > 0)).any(dim=1)
    nothing = evidence.new_zeros(num_classes)
    return Absorption(
        nothing.index_add(0, own, evidence), nothing.index_add(0, own, torch.where(is_silent, evidence, 0.0))
    )
