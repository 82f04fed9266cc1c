"""The trials of a sweep as the rows of a table that the page can sort and filter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raytrain_xai.report.scales import is_number, value_text
from raytrain_xai.report.sweep_view import ABSENT, SweepView, title_of, unit, value_of
from raytrain_xai.report.tables import METRICS
from raytrain_xai.sweeps.table import TrialRow

_DIGITS = 4  # of the values, significant ones


@dataclass(frozen=True)
class Column:
    """A column: its heading, ``text`` or ``number`` or nothing for its style, and the decimals of its numbers."""

    label: str
    kind: str = ""
    digits: int | None = None


def table_json(view: SweepView) -> str:
    """``{columns, rows}`` for the script of the page; safe inside a ``<script>`` element.

    Columns: trial, status, the swept values, seed, metrics on test, objectives on validation, epochs, minutes, error.
    """
    on_test = [name for name, _, _ in METRICS if any(name in row.test for row in view.trials)]
    on_test = [*(name for name in view.metrics if name not in on_test), *on_test]
    on_test = [name for name in on_test if any(name in row.test for row in view.trials)]
    columns = [Column("trial"), Column("status"), *(Column(view.labels[key], _kind(view, key)) for key in view.swept)]
    columns += [Column("seed", "number")]
    columns += [Column(_heading(name, "test"), "number", _decimals(name)) for name in on_test]
    columns += [Column(_heading(name, "val"), "number", _decimals(name)) for name in view.metrics]
    columns += [Column("epochs", "number"), Column("training, min", "number", 1), Column("error", "text")]
    rows = [[*_cells(view, row, on_test), view.links.get(row.id)] for row in (*view.baselines, *view.trials)]
    heads = [{name: value for name, value in vars(column).items() if value is not None} for column in columns]
    text = json.dumps({"columns": heads, "rows": rows}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")  # no end of the script inside a name or an error


def _cells(view: SweepView, row: TrialRow, on_test: Sequence[str]) -> list[Any]:
    status = "baseline" if row.is_baseline and row.status == "finished" else row.status
    swept = [_cell(value_of(row, key)) for key in view.swept]
    test = [_metric(row.test.get(name), name) for name in on_test]
    val = [_metric(row.val.get(name), name) for name in view.metrics]
    return [row.id, status, *swept, row.seed, *test, *val, row.epochs, round(row.training_s / 60, 2), row.error]


def _cell(value: Any) -> Any:
    if value == ABSENT:
        return None
    return (
        float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value if is_number(value) else value_text(value)
    )


def _metric(value: float | None, name: str) -> float | None:
    return None if value is None else round(value * unit(name), _decimals(name) + 1)


def _decimals(metric: str) -> int:
    return 1 if unit(metric) == 100 else 3


def _heading(metric: str, split: str) -> str:
    return f"{title_of(metric)}, {'test' if split == 'test' else 'val'}"


def _kind(view: SweepView, key: str) -> str:
    return "number" if all(is_number(value) for value in view.swept[key]) else ""
