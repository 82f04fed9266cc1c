"""What a report knows about a finished run, read from its folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import CONFIG, LOG, METRICS, PARETO, open_run, read_config, read_json
from raytrain_xai.storage import Location, exists, read_bytes

Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        at: its folder.
        label: name shown on the page, different for every run of a report.
        config: resolved configuration.
        final: content of ``metrics.json``: ``val``, ``selected``, ``iou_threshold`` and, with a test split, ``test``.
        log: records of ``metrics.jsonl``, in order.
        evaluated: points of ``pareto.json``: validation metrics of every evaluation, and whether it is on the front.
    """

    at: Location
    label: str
    config: RunConfig
    final: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    evaluated: Sequence[Mapping[str, Any]]

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
        times: dict[int, list[float]] = {}
        for record in self.log:
            times.setdefault(record["attempt"], []).append(record["time"])
        return sum(max(own) - min(own) for own in times.values())


def read_runs(uris: Sequence[str]) -> list[RunRecord]:
    """Read runs (local or s3://) for one report.

    Raises:
        ConfigError: none given, not a run folder, or a run given twice.
        CheckpointError: a run is not finished, or a file of it is damaged.
    """
    if not uris:
        raise ConfigError("no run given; name one run folder or more")
    runs = [_read_run(open_run(uri)) for uri in uris]
    twice = [path for path, count in Counter(run.at.path for run in runs).items() if count > 1]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given more than once; name every run once")
    names = Counter(run.label for run in runs)
    return [run if names[run.label] == 1 else replace(run, label=f"{run.label} ({run.at.uri})") for run in runs]


def differences(configs: Sequence[RunConfig]) -> list[tuple[str, list[str]]]:
    """Dotted keys with differing values (the name aside), with the text of the value in every configuration."""
    flat = [dict(_flatten(config.model_dump(mode="json"))) for config in configs]
    rows = [(key, [_text(values[key]) for values in flat]) for key in flat[0] if key != "name"]
    return [(key, texts) for key, texts in rows if len(set(texts)) > 1]


def _read_run(at: Location) -> RunRecord:
    if not exists(at.child(METRICS)):
        raise CheckpointError(
            f"{at.uri} is not finished (no {METRICS}); continue it with `raytrain-xai resume {at.uri}`"
        )
    config = parse_config(read_config(at), source=at.child(CONFIG).uri)
    return RunRecord(
        at=at,
        label=config.name,
        config=config,
        final=read_json(at.child(METRICS)),
        log=_read_log(at.child(LOG)),
        evaluated=read_json(at.child(PARETO))["points"],
    )


def _read_log(at: Location) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(read_bytes(at).decode(errors="replace").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise CheckpointError(f"{at.uri} is damaged: line {number} is not valid JSON") from error
    return records


def _flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: object) -> str:
    return "–" if value is None else str(value)
