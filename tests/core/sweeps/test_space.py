"""Points of a space: combinations, and draws that depend on nothing but seed, path and number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raytrain_xai.config import validated
from raytrain_xai.sweep_config import Axis, SweepConfig
from raytrain_xai.sweeps.space import all_points, corner_points, drawn_points, grid_points


def axes(**written: Any) -> dict[str, Axis]:
    return {path: Axis.model_validate(value) for path, value in written.items()}


def test_the_last_axis_of_a_grid_changes_fastest() -> None:
    assert grid_points(axes(a=[1, 2], b=["x", None])) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": 2, "b": None},
    ]  # fmt: skip
    assert grid_points({}) == [{}]


def test_draws_lie_in_their_ranges_and_are_spread_as_they_say() -> None:
    space = axes(u={"uniform": [-2, 6]}, log={"loguniform": [1e-4, 1]}, n={"randint": [3, 6]}, c={"choice": ["x", "y"]})
    points = drawn_points(space, 4000, seed=3)
    u, log = sorted(float(str(p["u"])) for p in points), sorted(float(str(p["log"])) for p in points)
    assert u[0] >= -2 and u[-1] < 6 and abs(u[2000] - 2) < 0.3  # the median of a uniform draw is the middle
    assert log[0] >= 1e-4 and log[-1] < 1 and abs(math.log10(log[2000]) + 2) < 0.15  # in logarithms too
    counts = {n: sum(p["n"] == n for p in points) for n in range(2, 8)}
    assert counts[2] == counts[7] == 0 and all(abs(counts[n] - 1000) < 120 for n in (3, 4, 5, 6))
    assert abs(sum(p["c"] == "x" for p in points) - 2000) < 150
    assert all(type(p["n"]) is int for p in points)


def test_a_draw_knows_its_seed_path_and_number_only() -> None:
    one = drawn_points(axes(a={"uniform": [0, 1]}), 5, seed=0)
    assert drawn_points(axes(a={"uniform": [0, 1]}, b={"uniform": [0, 1]}), 9, seed=0)[4]["a"] == one[4]["a"]
    assert drawn_points(axes(a={"uniform": [0, 1]}), 5, seed=1) != one
    both = drawn_points(axes(a={"uniform": [0, 1]}, b={"uniform": [0, 1]}), 5, seed=0)
    assert all(point["a"] != point["b"] for point in both)
    assert one[0] == {"a": pytest.approx(drawn_points(axes(a={"uniform": [0, 2]}), 1, seed=0)[0]["a"] / 2)}  # type: ignore[operator]


def test_every_combination_of_grids_gets_the_same_draws() -> None:
    points = drawn_points(axes(lr={"loguniform": [1e-4, 1e-2]}, loss=["energy", "l1"]), 3, seed=0)
    assert [point["loss"] for point in points] == ["energy"] * 3 + ["l1"] * 3
    assert [point["lr"] for point in points[:3]] == [point["lr"] for point in points[3:]]
    assert list(points[0]) == ["lr", "loss"]  # in the order of the file


def sweep(**keys: Any) -> SweepConfig:
    return validated(SweepConfig, {"name": "s", "base": {}, **keys}, "sweep")


def test_cases_are_added_up_and_a_point_counts_once() -> None:
    config = sweep(space={"layer": ["a", "b"]}, cases=[{"w": [1, 2]}, {"w": [2]}, {}])
    assert all_points(config) == [
        {"layer": "a", "w": 1}, {"layer": "a", "w": 2}, {"layer": "b", "w": 1}, {"layer": "b", "w": 2},
        {"layer": "a"}, {"layer": "b"},
    ]  # fmt: skip


def test_drawn_twice_is_trained_once_and_optuna_plans_nothing() -> None:
    few = sweep(space={"a": {"choice": [1, 2]}}, search={"kind": "random", "trials": 50})
    assert sorted(str(point) for point in all_points(few)) == ["{'a': 1}", "{'a': 2}"]
    assert all_points(sweep(space={"a": [1]}, search={"kind": "optuna", "trials": 5})) == []


def test_corners_show_every_value_once() -> None:
    space = axes(a=[1, 2, 3], b={"uniform": [0, 1]})
    assert corner_points(space) == [{"a": 1, "b": 0}, {"a": 2, "b": 0}, {"a": 3, "b": 0}, {"a": 1, "b": 1}]
