"""A sweep in words and few numbers: what was tried, what came of it, and the best setting for every objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from raytrain_xai.report.scales import is_number, value_text
from raytrain_xai.report.sweep_view import ABSENT, SweepView, is_unguided, number, title_of, unit, value_of
from raytrain_xai.report.tables import duration_text
from raytrain_xai.sweeps.repeats import group_repeats
from raytrain_xai.sweeps.table import TrialRow

_STATUSES = (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed"), ("unfinished", "unfinished"))
_MOST_VALUES = 12
_MOST_CONTROLS = 6


@dataclass(frozen=True)
class Setting:
    """Trials that differ in their seed only.

    Attributes:
        reason: why it is listed.
        values: what was set, as text; link to the page of its first trial, None without one.
        cells: objective on the split of comparisons: mean and, with repeats, standard deviation.
        count: number of seeds.
    """

    reason: str
    values: str
    link: str | None
    cells: list[str]
    count: int


def status_text(view: SweepView) -> str:
    """``12 trials: 10 finished, 2 failed; 1 h 05 min of training``."""
    counts = Counter(row.status for row in view.trials)
    parts = ", ".join(f"{counts[status]:,} {name}" for status, name in _STATUSES if counts[status])
    seconds = sum(row.training_s for row in (*view.trials, *view.baselines))
    return f"{len(view.trials):,} trials: {parts}; {duration_text(seconds)} of training"


def swept_texts(view: SweepView) -> list[tuple[str, str]]:
    """Every swept key, and its values, or their range where they are many."""
    return [(key, _values_text(values)) for key, values in view.swept.items()]


def best_settings(view: SweepView) -> list[Setting]:
    """For every objective the setting with the best mean on validation, then what they are compared with."""
    chosen: dict[int, list[str]] = {}
    groups = [repeats.rows for repeats in group_repeats(view.trials)]
    for metric in view.metrics:
        sign = 1 if view.config.objectives[metric] == "max" else -1
        known = [i for i, rows in enumerate(groups) if all(metric in row.val for row in rows)]
        if known:
            best = max(known, key=lambda i: sign * fmean(row.val[metric] for row in groups[i]))
            chosen.setdefault(best, []).append(title_of(metric))
    found = [_setting(view, f"best {' and '.join(names)}", groups[i]) for i, names in chosen.items()]
    controls = [rows for rows in groups if is_unguided(rows[0])]
    if len(controls) <= _MOST_CONTROLS:
        found += [_setting(view, "unguided, trained alike", rows) for rows in controls]
    baselines = [row for row in view.baselines if row.status == "finished"]
    return found + ([_setting(view, "unguided baseline", baselines)] if baselines else [])


def _setting(view: SweepView, reason: str, rows: Sequence[TrialRow]) -> Setting:
    values = [(key, value_of(rows[0], key)) for key in view.swept]
    text = ", ".join(f"{view.labels[key]} {value_text(value)}" for key, value in values if value != ABSENT)
    cells = [
        _mean_text(metric, [row.test if view.split == "test" else row.val for row in rows]) for metric in view.metrics
    ]
    return Setting(reason, "" if rows[0].is_baseline else text, view.links.get(rows[0].id), cells, len(rows))


def _mean_text(metric: str, measured: Sequence[Mapping[str, float]]) -> str:
    values = [own[metric] for own in measured if metric in own]
    if not values:
        return "–"
    mean = number(metric, fmean(values))
    return f"{mean} ± {stdev(values) * unit(metric):.2g}" if len(values) > 1 else mean


def _values_text(values: Sequence[object]) -> str:
    numbers = sorted(float(value) for value in values if isinstance(value, int | float) and is_number(value))
    if len(values) <= _MOST_VALUES:
        return ", ".join(value_text(value) for value in (numbers if len(numbers) == len(values) else values))
    if len(numbers) == len(values):
        return f"{len(values):,} values from {numbers[0]:.3g} to {numbers[-1]:.3g}"
    return f"{len(values):,} values"
