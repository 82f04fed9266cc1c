"""Statistics of concepts and proposed names, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from raytrain_xai.concepts.proposals import propose_names
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.concepts.statistics import class_entropy, partners, spatial_size


def table(rows: list[list[float]]) -> SparseSums:
    flat = torch.tensor(rows, dtype=torch.float64).flatten()
    keys = flat.nonzero().squeeze(1)
    return SparseSums(keys, flat[keys])


def test_class_entropy() -> None:
    """One class, four equal ones, 3/4 and 1/4, and no activation at all."""
    entropy = class_entropy(table([[0, 5, 0, 0], [2, 2, 2, 2], [9, 0, 3, 0], [0, 0, 0, 0]]), 4, 4)
    assert entropy[:3].tolist() == pytest.approx([0, math.log(4), 0.75 * math.log(4 / 3) + 0.25 * math.log(4)])
    assert entropy[3].isnan()


def test_spatial_size_counts_the_strongest_pixels() -> None:
    """80 % of 10 is 8: 5 + 3 reaches it; an even map of four needs all four; negative parts do not count."""
    maps = torch.tensor([
        [[5.0, 3.0], [1.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]], [[-9.0, 0.0], [4.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]],
    ])  # fmt: skip
    assert spatial_size(maps).tolist() == [2, 4, 1, 0]
    assert spatial_size(maps, 0.5).tolist() == [1, 2, 1, 0]


def test_partners_are_ordered_by_overlap() -> None:
    """Concept 0 at 10 positions: 4 of the 5 of concept 1 (4 of 11), 5 of the 50 of concept 2 (5 of 55), none of 3."""
    positions = torch.tensor([10, 5, 50, 7])
    partner, common, overlap = partners(torch.tensor([[0, 4, 5, 0]]), positions[:1], positions, 3)
    assert partner.tolist() == [[1, 2, -1]]
    assert common.tolist() == [[4, 5, 0]]
    assert overlap[0].tolist() == pytest.approx([4 / 11, 5 / 55, 0])


CLASSES = ("cat", "dog", "sofa", "car")


def test_names_follow_the_rule() -> None:
    mass = table([
        [80, 20, 0, 0],  # cat alone, and stronger than the next
        [6, 4, 0, 0],  # cat alone
        [0, 40, 35, 25],  # dog and sofa together
        [30, 30, 30, 30],  # everything
        [0, 0, 0, 90],  # car
        [0, 0, 9, 0],  # sofa, but in four images only
        [0, 300, 0, 0],  # dog
    ])  # fmt: skip
    images = torch.tensor([50, 9, 20, 99, 5, 4, 30])
    # shares of all activation: cat 116, dog 394, sofa 74, car 145 of 729
    assert propose_names(mass, images, CLASSES) == {0: "cat 1", 1: "cat 2", 4: "car 1"}


def test_a_name_needs_more_than_a_frequent_class() -> None:
    """Dog holds 80 % of concept 0, and of the activation of all concepts: it says nothing about this one."""
    mass = table([[2, 8, 0, 0], [1, 9, 0, 0], [3, 7, 0, 0]])
    assert propose_names(mass, torch.tensor([9, 9, 9]), CLASSES) == {}


def test_two_classes_name_a_concept_together() -> None:
    mass = table([[45, 0, 40, 15], [0, 100, 0, 0], [0, 100, 0, 0], [45, 10, 25, 20], [0, 0, 0, 60]])
    # cat holds 90, dog 210, sofa 65, car 95 of 460: in concept 3, sofa has less than twice its share of all
    expected = {0: "cat + sofa 1", 1: "dog 1", 2: "dog 2", 4: "car 1"}
    assert propose_names(mass, torch.full((5,), 9), CLASSES) == expected
    assert propose_names(mass, torch.full((5,), 4), CLASSES) == {}
