"""Parents and synonyms against their definition, concept by concept, and networkx for the reduction."""

from __future__ import annotations

import networkx
import pytest
import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import CoOccurrence, co_occurrence
from raytrain_xai.concepts.relations import RelationRule, Relations, generality, implications, relations
from raytrain_xai.errors import ConfigError

ANIMAL, DOG, PUG, HOUND, LAP_DOG, CAR, DEAD, ALWAYS = range(8)


def of_dense(z: Tensor) -> CoOccurrence:
    """(N, K) values."""
    return co_occurrence(SparseCode(z, torch.arange(z.shape[1]).expand_as(z), z.shape[1]))


@pytest.fixture
def zoo() -> CoOccurrence:
    """100 positions: animals at 50, dogs at 30 of them, pugs at 10 of these, which are lap dogs at 9; hounds at 10."""
    z = torch.zeros(100, 8)
    z[:50, ANIMAL] = 1
    z[:30, DOG] = 2
    z[:10, PUG] = 3
    z[:9, LAP_DOG] = 1
    z[10:20, HOUND] = 1
    z[60:80, CAR] = 1
    z[:, ALWAYS] = 1
    return of_dense(z)


def test_tree_of_the_zoo(zoo: CoOccurrence) -> None:
    found = relations(zoo, torch.zeros(8, dtype=torch.int64), RelationRule(min_positions=5, max_frequency=0.5))
    assert found.same_as.tolist() == [ANIMAL, DOG, PUG, HOUND, PUG, CAR, DEAD, ALWAYS]
    assert [found.parents(k) for k in range(8)] == [(), (ANIMAL,), (DOG,), (DOG,), (DOG,), (), (), ()]
    assert found.children(DOG) == (PUG, HOUND)
    assert found.children(ANIMAL) == (DOG,), "what is implied through dogs is left out"
    assert found.synonyms(PUG) == (LAP_DOG,)
    assert found.synonyms(LAP_DOG) == (PUG,)
    assert found.synonyms(DEAD) == ()


def test_a_concept_that_is_everywhere_is_a_parent_only_if_asked(zoo: CoOccurrence) -> None:
    groups = torch.zeros(8, dtype=torch.int64)
    everywhere = relations(zoo, groups, RelationRule(min_positions=5, max_frequency=1))
    assert everywhere.parents(CAR) == (ALWAYS,)
    assert everywhere.parents(ANIMAL) == (ALWAYS,)


def test_rare_concepts_have_no_relations(zoo: CoOccurrence) -> None:
    found = relations(zoo, torch.zeros(8, dtype=torch.int64), RelationRule(min_positions=11, max_frequency=0.5))
    assert found.parents(PUG) == found.parents(HOUND) == ()
    assert found.parents(DOG) == (ANIMAL,)
    assert found.same_as[LAP_DOG] == LAP_DOG


def test_shares_weigh_by_activation() -> None:
    """Concept 0 is strong where 1 is active, and weak at more positions where it is not: P_D 10/13, P_C 1/4."""
    z = torch.tensor([[10.0, 1], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]])
    found = implications(of_dense(z), 0.75)
    assert (found.source.tolist(), found.target.tolist()) == ([0], [1])
    assert found.weight.tolist() == pytest.approx([10 / 13])
    assert len(implications(of_dense(z), 0.77).source) == 0
    assert found.of(0) == ([1], pytest.approx([10 / 13]))
    assert found.of(1) == ([], [])


def test_order_from_general_to_specific() -> None:
    frequency, groups = torch.tensor([5, 9, 5, 5, 0]), torch.tensor([1, 2, 0, 1, 0])
    assert generality(frequency, groups).argsort().tolist() == [1, 2, 0, 3, 4]


def test_of_equally_frequent_synonyms_the_earlier_group_stands_for_both() -> None:
    z = torch.tensor([[1.0, 1], [2, 3], [1, 1]])
    rule = RelationRule(min_positions=1)
    assert relations(of_dense(z), torch.tensor([1, 0]), rule).same_as.tolist() == [1, 1]
    assert relations(of_dense(z), torch.tensor([0, 0]), rule).same_as.tolist() == [0, 0]


