"""What a report knows about a finished run, read from its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import RunConfig, parse_concept_config, parse_config, parse_job
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import (
    CONFIG,
    METRICS,
    PARETO,
    logged_seconds,
    open_run,
    read_config,
    read_json,
    read_log,
)
from raytrain_xai.sections import Section
from raytrain_xai.storage import Location, exists, locate

PAGE = "report.html"

Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class FinishedRun:
    """What every kind of finished run has.

    Attributes:
        at: its folder.
        label: name shown on the page, different for every run of a report.
        final: content of ``metrics.json``: ``val``, ``selected``, ``iou_threshold`` and, with a test split, ``test``.
        log: records of ``metrics.jsonl``, in order.
    """

    at: Location
    label: str
    final: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]

    def validation_curve(self, metric: str) -> Points:
        """Epochs done and values of a validation metric, where it was measured."""
        epochs = [record for record in self.log if record["kind"] == "epoch"]
        measured = [record for record in epochs if metric in record["val"]]
        return [float(record["epoch"]) for record in measured], [record["val"][metric] for record in measured]

    def training_curve(self, quantity: str) -> Points:
        """Epochs done (fractions of them) and values of a training quantity, at every logged step that has it."""
        selected = self.final["selected"]
        steps_per_epoch = selected["step"] / selected["epoch"]
        logged = [record for record in self.log if record["kind"] == "step" and quantity in record]
        return [record["step"] / steps_per_epoch for record in logged], [record[quantity] for record in logged]

    def training_s(self) -> float:
        """Seconds from the first to the last record of every attempt, added up: training and validation."""
        return logged_seconds(self.log)


@dataclass(frozen=True)
class RunRecord(FinishedRun):
    """A finished run of a classifier.

    Attributes:
        config: resolved configuration.
        evaluated: points of ``pareto.json``: validation metrics of every evaluation, and whether it is on the front.
    """

    config: RunConfig
    evaluated: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ConceptRecord(FinishedRun):
    """A finished concept run; its ``final`` has ``before`` and ``dictionary`` as well.

    Attributes:
        config: resolved configuration.
    """

    config: ConceptRunConfig


Finished = TypeVar("Finished", bound=FinishedRun)


def kind_of(uri: str) -> str:
    """``job`` of a run: classify or concepts.

    Raises:
        ConfigError: not a run folder.
    """
    at = open_run(uri)
    return parse_job(read_config(at), source=at.child(CONFIG).uri).job


def check_pages(uris: Sequence[str]) -> None:
    """Check that there are pages about runs of these kinds.

    Raises:
        ConfigError: not a run folder, or a run of an encoder, of its concepts or of captions.
    """
    without = [uri for uri in uris if not has_page(uri)]
    if without:
        raise ConfigError(
            f"there is no page about {without[0]}, only about classifiers and concepts in their networks; its numbers "
            f"are in {METRICS}, its course is in tensorboard/"
        )


def has_page(uri: str) -> bool:
    """Whether the report knows runs of this kind: classifiers, and concepts in their networks."""
    at = open_run(uri)
    return isinstance(parse_job(read_config(at), source=at.child(CONFIG).uri), RunConfig | ConceptRunConfig)


def read_runs(uris: Sequence[str]) -> list[RunRecord]:
    """Read runs (local or s3://) for one report.

    Raises:
        ConfigError: none given, not a run folder, or a run given twice.
        CheckpointError: a run is not finished, or a file of it is damaged.
    """
    return _distinct([_read_run(open_run(uri)) for uri in uris])


def read_concept_runs(uris: Sequence[str]) -> list[ConceptRecord]:
    """Read concept runs for one report; see :func:`read_runs`."""
    return _distinct([_read_concept_run(open_run(uri)) for uri in uris])


def page_target(runs: Sequence[FinishedRun], out: str | None) -> Location:
    """Where the page goes: ``out``, or ``report.html`` in the folder of a single run, else in the current directory."""
    if out is not None:
        return locate(out)
    return runs[0].at.child(PAGE) if len(runs) == 1 else locate(PAGE)


def differences(configs: Sequence[Section]) -> list[tuple[str, list[str]]]:
    """Dotted keys with differing values (the name aside), with the text of the value in every configuration."""
    flat = [dict(_flatten(config.model_dump(mode="json"))) for config in configs]
    keys = dict.fromkeys(key for values in flat for key in values if key != "name")
    rows = [(key, [_text(values.get(key)) for values in flat]) for key in keys]
    return [(key, texts) for key, texts in rows if len(set(texts)) > 1]


def _distinct(runs: Sequence[Finished]) -> list[Finished]:
    """Runs that are all different, under labels that are."""
    if not runs:
        raise ConfigError("no run given; name one run folder or more")
    twice = [path for path, count in Counter(run.at.path for run in runs).items() if count > 1]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given more than once; name every run once")
    names = Counter(run.label for run in runs)
    return [run if names[run.label] == 1 else replace(run, label=f"{run.label} ({run.at.uri})") for run in runs]


def _read_run(at: Location) -> RunRecord:
    final = _final(at)
    config = parse_config(read_config(at), source=at.child(CONFIG).uri)
    points = read_json(at.child(PARETO))["points"]
    return RunRecord(at, config.name, final, read_log(at), config, points)


def _read_concept_run(at: Location) -> ConceptRecord:
    final = _final(at)
    config = parse_concept_config(read_config(at), source=at.child(CONFIG).uri)
    if "before" not in final:
        raise ConfigError(f"{at.uri} was not trained here: its dictionary was imported, there is nothing to report")
    return ConceptRecord(at, config.name, final, read_log(at), config)


def _final(at: Location) -> dict[str, Any]:
    if not exists(at.child(METRICS)):
        raise CheckpointError(
            f"{at.uri} is not finished (no {METRICS}); continue it with `raytrain-xai resume {at.uri}`"
        )
    return read_json(at.child(METRICS))


def _flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: object) -> str:
    return "–" if value is None else str(value)
