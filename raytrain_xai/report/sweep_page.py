"""The page of a sweep: which setting, how many boxes, which images, how coarse; one HTML file, and a link per trial."""

from __future__ import annotations

from dataclasses import dataclass

from raytrain_xai import __version__
from raytrain_xai.config import dump_config
from raytrain_xai.report.curves import colour_of
from raytrain_xai.report.pages import page_environment
from raytrain_xai.report.runs import PAGE
from raytrain_xai.report.sweep_budget import BudgetTable, build_budgets
from raytrain_xai.report.sweep_curves import Sensitivity, build_sensitivity
from raytrain_xai.report.sweep_parallel import build_parallel
from raytrain_xai.report.sweep_planes import build_planes
from raytrain_xai.report.sweep_rows import table_json
from raytrain_xai.report.sweep_summary import best_settings, status_text, swept_texts
from raytrain_xai.report.sweep_view import (
    DILATION,
    LOSS,
    STRATEGY,
    SweepView,
    is_unguided,
    position_of,
    title_of,
    view_sweep,
)
from raytrain_xai.storage import locate, write_bytes
from raytrain_xai.sweeps.gather import open_sweep
from raytrain_xai.sweeps.plan import FRACTION, WEIGHT
from raytrain_xai.sweeps.table import Sweep, TrialRow

_WEIGHT_TEXT = (
    "Too small a weight changes nothing, too large a one costs classification; a loss that keeps its gain over a wide "
    "range of weights needs less tuning."
)
_BUDGET_TEXT = (
    "How much of the gain is left when only a share of the training images is annotated. Budgets are nested: at one "
    "seed the images of a small one are part of every larger one."
)
_DILATION_TEXT = (
    "Every side of a training box was moved out by this share of its width or height, as hasty annotators would draw "
    "it; EPG and IoU are measured with the true boxes."
)
_STRATEGY_TEXT = (
    "Which images are annotated under the same budget. Strategies other than random and class balanced ask the "
    "unguided baseline."
)
_ALL_TEXT = "Where every image is annotated they are the same, so all curves end there."
_MOST_NAMED = 12  # trials of one error


@dataclass(frozen=True)
class Section:
    """Charts of one swept value, with a heading of its own; ``is_key`` says that the heading is its dotted path."""

    title: str
    text: str
    sensitivity: Sensitivity
    legend: list[dict[str, str]]
    budgets: BudgetTable | None
    is_key: bool = False


@dataclass(frozen=True)
class Failure:
    """An error, and the trials that ended with it: how many, and the first of them with their pages."""

    error: str
    count: int
    trials: list[tuple[str, str | None]]


def write_sweep_report(sweep: str | Sweep, out: str | None = None) -> str:
    """Write the page of a sweep, finished or not.

    Args:
        sweep: address of its folder, whose tables are read; or a sweep that was read already.
        out: file to write, local or s3://; by default ``report.html`` in the folder of the sweep. Links to the pages of
            trials are relative, and left out where the page is on another filesystem than the sweep.
    Returns:
        Address of the page.
    Raises:
        ConfigError: no sweep at this address.
        CheckpointError: a file of it is damaged.
        DataError: the page cannot be written.
    """
    opened = open_sweep(sweep) if isinstance(sweep, str) else sweep
    target = opened.at.child(PAGE) if out is None else locate(out)
    write_bytes(target, render_sweep(view_sweep(opened, target)).encode())
    return target.uri


def render_sweep(view: SweepView) -> str:
    """The page as text."""
    return page_environment().get_template("sweep.html.j2").render(
        title=view.config.name,
        version=__version__,
        about=status_text(view),
        swept=swept_texts(view),
        search=view.config.search.kind,
        scheduler=view.config.scheduler.kind,
        seeds=view.config.seeds,
        split=view.split,
        metrics=[title_of(metric) for metric in view.metrics],
        best=best_settings(view),
        planes=build_planes(view),
        legend=_legend(view, view.colour),
        colour=None if view.colour is None else view.labels[view.colour],
        has_unguided=any(row.is_baseline or is_unguided(row) for row in (*view.baselines, *view.trials)),
        sections=_sections(view),
        parallel=build_parallel(view),
        table=table_json(view),
        statuses=list(dict.fromkeys(row.status for row in view.trials)),
        failures=_failures(view),
        config=dump_config(view.config),
    )  # fmt: skip