def test_synonyms_do_not_chain() -> None:
    """0 and 1 share 9 of 10 positions, 1 and 2 too, 0 and 2 only 8: with .85, 2 is not the same as 0."""
    z = torch.zeros(40, 3)
    z[0:11, 0] = 1
    z[1:11, 1] = 1
    z[2:12, 2] = 1
    found = relations(of_dense(z), torch.zeros(3, dtype=torch.int64), RelationRule(0.85, 1, 1.0))
    assert found.same_as.tolist() == [0, 0, 2]
    mutual = relations(of_dense(z), torch.zeros(3, dtype=torch.int64), RelationRule(0.75, 1, 1.0))
    assert mutual.same_as.tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_random_codes_by_the_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cause = torch.rand(150, 4, generator=generator) < 0.4
    follows = torch.rand(4, 14, generator=generator) < 0.5
    active = (cause.float() @ follows.float() > 0) & (torch.rand(150, 14, generator=generator) < 0.9)
    z = torch.rand(150, 14, generator=generator) * active
    groups = torch.randint(0, 3, (14,), generator=generator).sort().values
    rule = RelationRule(0.6, 3, 0.9)
    found = relations(of_dense(z), groups, rule)
    same_as, edges = by_definition(z.double(), groups, rule)
    assert found.same_as.tolist() == same_as
    assert {(c, p) for c, p in zip(found.child.tolist(), found.parent.tolist(), strict=True)} == edges
    assert found.child.tolist() == sorted(found.child.tolist())
    assert len(edges) > 0 or seed, "the example has relations"


def by_definition(z: Tensor, groups: Tensor, rule: RelationRule) -> tuple[list[int], set[tuple[int, int]]]:
    z = z * (z > 1e-3)
    active = (z > 0).double()
    frequency = active.sum(dim=0).tolist()
    share = (z.T @ active) / z.sum(dim=0)[:, None]
    count = len(frequency)

    def implies(i: int, j: int) -> bool:
        frequent = min(frequency[i], frequency[j]) >= rule.min_positions
        return i != j and frequent and float(share[i, j]) > rule.threshold

    order = sorted(range(count), key=lambda k: (-frequency[k], int(groups[k]), k))
    same_as = list(range(count))
    for place, concept in enumerate(order):
        for above in order[:place]:
            if same_as[above] == above and implies(concept, above) and implies(above, concept):
                same_as[concept] = above
                break
    graph = networkx.DiGraph()
    for child in order:
        for target in order:
            parent = same_as[target]
            one_way = implies(child, target) and not implies(target, child)
            before = order.index(parent) < order.index(child)
            rare_enough = frequency[parent] <= rule.max_frequency * len(z)
            if same_as[child] == child and one_way and before and rare_enough:
                graph.add_edge(child, parent)
    return same_as, set(networkx.transitive_reduction(graph).edges)


def test_stored_and_read_again(zoo: CoOccurrence) -> None:
    rule = RelationRule(min_positions=5, max_frequency=0.5)
    found = relations(zoo, torch.zeros(8, dtype=torch.int64), rule)
    again = Relations.from_tensors(found.to_tensors(), rule)
    assert [again.parents(k) for k in range(8)] == [found.parents(k) for k in range(8)]
    assert (again.positions, again.frequency.tolist()) == (100, [50, 30, 10, 10, 9, 20, 0, 100])


@pytest.mark.parametrize("values", [(0.0, 20, 0.5), (1.0, 20, 0.5), (0.8, 0, 0.5), (0.8, 20, 0.0), (0.8, 20, 1.1)])
def test_impossible_rules(values: tuple[float, int, float]) -> None:
    with pytest.raises(ConfigError, match=r"threshold in \(0, 1\)"):
        RelationRule(*values)
