"""Which concepts are more general than others, and which are the same: relations from activation at the same positions.

P_D(j|i) = D_ij / D_ii, the share of the activation of i at positions where j is active too, is near 1 if j is active
wherever i is strongly active (Insight / CFM, 2026). With a threshold t and P_D(j|i) > t, concept i implies j:

- only in this direction: j is a parent of i;
- in both: i and j are synonyms, and the more frequent one stands for both;
- in neither: they are unrelated.

Added here, as one-sided numbers alone let cycles through: concepts have one order, from general to specific, by
frequency, then by Matryoshka group, then by number; a parent comes before its child. What is implied through another
parent is left out, so that the relations draw a tree (a forest in which a concept may have several parents).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from raytrain_xai.concepts.cooccurrence import CoOccurrence
from raytrain_xai.errors import ConfigError

FAMILY = 0.75  # P_D of the family in whose words a concept is named; Insight / CFM, 2026


@dataclass(frozen=True)
class RelationRule:
    """When concepts are related.

    Attributes:
        threshold: t, P_D above which a concept implies another; .8 as published.
        min_positions: a rarer concept has no relations: its P_D is a ratio of few positions, often of two or three
            images (0/0 for a dead one).
        max_frequency: share of all positions above which a concept is no parent: one that is active everywhere is
            implied by all others and says nothing. (With .5 instead of .2, parents of another class than the child
            rose from 2 to 11 % on VOC and COCO.)
    """

    threshold: float = 0.8
    min_positions: int = 50
    max_frequency: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or not 0 < self.max_frequency <= 1 or self.min_positions < 1:
            raise ConfigError(
                "relations need a threshold in (0, 1), a max_frequency in (0, 1] and min_positions of 1 or more, got "
                f"{self.threshold:g}, {self.max_frequency:g} and {self.min_positions}"
            )


@dataclass(frozen=True)
class Implications:
    """Directed pairs: concept ``source`` implies ``target``, in order of the sources.

    Attributes:
        source, target: (E,) int64, different concepts.
        weight: (E,) float64, P_D(target|source) in (threshold, 1].
        num_latents: K.
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    num_latents: int

    def of(self, concept: int) -> tuple[list[int], list[float]]:
        """What a concept implies, the surest first: concepts and P_D."""
        first, last = torch.searchsorted(self.source, torch.tensor([concept, concept + 1])).tolist()
        order = self.weight[first:last].argsort(descending=True, stable=True)
        return self.target[first:last][order].tolist(), self.weight[first:last][order].tolist()


@dataclass(frozen=True)
class Relations:
    """Parents and synonyms of K concepts.

    Attributes:
        positions: how many were seen.
        frequency: (K,) int64, positions at which a concept is active.
        same_as: (K,) int64, the concept that stands for it: itself, or the most frequent of its synonyms.
        child, parent: (E,) int64, in order of the children, the surest parent first; both stand for themselves.
        weight: (E,) float64, P_D(parent|child); the largest one where the parent stands for several.
        rule: what they were made by.
    """

    positions: int
    frequency: Tensor
    same_as: Tensor
    child: Tensor
    parent: Tensor
    weight: Tensor
    rule: RelationRule

    @property
    def num_latents(self) -> int:
        """K."""
        return len(self.frequency)

    def parents(self, concept: int) -> tuple[int, ...]:
        """The concepts just above one (or above the one that stands for it), the surest first."""
        return tuple(self.parent[self.child == self.same_as[concept]].tolist())

    def children(self, concept: int) -> tuple[int, ...]:
        """The concepts just below one (or below the one that stands for it), the surest first."""
        own = self.parent == self.same_as[concept]
        order = self.weight[own].argsort(descending=True, stable=True)
        return tuple(self.child[own][order].tolist())

    def synonyms(self, concept: int) -> tuple[int, ...]:
        """The other concepts that are the same."""
        same = (self.same_as == self.same_as[concept]).nonzero().flatten().tolist()
        return tuple(other for other in same if other != concept)

    def to_tensors(self) -> dict[str, Tensor]:
        """What :meth:`from_tensors` takes, but for the rule."""
        names = ("frequency", "same_as", "child", "parent", "weight")
        return {"positions": torch.tensor(self.positions)} | {name: getattr(self, name).contiguous() for name in names}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], rule: RelationRule) -> Self:
        """Inverse of :meth:`to_tensors`; other names are ignored."""
        names = ("frequency", "same_as", "child", "parent", "weight")
        return cls(int(tensors["positions"]), *(tensors[name] for name in names), rule=rule)


