"""The front of many points, compared in parts, against the definition; and without rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raytrain_xai.guidance.pareto import pareto_front


def front_at_once(points: np.ndarray) -> np.ndarray:
    at_least = (points[None] >= points[:, None]).all(axis=2)
    better = at_least & (points[None] > points[:, None]).any(axis=2)
    equal_before = np.tril(at_least & at_least.T, k=-1).any(axis=1)
    return ~better.any(axis=1) & ~equal_before


@pytest.mark.parametrize("metrics", [1, 2, 3, 4])
def test_parts_change_nothing(metrics: int) -> None:
    values = np.random.default_rng(metrics).integers(0, 40, size=(2500, metrics)) / 40
    found = pareto_front(torch.from_numpy(values), resolution=None)
    assert found.numpy().tolist() == front_at_once(values).tolist()


def test_all_points_of_a_sphere_are_on_the_front_of_three_parts() -> None:
    points = torch.rand(2500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert pareto_front(torch.nn.functional.normalize(points), resolution=None).all()


def test_without_rounding_the_smallest_difference_beats() -> None:
    points = torch.tensor([[0.5001, 0.7], [0.5, 0.7], [0.5, 0.7001], [-0.0, 0.8], [0.0, 0.8]])
    assert pareto_front(points, resolution=None).tolist() == [True, False, True, True, False]
