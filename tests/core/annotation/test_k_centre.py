"""Greedy coverage of a feature space."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from raytrain_xai.annotation.k_centre import k_centre

NONE = torch.zeros(0, dtype=torch.int64)
LINE = torch.tensor([[0.0], [1.0], [2.0], [10.0], [12.0]])  # mean 5


def remaining(features: Tensor, chosen: list[int]) -> float:
    """Largest distance to the nearest chosen row, from all distances at once."""
    return float(torch.cdist(features.double(), features[chosen].double()).amin(dim=1).max())


def test_by_hand_on_a_line() -> None:
    """2 is nearest to the mean. Then 12, 10 away; then 0 and 10 are 2 away, the first of them; then 10; then 1."""
    rows, radius = k_centre(LINE, 5, NONE)
    assert rows.tolist() == [2, 4, 0, 3, 1]
    assert radius.tolist() == [10.0, 2.0, 2.0, 1.0, 0.0]


def test_what_is_covered_is_not_chosen_and_covers() -> None:
    """With 10 annotated, 0 is furthest (10); then 2 and 12 are 2 away, the first of them; then 12, then 1."""
    rows, radius = k_centre(LINE, 4, torch.tensor([3]))
    assert rows.tolist() == [0, 2, 4, 1]
    assert radius.tolist() == [2.0, 2.0, 1.0, 0.0]


def test_no_more_than_twice_the_best_cover() -> None:
    for seed in range(20):
        points = torch.randn(9, 2, generator=torch.Generator().manual_seed(seed))
        best = min(remaining(points, list(centres)) for centres in combinations(range(9), 3))
        rows, radius = k_centre(points, 3, NONE)
        assert float(radius[-1]) == pytest.approx(remaining(points, rows.tolist()), rel=1e-5)
        assert best <= float(radius[-1]) * (1 + 1e-5) <= 2 * best * (1 + 1e-4)


def test_each_choice_is_the_furthest_row() -> None:
    """Against all pairwise distances, with more annotated rows than are compared at once."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 5, generator=generator) + 100
    covered = torch.randperm(400, generator=generator)[:300]
    rows, _ = k_centre(points, 20, covered)
    known = covered.tolist()
    for row in rows.tolist():
        nearest = torch.cdist(points.double(), points[known].double()).amin(dim=1)
        assert int(nearest.argmax()) == row
        known.append(row)


def test_equal_images_are_chosen_once_each() -> None:
    rows, radius = k_centre(torch.ones(6, 3), 6, NONE)
    assert sorted(rows.tolist()) == list(range(6))
    assert radius.tolist() == [0.0] * 6


def test_fewer_are_the_first_of_more() -> None:
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    many, _ = k_centre(points, 50, NONE)
    for count in (0, 1, 7):
        assert k_centre(points, count, NONE)[0].tolist() == many[:count].tolist()