def implications(seen: CoOccurrence, threshold: float, *, min_positions: int = 1) -> Implications:
    """All pairs with P_D above a threshold: the family of every concept, without itself.

    Args:
        seen: over all positions.
        threshold: in (0, 1).
        min_positions: pairs with a rarer concept are left out.
    Source: Insight / CFM, 2026; 0/0 of dead concepts is no implication.
    """
    source, target, _, mass = seen.directed()
    weight = mass / seen.mass[source]
    frequent = seen.frequency >= min_positions
    kept = (weight > threshold) & frequent[source] & frequent[target]
    source, target, weight = source[kept], target[kept], weight[kept]
    order = (source * seen.num_latents + target).argsort()
    return Implications(source[order], target[order], weight[order], seen.num_latents)


def relations(seen: CoOccurrence, groups: Tensor, rule: RelationRule | None = None) -> Relations:
    """Parents and synonyms from what is active together.

    Args:
        seen: over all positions; on the CPU.
        groups: (K,) int64, Matryoshka group of each concept, the first is the coarsest; zeros without groups.
        rule: by default that of :class:`RelationRule`.
    """
    rule = rule or RelationRule()
    found = implications(seen, rule.threshold, min_positions=rule.min_positions)
    rank = generality(seen.frequency, groups)
    is_mutual = torch.isin(
        found.source * found.num_latents + found.target, found.target * found.num_latents + found.source
    )
    same_as = _representatives(found.source[is_mutual], found.target[is_mutual], rank)
    child, parent, weight = found.source, same_as[found.target], found.weight
    may_be_parent = seen.frequency <= rule.max_frequency * seen.positions
    kept = ~is_mutual & (same_as[child] == child) & (rank[parent] < rank[child]) & may_be_parent[parent]
    edges = _reduced(*_distinct(child[kept], parent[kept], weight[kept], found.num_latents), rank)
    return Relations(int(seen.positions), seen.frequency, same_as, *edges, rule=rule)


def generality(frequency: Tensor, groups: Tensor) -> Tensor:
    """Place of each concept in the order from general to specific: (K,) int64, a permutation.

    Args:
        frequency: (K,) int64; the more frequent one comes first.
        groups: (K,) int64; of two equally frequent ones, that of the earlier group, then that of the smaller number.
    """
    by_group = groups.argsort(stable=True)
    order = by_group[frequency[by_group].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rank


def _representatives(source: Tensor, target: Tensor, rank: Tensor) -> Tensor:
    """(K,) who stands for whom: each concept joins the most general one that is mutual with it and stands for itself.

    So synonyms do not chain: whoever stands for a concept is mutual with it.
    """
    order = rank.argsort()
    mutual: dict[int, list[int]] = {}
    for one, other in zip(rank[source].tolist(), rank[target].tolist(), strict=True):
        if other < one:
            mutual.setdefault(one, []).append(other)
    stands_for = {place: place for place in range(len(rank))}
    for place in sorted(mutual):  # from general to specific: those before are decided
        own = [other for other in mutual[place] if stands_for[other] == other]
        stands_for[place] = min(own, default=place)
    same_as = torch.empty_like(rank)
    same_as[order] = order[torch.tensor([stands_for[place] for place in range(len(rank))], dtype=torch.int64)]
    return same_as


def _distinct(child: Tensor, parent: Tensor, weight: Tensor, num_latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges once each, with their largest weight: several targets of a child may have become one parent."""
    cells, place = torch.unique(child * num_latents + parent, return_inverse=True)
    most = weight.new_zeros(len(cells)).scatter_reduce(0, place, weight, "amax")
    return cells // num_latents, cells % num_latents, most


def _reduced(child: Tensor, parent: Tensor, weight: Tensor, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transitive reduction of edges whose parent comes before the child in ``rank``; the surest parent first.

    Sets of ancestors are bits of one integer per concept: with K = 8192, at most 8 MiB.
    """
    parents: dict[int, list[int]] = {}
    for below, above in zip(rank[child].tolist(), rank[parent].tolist(), strict=True):
        parents.setdefault(below, []).append(above)
    ancestors: dict[int, int] = {}
    kept: set[tuple[int, int]] = set()
    for place in sorted(parents):  # from general to specific: ancestors of parents are known
        through = 0
        for above in parents[place]:
            through |= ancestors.get(above, 0)
        kept |= {(place, above) for above in parents[place] if not through >> above & 1}
        ancestors[place] = through | sum(1 << above for above in parents[place])
    pairs = zip(rank[child].tolist(), rank[parent].tolist(), strict=True)
    chosen = torch.tensor([pair in kept for pair in pairs], dtype=torch.bool)
    child, parent, weight = child[chosen], parent[chosen], weight[chosen]
    order = weight.argsort(descending=True, stable=True)
    order = order[child[order].argsort(stable=True)]
    return child[order], parent[order], weight[order]
