"""Pareto front against the definition applied point by point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raytrain_xai.guidance.pareto import pareto_front


def front_by_definition(points: Tensor) -> list[bool]:
    rounded = [tuple(round(value / 0.005) for value in row) for row in points.tolist()]
    kept: list[bool] = []
    for position, a in enumerate(rounded):
        is_beaten = any(
            all(y >= x for x, y in zip(a, b, strict=True)) and any(y > x for x, y in zip(a, b, strict=True))
            for b in rounded
        )
        kept.append(not is_beaten and a not in rounded[:position])
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    if seed % 2:
        points = (points * 8).round() / 8 + 0.0001  # many equal and many comparable points
    assert pareto_front(points).tolist() == front_by_definition(points)


def test_small_example() -> None:
    points = torch.tensor([[0.50, 0.50, 0.50], [0.60, 0.40, 0.50], [0.50, 0.50, 0.40], [0.40, 0.40, 0.40]])
    assert pareto_front(points).tolist() == [True, True, False, False]


def test_first_of_points_that_round_to_equal_stays() -> None:
    points = torch.tensor([[0.601, 0.500, 0.3], [0.599, 0.501, 0.3], [0.598, 0.500, 0.3], [0.607, 0.500, 0.3]])
    assert pareto_front(points).tolist() == [False, False, False, True]
    assert pareto_front(points[:3]).tolist() == [True, False, False]


def test_difference_below_the_resolution_does_not_beat() -> None:
    points = torch.tensor([[0.5010, 0.70, 0.3], [0.4990, 0.71, 0.3]])
    assert pareto_front(points).tolist() == [False, True]


def test_one_point_and_none() -> None:
    assert pareto_front(torch.tensor([[0.1, 0.2, 0.3]])).tolist() == [True]
    assert pareto_front(torch.zeros(0, 3)).tolist() == []


def test_non_finite_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        pareto_front(torch.tensor([[0.1, float("nan"), 0.2]]))
