"""Whether names of concepts are right: a concept that is named after a class should be active on what has this class.

Judged by the class masks of the images that a run was described on, at the middle of every patch. A name counts for a
class when :func:`raytrain_xai.language.kinds.kind_of` says so; names of other things cannot be judged this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.description import Description
from raytrain_xai.language.kinds import kind_of

MOST = 0.5  # part of the activation of a concept that makes it one of a class
LEAST_POSITIONS = 20  # labelled positions at which a concept is active; fewer show no rule


@dataclass(frozen=True)
class JudgedName:
    """A concept whose name is one for a class.

    Attributes:
        concept, name: the concept and what it is called.
        kind: the kind of class that its name stands for, such as ``sofa`` for the classes sofa and couch.
        inside: part of its activation at labelled positions that lies on such classes, in [0, 1].
        chance: part of all labelled positions that these have.
    """

    concept: int
    name: str
    kind: str
    inside: float
    chance: float

    @property
    def fits(self) -> bool:
        """Whether most of the activation lies on the class."""
        return self.inside >= MOST


@dataclass(frozen=True)
class NamingScore:
    """How well names agree with class masks.

    Attributes:
        judged: names that stand for a class, in order of the concepts.
        specific: concept -> kind, of the concepts with most of their activation on one kind of class (no background).
        named_so: those of ``specific`` whose name stands for this kind.
    """

    judged: Sequence[JudgedName]
    specific: Mapping[int, str]
    named_so: frozenset[int]

    @property
    def fitting(self) -> float:
        """Part of the judged names that fit; 0 without any."""
        return sum(name.fits for name in self.judged) / max(1, len(self.judged))

    @property
    def inside(self) -> float:
        """Mean part of the activation inside the class that the name stands for; 0 without any judged name."""
        return sum(name.inside for name in self.judged) / max(1, len(self.judged))

    @property
    def found(self) -> float:
        """Part of the class-specific concepts that are named so; 0 without any."""
        return len(self.named_so) / max(1, len(self.specific))


def score_names(names: Mapping[int, str], description: Description, classes: Sequence[str]) -> NamingScore:
    """Judge the names of concepts by class masks.

    Args:
        names: concept -> name.
        description: over images with masks.
        classes: C class names, column c + 1 of the table of the description.
    Raises:
        ConfigError: no image had a mask.
    """
    total = int(description.class_positions.sum())
    if not total or not classes:
        raise ConfigError(
            "names are judged by class masks, and no image of the description has one; use data with masks"
        )
    kinds = ["", *dict.fromkeys(kind_of(name) for name in classes)]  # the first one is the background
    of_column = torch.tensor([0, *(kinds.index(kind_of(name)) for name in classes)])
    share = _shares(description, of_column, len(kinds))
    chance = torch.zeros(len(kinds)).index_add_(0, of_column, description.class_positions / total).tolist()
    is_known = share.sum(dim=1) > 0
    judged = [
        JudgedName(concept, name, kinds[place], float(share[concept, place]), chance[place])
        for concept, name, place in (
            (concept, name, kinds.index(kind_of(name)))
            for concept, name in sorted(names.items())
            if name and kind_of(name) in kinds and is_known[concept]
        )
    ]
    most, where = share.max(dim=1)
    own = ((most >= MOST) & (where > 0)).nonzero().flatten().tolist()
    specific = {concept: kinds[int(where[concept])] for concept in own}
    named_so = {concept for concept, kind in specific.items() if kind_of(names.get(concept, "")) == kind}
    return NamingScore(judged, specific, frozenset(named_so))


def _shares(description: Description, of_column: Tensor, num_kinds: int) -> Tensor:
    """(K, kinds) float64: part of a concept's activation at labelled positions on each kind; 0 for rare concepts.

    Args:
        of_column: (C + 1,) int64, kind of every column of the class table.
    """
    concept, column = description.on_class.cells(len(of_column))
    table = torch.zeros(description.seen.num_latents, num_kinds, 2, dtype=torch.float64)
    table.index_put_((concept, of_column[column]), description.on_class.sums, accumulate=True)
    count, mass = table.unbind(dim=2)
    is_enough = count.sum(dim=1, keepdim=True) >= LEAST_POSITIONS
    return mass / mass.sum(dim=1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny) * is_enough
