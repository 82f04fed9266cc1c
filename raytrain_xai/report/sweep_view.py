"""What the page of a sweep shows of it: which values were swept, what is coloured by, where the page of a trial is."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from raytrain_xai.report.runs import PAGE
from raytrain_xai.report.scales import value_text
from raytrain_xai.report.tables import AGREEMENT, METRICS
from raytrain_xai.storage import Location, which_exist
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.plan import FRACTION, WEIGHT, get_path, set_path
from raytrain_xai.sweeps.table import PointRow, Sweep, TrialRow

LOSS, DILATION, STRATEGY = "guidance.loss", "guidance.box_dilation", "strategy"
MEASURED_BY = ("guidance.layer", "guidance.attribution")
"""Keys that decide what EPG and IoU are measured on: values of different ones do not compare."""
_COLOURED = (LOSS, STRATEGY)  # in order of preference
_MOST_FACETS = 6
_MOST_GROUPS = 8  # distinct colours
_CONCEPT_METRICS = (
    ("variance_explained", "variance explained"),
    ("l0", "active at a position"),
    ("image_l0", "active in an image"),
    ("carriers", "carry 80 %"),
    ("dead", "never active"),
)
_TITLES = {key: title for key, title, _ in (*METRICS, *AGREEMENT)} | dict(_CONCEPT_METRICS)
_PERCENT = {key for key, _, _ in (*METRICS, *AGREEMENT)} | {"precision", "recall", "variance_explained"}


@dataclass(frozen=True)
class SweepView:
    """A sweep, arranged for its page.

    Attributes:
        config: of the sweep.
        trials: rows that are no baselines.
        baselines: the others.
        points: evaluated checkpoints, by trial.
        swept: key -> its values in order of the plan; only keys with two or more, seeds aside. Besides dotted paths
            there is ``strategy``.
        labels: swept key -> how it is called: its last part, or the whole path where two end alike.
        colour: the swept key that colours tell apart; None when everything has one colour.
        metrics: objectives that at least one trial measured.
        split: where selected checkpoints are compared: test where every finished trial has it, else val.
        links: trial -> address of its page relative to that of the sweep; trials without a page are absent.
    """

    config: SweepConfig
    trials: Sequence[TrialRow]
    baselines: Sequence[TrialRow]
    points: Mapping[str, Sequence[PointRow]]
    swept: Mapping[str, Sequence[Any]]
    labels: Mapping[str, str]
    colour: str | None
    metrics: Sequence[str]
    split: Literal["test", "val"]
    links: Mapping[str, str]

    def groups(self, colour: str | None) -> tuple[str, ...]:
        """Texts of the values of a key, in the order of their colours; of None one for all trials."""
        return ("all trials",) if colour is None else tuple(value_text(value) for value in self.swept[colour])

    def measured(self, row: TrialRow, metric: str) -> float | None:
        """A metric of the selected checkpoint on the split of comparisons, in the unit of its charts."""
        values = row.test if self.split == "test" else row.val
        if metric not in values or (self.split == "val" and row.status != "finished"):
            return None
        return values[metric] * unit(metric)

    def describe(self, row: TrialRow) -> str:
        """Name, swept values and seed of a trial on one line."""
        if row.is_baseline:
            return f"unguided baseline, seed {row.seed}"
        known = [(key, value_of(row, key)) for key in self.swept]
        values = [f"{self.labels[key]} {value_text(value)}" for key, value in known if value != ABSENT]
        return f"{row.id}: {', '.join([*values, f'seed {row.seed}'])}"


ABSENT = "–"
"""Value of a key that a trial does not set, as the keys of one case of the space in the trials of another."""


def view_sweep(sweep: Sweep, target: Location) -> SweepView:
    """Arrange a sweep for a page that is written to ``target``."""
    trials = [row for row in sweep.rows if not row.is_baseline]
    points: dict[str, list[PointRow]] = {}
    for point in sweep.points:
        points.setdefault(point.trial, []).append(point)
    swept = _swept(trials)
    finished = [row for row in trials if row.status == "finished"]
    measured = {name for row in trials for name in (*row.val, *row.test)}
    return SweepView(
        config=sweep.config,
        trials=trials,
        baselines=[row for row in sweep.rows if row.is_baseline],
        points=points,
        swept=swept,
        labels=_labels(list(swept)),
        colour=_colour(swept),
        metrics=[name for name in sweep.config.objectives if name in measured],
        split="test" if finished and all(row.test for row in finished) else "val",
        links=_links(sweep, target),
    )


def position_of(row: TrialRow, colour: str | None, names: Sequence[str]) -> int | None:
    """Position of a trial among the groups of a key; None, the colour of the text, where it does not set the key."""
    if colour is None:
        return 0
    name = value_text(value_of(row, colour))
    return names.index(name) if name in names else None


def value_of(row: TrialRow, key: str) -> Any:
    """What a trial has for a swept key; :data:`ABSENT` when it does not set it."""
    return (row.strategy or ABSENT) if key == STRATEGY else row.values.get(key, ABSENT)


@dataclass(frozen=True)
class Facet:
    """Trials that share the values of some swept keys; ``title`` names these, empty where there are none."""

    title: str
    values: Mapping[str, Any]
    trials: Sequence[TrialRow]


def facets(view: SweepView, trials: Sequence[TrialRow], keys: Sequence[str]) -> list[Facet]:
    """Divide trials by their values of keys; into one without values where these would be more than six."""
    parts: dict[tuple[Any, ...], list[TrialRow]] = {}
    for row in trials:
        parts.setdefault(tuple(value_of(row, key) for key in keys), []).append(row)
    if len(parts) > _MOST_FACETS or not keys:
        return [Facet("", {}, list(trials))]
    return [
        Facet(", ".join(f"{view.labels[key]} {value_text(value)}" for key, value in zip(keys, values, strict=True)),
              dict(zip(keys, values, strict=True)), rows)
        for values, rows in parts.items()
    ]  # fmt: skip


def baselines_like(view: SweepView, facet: Facet) -> list[TrialRow]:
    """Baselines whose explanations are measured as those of a facet: by the same method at the same layer."""
    raw = view.config.model_dump(mode="json")
    base = raw["base"]
    for path, value in {**raw["fixed"], **(raw["baseline"] or {}).get("set", {})}.items():
        set_path(base, path, value)
    alike = all(get_path(base, key) == facet.values[key] for key in MEASURED_BY if key in facet.values)
    if any(key in view.swept and key not in facet.values for key in MEASURED_BY):
        return []  # trials measured in several ways lie in one chart
    return list(view.baselines) if alike else []


def is_unguided(row: TrialRow) -> bool:
    """Whether a trial is the control without guidance."""
    return row.values.get(WEIGHT) == 0


def chooses_nothing(row: TrialRow) -> bool:
    """Whether a trial annotates everything, so that every strategy is the same."""
    return row.values.get(FRACTION) == 1


def unit(metric: str) -> float:
    """100 for shares, which are shown in percent; 1 for others."""
    return 100.0 if metric in _PERCENT or metric.startswith("group_") else 1.0


def title_of(metric: str) -> str:
    """How a metric is called on pages."""
    return _TITLES.get(metric, metric.replace("_", " ")).removesuffix(" ↓")


def axis_title(metric: str, split: str) -> str:
    """A metric at an axis, with unit and split."""
    percent = " in percent" if unit(metric) == 100 else ""
    return f"{title_of(metric)}{percent}, {'test' if split == 'test' else 'validation'}"


def number(metric: str, value: float) -> str:
    """A metric as text: shares in percent with one digit."""
    return f"{100 * value:.1f}" if unit(metric) == 100 else f"{value:.4g}"


def _swept(trials: Sequence[TrialRow]) -> dict[str, tuple[Any, ...]]:
    """Keys with two values or more, and these; a strategy that a trial does not have is none."""
    keys = dict.fromkeys(key for row in trials for key in row.values)
    found = {key: tuple(dict.fromkeys(row.values[key] for row in trials if key in row.values)) for key in keys}
    found[STRATEGY] = tuple(dict.fromkeys(row.strategy for row in trials if row.strategy is not None))
    return {key: values for key, values in found.items() if len(values) > 1}


def _labels(keys: Sequence[str]) -> dict[str, str]:
    ends = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(ends.values())
    return {key: end.replace("_", " ") if counts[end] == 1 else key for key, end in ends.items()}


def _colour(swept: Mapping[str, Sequence[Any]]) -> str | None:
    """The loss, else the strategy, else the first key that takes a few names."""
    names = [key for key, values in swept.items() if all(isinstance(value, str) for value in values)]
    suitable = [key for key in (*_COLOURED, *names) if key in swept and len(swept[key]) <= _MOST_GROUPS]
    return suitable[0] if suitable else None


def _links(sweep: Sweep, target: Location) -> dict[str, str]:
    """Pages of runs that are there, as addresses relative to that of the sweep; none from another place than theirs."""
    base = _relative(sweep.at, target)
    if base is None:
        return {}
    pages = {row.id: f"{row.run}/{PAGE}" for row in sweep.rows if row.run is not None}
    present = which_exist(sweep.at, list(pages.values()))
    return {
        trial: quote(posixpath.normpath(posixpath.join(base, page))) for trial, page in pages.items() if page in present
    }


def _relative(folder: Location, target: Location) -> str | None:
    """Address of a folder as seen from the folder of a page; None between a disk and S3, or two buckets."""
    if folder.filesystem != target.filesystem:
        return None
    return posixpath.relpath(folder.path, posixpath.dirname(target.path))
