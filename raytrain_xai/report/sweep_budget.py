"""The smallest share of annotated images that is enough, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from raytrain_xai.report.scales import number_text, value_text
from raytrain_xai.report.sweep_view import STRATEGY, SweepView, is_unguided, number, title_of, unit
from raytrain_xai.sweeps.budget import MARGIN, EnoughBudget, enough_budgets
from raytrain_xai.sweeps.plan import FRACTION
from raytrain_xai.sweeps.repeats import group_repeats


@dataclass(frozen=True)
class BudgetTable:
    """What is enough to stay within one point of full annotation.

    Attributes:
        metrics: headings.
        rows: name of a setting, and per metric (smallest budget, its bounds, metric with full annotation) as texts.
    """

    metrics: list[str]
    rows: list[tuple[str, list[tuple[str, str, str]]]]


def build_budgets(view: SweepView) -> BudgetTable | None:
    """Of every objective that is a share; None where no budget can be compared with full annotation."""
    repeats = group_repeats([row for row in view.trials if not is_unguided(row)])
    metrics = [metric for metric in view.metrics if unit(metric) == 100]
    cells: dict[str, dict[str, tuple[str, str, str]]] = {}
    for metric in metrics:
        direction = view.config.objectives[metric]
        for found in enough_budgets(repeats, metric, direction, split=view.split, margin=MARGIN):
            cells.setdefault(_name(view, found), {})[metric] = _cell(found, metric)
    shown = [metric for metric in metrics if any(metric in own for own in cells.values())]
    rows = [(name, [own.get(metric, ("–", "", "")) for metric in shown]) for name, own in cells.items()]
    return BudgetTable([title_of(metric) for metric in shown], rows) if rows else None


def _name(view: SweepView, found: EnoughBudget) -> str:
    values = [value_text(value) for key, value in found.values.items() if key in view.swept]
    strategy = [found.strategy.replace("_", " ")] if found.strategy is not None and STRATEGY in view.swept else []
    return ", ".join([*values, *strategy]) or "all trials"


def _cell(found: EnoughBudget, metric: str) -> tuple[str, str, str]:
    bounds = ""
    if found.possible is not None and found.certain is not None:
        bounds = f"{number_text(FRACTION, found.possible)} to {number_text(FRACTION, found.certain)}"
    return number_text(FRACTION, found.smallest), bounds, number(metric, found.full.mean)
