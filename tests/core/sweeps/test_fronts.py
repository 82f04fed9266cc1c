"""Pareto fronts of trials and of checkpoints, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain_xai.config import validated
from raytrain_xai.storage import locate
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.fronts import front_rows, sweep_fronts
from raytrain_xai.sweeps.table import PointRow, Sweep, TrialRow


def row(name: str, loss: str | None, val: Mapping[str, float], status: str = "finished", **more: Any) -> TrialRow:
    return TrialRow(
        name, status, 0, None, {} if loss is None else {"guidance.loss": loss}, val, {}, None, 1, 0.0, 0.0, **more
    )


def swept(rows: list[TrialRow], points: list[PointRow], **objectives: str) -> Sweep:
    config = validated(SweepConfig, {"name": "s", "base": {}, "objectives": objectives}, "sweep")
    return Sweep(locate("s"), config, rows, points)


def test_points_are_compared_as_they_are_unless_rounded() -> None:
    points = [[0.5, 0.5], [0.501, 0.5], [0.4, 0.6], [0.4, 0.6]]
    assert front_rows(points) == [False, True, True, False]
    assert front_rows(points, 0.005) == [True, False, True, False]
    assert front_rows([]) == []


def test_every_value_has_a_front_and_lower_is_better_where_it_says_so() -> None:
    rows = [
        row("b", None, {"f1": 1, "dead": 0}, is_baseline=True),
        row("1", "l1", {"f1": 0.5, "dead": 9}),
        row("2", "l1", {"f1": 0.5, "dead": 3}),
        row("3", "energy", {"f1": 0.1, "dead": 99}),
        row("4", "l1", {"f1": 0.9, "dead": 0}, status="stopped"),
        row("5", "energy", {"dead": 1}),
    ]
    points = [
        PointRow("b", 1, 1, {"f1": 1, "dead": 0}, is_selected=True),
        PointRow("1", 1, 1, {"f1": 0.6, "dead": 9}, is_selected=False),
        PointRow("4", 1, 1, {"f1": 0.6, "dead": 8}, is_selected=False),
        PointRow("4", 2, 2, {"f1": 0.7, "dead": 9}, is_selected=False),
        PointRow("5", 2, 2, {"dead": 1}, is_selected=False),
    ]
    fronts = sweep_fronts(swept(rows, points, f1="max", dead="min"), by="guidance.loss")
    assert [(front.value, front.trials, front.checkpoints) for front in fronts] == [
        ("l1", ("2",), (("4", 1), ("4", 2))), ("energy", ("3",), ()),
    ]  # fmt: skip
    together = sweep_fronts(swept(rows, points, f1="max", dead="min"))
    assert [(front.value, front.trials) for front in together] == [(None, ("2",))]
