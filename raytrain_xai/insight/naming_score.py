"""Whether names of concepts are right: a concept that is named after a class should point at what has this class.

Judged by the class masks of the images that a run was described on: the middle of each of the strongest patches of a
concept lies on a class, on the background, or on nothing that is known. A name stands for a class when
:func:`raytrain_xai.language.kinds.kind_of` says so; names of other things cannot be judged this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.described import Described, TopTokens
from raytrain_xai.insight.description import VOID, Description, patch_labels
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.language.kinds import kind_of

MOST = 0.5  # part of the strongest patches that makes a concept one of a kind
LEAST = 5  # strongest patches with a known class; fewer show no rule
_AT_ONCE = 32  # images


@dataclass(frozen=True)
class JudgedName:
    """A concept whose name stands for a class.

    Attributes:
        concept, name: the concept and what it is called.
        kind: the kind of class that its name stands for, such as ``sofa`` for the classes sofa and couch.
        pointing: part of its strongest patches that lies on such classes, of those with a known class; in [0, 1].
        inside: part of all its activation at known classes that lies on them.
        chance: part of all patches with a known class that lies on them.
    """

    concept: int
    name: str
    kind: str
    pointing: float
    inside: float
    chance: float

    @property
    def fits(self) -> bool:
        """Whether most of the strongest patches lie on what the name says."""
        return self.pointing >= MOST


@dataclass(frozen=True)
class NamingScore:
    """How well names agree with class masks.

    Attributes:
        judged: names that stand for a class, in order of the concepts.
        specific: concept -> kind, of the concepts with most of their strongest patches on one kind (no background).
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
    def found(self) -> float:
        """Part of the class-specific concepts that are named so; 0 without any."""
        return len(self.named_so) / max(1, len(self.specific))


def read_labels(described: Described, top: TopTokens) -> Tensor:
    """The class in the middle of each of the strongest patches, from the masks of their images.

    Args:
        described: says which images were looked at; they must still be where they were.
        top: (K, n) patches.
    Returns:
        (K, n) uint8: 0 background, c + 1 for class c of ``described.classes``, ``VOID`` where nothing is known.
    Raises:
        ConfigError: a data set was prepared anew since.
        DataError: a data set is not there.
    """
    subject = described.subject
    images = ImageRows(subject.data, subject.split, subject.image_size, shorter=subject.shorter)
    if images.fingerprints != subject.data_fingerprints:
        raise ConfigError(f"{', '.join(subject.data)} changed since {subject.run} was described; describe it again")
    rows, place = top.image.unique(return_inverse=True)
    labels = torch.full((len(rows), subject.size[0] * subject.size[1]), VOID, dtype=torch.uint8)
    start = int((rows < 0).sum())  # places without a patch have image -1
    for group in rows[start:].split(_AT_ONCE):
        for own, batch in images.read(group.tolist()):
            found = patch_labels(images.masks(own[0], batch), batch.has_mask, subject.size)
            labels[start : start + len(own)] = found
            start += len(own)
    return labels[place, top.position.clamp(min=0)]


def score_names(
    names: Mapping[int, str], labels: Tensor, description: Description, classes: Sequence[str]
) -> NamingScore:
    """Judge the names of concepts by class masks.

    Args:
        names: concept -> name.
        labels: (K, n) uint8 of :func:`read_labels`.
        description: sums over the images.
        classes: C class names.
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
    pointing = _pointing(labels, of_column, len(kinds))
    inside = _inside(description, of_column, len(kinds))
    chance = torch.zeros(len(kinds)).index_add_(0, of_column, description.class_positions / total).tolist()
    is_known = pointing.sum(dim=1) > 0
    judged = [
        JudgedName(concept, name, kind, float(pointing[concept, place]), float(inside[concept, place]), chance[place])
        for concept, name in sorted(names.items())
        for place, kind in enumerate(kinds)
        if place and kind == kind_of(name) and is_known[concept]
    ]
    most, where = pointing.max(dim=1)
    own = ((most >= MOST) & (where > 0)).nonzero().flatten().tolist()
    specific = {concept: kinds[int(where[concept])] for concept in own}
    named_so = {concept for concept, kind in specific.items() if kind_of(names.get(concept, "")) == kind}
    return NamingScore(judged, specific, frozenset(named_so))


def _pointing(labels: Tensor, of_column: Tensor, num_kinds: int) -> Tensor:
    """(K, kinds) float64: part of the strongest patches with a known class on each kind; 0 where too few are known."""
    is_known = labels != VOID
    kind = of_column[torch.where(is_known, labels, 0).long()]
    counts = torch.zeros(len(labels), num_kinds, dtype=torch.float64).scatter_add_(1, kind, is_known.double())
    known = counts.sum(dim=1, keepdim=True)
    return torch.where(known >= LEAST, counts / known.clamp(min=1), 0)


def _inside(description: Description, of_column: Tensor, num_kinds: int) -> Tensor:
    """(K, kinds) float64: part of the activation at known classes on each kind."""
    concept, column = description.on_class.cells(len(of_column))
    mass = torch.zeros(description.seen.num_latents, num_kinds, dtype=torch.float64)
    mass.index_put_((concept, of_column[column]), description.on_class.sums[:, 1], accumulate=True)
    return functional.normalize(mass, p=1, dim=1)