def _sections(view: SweepView) -> list[Section]:
    """What the paper asks, where it was swept; then every other swept value but the one that colours tell apart."""
    by_strategy = STRATEGY in view.swept
    loss = LOSS if LOSS in view.swept else view.colour
    which = f"{_BUDGET_TEXT} {_STRATEGY_TEXT} {_ALL_TEXT}"
    asked = [
        (WEIGHT, "How strong: the weight", _WEIGHT_TEXT, loss),
        (FRACTION, "How many boxes, and which" if by_strategy else "How many boxes",
         which if by_strategy else _BUDGET_TEXT, STRATEGY if by_strategy else loss),
        (DILATION, "How coarse may the boxes be", _DILATION_TEXT, loss),
        # over several budgets, strategies are compared in the section of these
        (STRATEGY, "Which images to annotate", _STRATEGY_TEXT, LOSS if LOSS in view.swept else None),
    ]  # fmt: skip
    asked = [one for one in asked if one[0] in view.swept and not (one[0] == STRATEGY and FRACTION in view.swept)]
    shown = {view.colour, STRATEGY, *(key for key, *_ in asked)}
    asked += [(key, key, "", view.colour) for key in view.swept if key not in shown]
    if not asked and view.colour is not None:
        asked = [(view.colour, view.colour, "", None)]
    found: list[Section] = []
    for key, title, text, colour in asked:
        drawn = build_sensitivity(view, key, None if colour == key else colour)
        if drawn is not None:
            said = f"{text} {_reading(view, drawn)}".strip()
            budgets = build_budgets(view) if key == FRACTION else None
            found.append(Section(title, said, drawn, _legend(view, drawn.colour), budgets, is_key=key == title))
    return found


def _reading(view: SweepView, drawn: Sensitivity) -> str:
    """What points, lines, bands and the dashed line of a section are."""
    texts = ["Every point is the selected checkpoint of a trial, and opens its page."]
    if drawn.is_joined and len(view.config.seeds) > 1:
        means, intervals = ("Dashes are", "upright lines") if drawn.is_named else ("Lines join", "bands")
        texts.append(f"{means} means over seeds, {intervals} their 95 % confidence intervals (Student's t).")
    elif drawn.is_joined:
        texts.append("One seed: how far a point may be off by chance is not known.")
    else:
        texts.append("Points also differ in other swept values, so they are not joined.")
    if drawn.has_level:
        texts.append("Dashed: unguided.")
    return " ".join(texts)


def _failures(view: SweepView) -> list[Failure]:
    """Errors, the most frequent first."""
    parts: dict[str, list[TrialRow]] = {}
    for row in view.trials:
        if row.status == "failed":
            parts.setdefault(row.error or "no reason was recorded", []).append(row)
    named = {error: [(row.id, view.links.get(row.id)) for row in rows[:_MOST_NAMED]] for error, rows in parts.items()}
    return sorted((Failure(e, len(parts[e]), trials) for e, trials in named.items()), key=lambda one: -one.count)


def _legend(view: SweepView, colour: str | None) -> list[dict[str, str]]:
    """Groups with their colours; then what trials that set no such value are, in the colour of the text."""
    if colour is None:
        return []
    names = view.groups(colour)
    legend = [{"label": name, "colour": colour_of(position)} for position, name in enumerate(names)]
    if any(position_of(row, colour, names) is None and not is_unguided(row) for row in view.trials):
        rest = "every image annotated" if colour == STRATEGY else f"{view.labels[colour]} not set"
        legend.append({"label": rest, "colour": "currentColor"})
    return legend
