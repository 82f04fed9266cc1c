"""Repeats over seeds, and the smallest budget that is enough, with numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raytrain_xai.sweeps.budget import enough_budgets
from raytrain_xai.sweeps.repeats import Stat, group_repeats, stat_of, student_quantile
from raytrain_xai.sweeps.table import TrialRow


def row(seed: int, f1: float | None, strategy: str | None = None, status: str = "finished", **values: Any) -> TrialRow:
    named = {f"guidance.{key}": value for key, value in values.items()}
    test = {} if f1 is None else {"f1": f1, "dead": -f1}
    return TrialRow(f"{seed}", status, seed, strategy, named, {"f1": 0.5}, test, None, 1, 0.0, 0.0)


def curve(strategy: str | None = None, **columns: list[float]) -> list[TrialRow]:
    """f1 by seed for fractions named as percent: p10=[...]."""
    return [
        row(seed, f1, None if name == "p100" else strategy, annotated_fraction=int(name[1:]) / 100)
        for name, values in columns.items()
        for seed, f1 in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (11, 2.2010), (20, 2.0860), (100, 1.9840)]
)
def test_quantiles_of_student(degrees: int, expected: float) -> None:
    assert student_quantile(degrees) == pytest.approx(expected, abs=2e-4)


def test_statistics_of_repeats() -> None:
    stat = stat_of([0.1, 0.2, 0.3])
    assert stat == Stat(pytest.approx(0.2), pytest.approx(0.1), 3)
    reach = 4.3027 * 0.1 / math.sqrt(3)
    assert stat.interval == pytest.approx((0.2 - reach, 0.2 + reach), abs=1e-4)
    assert stat_of([0.4]) == Stat(0.4, None, 1) and stat_of([0.4]).interval is None


def test_rows_that_differ_in_seed_are_one_group() -> None:
    rows = [
        row(2, 0.3, weight=1), row(0, 0.1, weight=1), row(0, 0.5, weight=2), row(1, 0.9, weight=1, status="failed"),
        row(1, None, weight=1), row(0, 0.7, "random", weight=1),
    ]  # fmt: skip
    groups = group_repeats(rows)
    assert [(group.values["guidance.weight"], group.strategy, [r.seed for r in group.rows]) for group in groups] == [
        (1, None, [0, 1, 2]), (2, None, [0]), (1, "random", [0]),
    ]  # fmt: skip
    assert groups[0].by_seed("test", "f1") == {0: 0.1, 2: 0.3}
    assert groups[0].by_seed("val", "f1") == {0: 0.5, 1: 0.5, 2: 0.5}
    assert groups[0].stat("test", "f1") == Stat(pytest.approx(0.2), pytest.approx(math.sqrt(0.02)), 2)
    assert groups[0].stat("test", "epg") is None


def test_smallest_budget_within_a_point() -> None:
    rows = curve(p1=[0.70, 0.71, 0.72], p5=[0.795, 0.79, 0.80], p20=[0.80, 0.80, 0.80], p100=[0.80, 0.795, 0.805])
    (answer,) = enough_budgets(group_repeats(rows), "f1")
    assert answer.full.mean == pytest.approx(0.80) and answer.values == {} and answer.strategy is None
    assert {f: round(gap.mean, 6) for f, gap in answer.gaps.items()} == {0.01: 0.09, 0.05: 0.005, 0.2: 0.0, 1.0: 0.0}
    assert answer.smallest == 0.05
    # gaps at 5 %: .005, .005, .005, no spread: certain; at 20 %: 0, -.005, .005, sd .005, +- .0124: not certain
    assert answer.certain == 1.0 and answer.possible == 0.05


def test_a_budget_counts_from_which_on_all_are_enough() -> None:
    (dip,) = enough_budgets(group_repeats(curve(p1=[0.795], p5=[0.7], p20=[0.795], p100=[0.8])), "f1")
    assert dip.smallest == 0.2  # 1 % is within a point, 5 % is not
    assert dip.certain is None and dip.possible is None  # one seed says nothing about chance
    (lower,) = enough_budgets(group_repeats(curve(p5=[0.9, 0.9], p100=[0.8, 0.8])), "f1")
    assert (lower.smallest, lower.possible, lower.certain) == (0.05, 0.05, 0.05)  # better than all annotations
    (worse,) = enough_budgets(group_repeats(curve(p5=[0.9, 0.9], p100=[0.8, 0.8])), "dead", "max")
    assert worse.smallest == 1.0
    (fewer,) = enough_budgets(group_repeats(curve(p5=[0.9, 0.9], p100=[0.8, 0.8])), "dead", "min")
    assert fewer.smallest == 0.05


def test_strategies_share_full_annotation_and_other_values_do_not() -> None:
    rows = curve("random", p10=[0.7], p100=[0.8]) + curve("k_centre", p10=[0.795])
    rows += [row(0, 0.6, loss="l1", annotated_fraction=0.1), row(0, 0.6, loss="rrr", annotated_fraction=0.1)]
    rows += [row(0, 0.6, loss="l1", annotated_fraction=1.0)]
    answers = enough_budgets(group_repeats(rows), "f1")
    assert [(a.values, a.strategy, a.smallest) for a in answers] == [
        ({}, "random", 1.0), ({}, "k_centre", 0.1), ({"guidance.loss": "l1"}, None, 0.1),
    ]  # fmt: skip
    assert enough_budgets(group_repeats(rows), "epg") == ()
