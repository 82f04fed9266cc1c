"""How much annotation is enough: the smallest budget that comes within a margin of full annotation, and how surely."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raytrain_xai.sweep_config import Direction, Scalar
from raytrain_xai.sweeps.plan import FRACTION
from raytrain_xai.sweeps.repeats import Repeats, Split, Stat, stat_of

MARGIN = 0.01  # one percentage point


@dataclass(frozen=True)
class EnoughBudget:
    """What a budget curve says about one loss (or whatever else is varied) and strategy.

    Attributes:
        values: dotted path -> value of what is varied besides the budget.
        strategy: None for the seeded draw.
        full: metric with all images annotated.
        gaps: fraction -> by how much full annotation is better, paired by seed; below 0 where it is worse. Ascending;
            the last one is fraction 1 with a gap of 0.
        smallest: smallest fraction from which on no mean gap exceeds the margin.
        possible: smallest fraction whose gap may be within the margin, by the lower end of its 95 % interval.
        certain: smallest fraction from which on all gaps are within it, by the upper ends. ``possible`` and ``certain``
            are None without repeats: a single seed says nothing about chance.
    """

    values: Mapping[str, Scalar]
    strategy: str | None
    full: Stat
    gaps: Mapping[float, Stat]
    smallest: float
    possible: float | None
    certain: float | None


def enough_budgets(
    repeats: Sequence[Repeats], metric: str, direction: Direction = "max", *, split: Split = "test",
    margin: float = MARGIN,
) -> tuple[EnoughBudget, ...]:  # fmt: skip
    """One answer for every combination of the other values and strategy that was trained with all images annotated.

    With all images annotated a strategy has nothing to choose; that point counts for all of them.

    Args:
        repeats: of a sweep over ``guidance.annotated_fraction``.
        metric: to be kept.
        direction: whether higher or lower is better.
        split: on which it was measured.
        margin: what may be lost, in units of the metric.
    """
    curves: dict[str, dict[float, Repeats]] = {}
    fulls: dict[str, Repeats] = {}
    for own in repeats:
        fraction = own.values.get(FRACTION)
        if isinstance(fraction, int | float) and own.by_seed(split, metric):
            rest = json.dumps({key: value for key, value in own.values.items() if key != FRACTION}, sort_keys=True)
            if fraction == 1:
                fulls[rest] = own
            else:
                curves.setdefault(json.dumps([rest, own.strategy]), {})[float(fraction)] = own
    found: list[EnoughBudget] = []
    for key, curve in curves.items():
        rest, strategy = json.loads(key)
        if rest in fulls:
            found.append(_answer(json.loads(rest), strategy, curve, fulls[rest], (metric, direction, split, margin)))
    return tuple(found)


def _answer(
    values: Mapping[str, Scalar], strategy: str | None, curve: Mapping[float, Repeats], full: Repeats,
    asked: tuple[str, Direction, Split, float],
) -> EnoughBudget:  # fmt: skip
    metric, direction, split, margin = asked
    sign = 1 if direction == "max" else -1
    top = full.by_seed(split, metric)
    gaps: dict[float, Stat] = {}
    for fraction in sorted(curve):
        own = curve[fraction].by_seed(split, metric)
        paired = [sign * (top[seed] - own[seed]) for seed in sorted(top.keys() & own.keys())]
        if paired:
            gaps[fraction] = stat_of(paired)
    gaps[1.0] = stat_of([0.0] * len(top))
    intervals = {fraction: gap.interval for fraction, gap in gaps.items()}
    lows = {fraction: ends[0] for fraction, ends in intervals.items() if ends is not None}
    highs = {fraction: ends[1] for fraction, ends in intervals.items() if ends is not None}
    is_known = len(highs) == len(gaps)
    return EnoughBudget(
        values,
        strategy,
        stat_of(list(top.values())),
        gaps,
        smallest=_from_which_on({fraction: gap.mean for fraction, gap in gaps.items()}, margin),
        possible=min(fraction for fraction, low in lows.items() if low <= margin) if is_known else None,
        certain=_from_which_on(highs, margin) if is_known else None,
    )


def _from_which_on(gaps: Mapping[float, float], margin: float) -> float:
    """Smallest fraction from which on all gaps are within the margin; that of full annotation is 0."""
    enough = 1.0
    for fraction in sorted(gaps, reverse=True):
        if gaps[fraction] > margin:
            break
        enough = fraction
    return enough
