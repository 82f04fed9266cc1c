"""Trials that differ in their seed only, taken together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

from raytrain_xai.sweep_config import Scalar
from raytrain_xai.sweeps.table import TrialRow

Split = Literal["val", "test"]

# 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class Stat:
    """Mean of repeated measurements.

    Attributes:
        mean: of n values.
        sd: standard deviation of the values (n - 1 in the denominator); None for a single one.
        n: number of values.
    """

    mean: float
    sd: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean, by Student's t; None for a single value."""
        if self.sd is None:
            return None
        reach = student_quantile(self.n - 1) * self.sd / math.sqrt(self.n)
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True)
class Repeats:
    """Finished trials of one point and strategy.

    Attributes:
        values: dotted path -> value.
        strategy: None for the seeded draw.
        rows: one per seed, by seed.
    """

    values: Mapping[str, Scalar]
    strategy: str | None
    rows: tuple[TrialRow, ...]

    def by_seed(self, split: Split, metric: str) -> dict[int, float]:
        """Seed -> metric, of the trials that have it."""
        metrics = ((row.seed, row.val if split == "val" else row.test) for row in self.rows)
        return {seed: own[metric] for seed, own in metrics if metric in own}

    def stat(self, split: Split, metric: str) -> Stat | None:
        """Mean over seeds; None where no trial has the metric."""
        values = list(self.by_seed(split, metric).values())
        return stat_of(values) if values else None


def group_repeats(rows: Sequence[TrialRow]) -> tuple[Repeats, ...]:
    """Finished trials by values and strategy, in the order of the first of each; baselines are left out."""
    groups: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row.status == "finished" and not row.is_baseline:
            key = json.dumps([dict(row.values), row.strategy], sort_keys=True)
            groups.setdefault(key, []).append(row)
    return tuple(
        Repeats(own[0].values, own[0].strategy, tuple(sorted(own, key=lambda row: row.seed))) for own in groups.values()
    )


def stat_of(values: Sequence[float]) -> Stat:
    """Statistics of one value or more."""
    return Stat(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def student_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t: a table up to 10 degrees of freedom, beyond them an expansion right to .0002.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, three terms in 1 / degrees.
    """
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
