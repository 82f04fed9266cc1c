"""Points of a space of values: all combinations of grids, and draws from ranges that any machine repeats."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from raytrain_xai.draws import uniform
from raytrain_xai.sweep_config import Axis, GridSearch, OptunaSearch, RandomSearch, Scalar, SweepConfig

Point = dict[str, Scalar]


def grid_points(space: Mapping[str, Axis]) -> list[Point]:
    """Every combination of the values of the axes, the last one changing fastest; one empty point without axes.

    Args:
        space: dotted path -> axis; none is a range.
    """
    assert not any(axis.is_range for axis in space.values())
    combinations = itertools.product(*(axis.values for axis in space.values()))
    return [dict(zip(space, values, strict=True)) for values in combinations]


def drawn_points(space: Mapping[str, Axis], count: int, seed: int) -> list[Point]:
    """Draws of the axes that are no grids, the same ones for every combination of those that are.

    A draw depends on (seed, path, number) alone: more of them leave the first as they are, and so does another axis.
    Ranges that belong to different cases are drawn at equal positions, so that cases are compared on like terms.

    Args:
        space: dotted path -> axis.
        count: draws per combination.
        seed: of the draws.
    Returns:
        ``count`` points for every combination of the grids, in the order of the axes.
    """
    grids = {path: axis for path, axis in space.items() if axis.kind == "grid"}
    others = {path: axis for path, axis in space.items() if axis.kind != "grid"}
    columns = {path: _draw(axis, _positions(path, count, seed)) for path, axis in others.items()}
    draws = [{path: values[number] for path, values in columns.items()} for number in range(count)]
    return [{path: (grid | draw)[path] for path in space} for grid in grid_points(grids) for draw in draws]


def all_points(config: SweepConfig) -> list[Point]:
    """Points of a grid or random search, every case combined with the space; a point that occurs twice is kept once.

    Optuna proposes its own, there are none before it runs.
    """
    spaces = [{**config.space, **case} for case in config.cases or ({},)]
    match config.search:
        case GridSearch():
            found = [point for space in spaces for point in grid_points(space)]
        case RandomSearch(trials=count, seed=seed):
            found = [point for space in spaces for point in drawn_points(space, count, seed)]
        case OptunaSearch():
            found = []
    return list({tuple(sorted(point.items(), key=str)): point for point in found}.values())


def corner_points(space: Mapping[str, Axis]) -> list[Point]:
    """Points that show every value of every list and both ends of every range, one axis moving at a time."""
    first = {path: axis.values[0] for path, axis in space.items()}
    moved = [{**first, path: value} for path, axis in space.items() for value in axis.values[1:]]
    return [first, *moved]


def _positions(path: str, count: int, seed: int) -> list[float]:
    """Uniform in [0, 1)."""
    return uniform(torch.arange(count), seed, zlib.crc32(path.encode())).tolist()


def _draw(axis: Axis, positions: list[float]) -> list[Scalar]:
    if axis.kind in ("grid", "choice"):
        return [axis.values[int(u * len(axis.values))] for u in positions]
    low, high = (_as_number(value) for value in axis.values)
    match axis.kind:
        case "uniform":
            return [low + (high - low) * u for u in positions]
        case "loguniform":
            return [math.exp(math.log(low) + math.log(high / low) * u) for u in positions]
        case _:
            return [int(low + math.floor((high - low + 1) * u)) for u in positions]


def _as_number(value: Any) -> float:
    assert isinstance(value, int | float)
    return value
