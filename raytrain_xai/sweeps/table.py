"""The results of a sweep: one row per trial, one point per evaluated checkpoint; gathered from run folders, or stored.

``trials.parquet`` has the columns trial, status, seed, strategy, run, epochs, training_s, seconds, error, is_baseline,
values (JSON), then a column for every dotted path, ``val/<metric>`` and ``test/<metric>``, with nulls where a trial has
none; ``points.parquet`` has trial, step, epoch, is_selected and ``val/<metric>``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain_xai.errors import CheckpointError
from raytrain_xai.storage import Location, read_bytes, write_bytes
from raytrain_xai.sweep_config import Scalar, SweepConfig

ROWS, POINTS = "trials.parquet", "points.parquet"
_VERSION_KEY, _VERSION = b"raytrain_xai.sweep", b"1"
_ROW_TYPES = {
    "trial": pa.string(), "status": pa.string(), "seed": pa.int64(), "strategy": pa.string(), "run": pa.string(),
    "epochs": pa.int64(), "training_s": pa.float64(), "seconds": pa.float64(), "error": pa.string(),
    "is_baseline": pa.bool_(), "values": pa.string(),
}  # fmt: skip
_POINT_TYPES = {"trial": pa.string(), "step": pa.int64(), "epoch": pa.int64(), "is_selected": pa.bool_()}


@dataclass(frozen=True)
class TrialRow:
    """What became of a trial, or of a baseline.

    Attributes:
        id: of the trial; ``baseline/s<seed>`` of a baseline.
        status: finished, stopped, failed, or unfinished.
        seed: of its run.
        strategy: as of the trial's specification.
        values: dotted path -> value.
        val, test: metrics of the selected checkpoint; of the newest evaluation where the run is not finished, then
            without test; empty where there was none.
        run: run folder relative to the sweep, with ``/``; None when there is none.
        epochs: epochs done at the newest evaluation.
        training_s: seconds of training and validation, over all attempts.
        seconds: of the process that ended it, from its start to that end; 0 before the end.
        error: one line, None unless failed.
        is_baseline: whether it is a baseline.
    """

    id: str
    status: str
    seed: int
    strategy: str | None
    values: Mapping[str, Scalar]
    val: Mapping[str, float]
    test: Mapping[str, float]
    run: str | None
    epochs: int
    training_s: float
    seconds: float
    error: str | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class PointRow:
    """An evaluated checkpoint.

    Attributes:
        trial: ``id`` of its row.
        step, epoch: done before it.
        val: metrics of the validation split.
        is_selected: whether it is the one that was measured on the test split.
    """

    trial: str
    step: int
    epoch: int
    val: Mapping[str, float]
    is_selected: bool


@dataclass(frozen=True)
class Sweep:
    """A sweep as reports see it.

    Attributes:
        at: its folder.
        config: with the name and storage of where it lies.
        rows: baselines, then trials in the order of the plan.
        points: in the order of their rows, then by step.
    """

    at: Location
    config: SweepConfig
    rows: Sequence[TrialRow]
    points: Sequence[PointRow]


def write_rows(at: Location, rows: Sequence[TrialRow]) -> None:
    """Write ``trials.parquet`` into a sweep's folder."""
    plain = {name: [getattr(row, name) for row in rows] for name in _ROW_TYPES if name not in ("trial", "values")}
    plain |= {"trial": [row.id for row in rows], "values": [json.dumps(dict(row.values)) for row in rows]}
    columns = {name: pa.array(plain[name], kind) for name, kind in _ROW_TYPES.items()}
    paths = dict.fromkeys(path for row in rows for path in row.values)
    columns |= {path: _column([row.values.get(path) for row in rows]) for path in paths}
    columns |= _metric_columns("val", [row.val for row in rows])
    columns |= _metric_columns("test", [row.test for row in rows])
    _write(at.child(ROWS), columns)


def write_points(at: Location, points: Sequence[PointRow]) -> None:
    """Write ``points.parquet`` into a sweep's folder."""
    columns = {name: pa.array([getattr(point, name) for point in points], kind) for name, kind in _POINT_TYPES.items()}
    _write(at.child(POINTS), columns | _metric_columns("val", [point.val for point in points]))


def read_rows(at: Location) -> tuple[TrialRow, ...]:
    """Rows as they were written, in that order.

    Raises:
        CheckpointError: the file is damaged, or of another version.
        DataError: there is none.
    """
    columns = _read(at.child(ROWS), _ROW_TYPES)
    plain = [columns[name] for name in _ROW_TYPES if name not in ("trial", "values")]
    names = [name for name in _ROW_TYPES if name not in ("trial", "values")]
    values = [json.loads(text) for text in columns["values"]]
    val, test = _metrics("val", columns, len(values)), _metrics("test", columns, len(values))
    return tuple(
        TrialRow(id=trial, values=own, val=on_val, test=on_test, **dict(zip(names, rest, strict=True)))
        for trial, own, on_val, on_test, *rest in zip(columns["trial"], values, val, test, *plain, strict=True)
    )


def read_points(at: Location) -> tuple[PointRow, ...]:
    """Points as they were written, in that order; raises as :func:`read_rows`."""
    columns = _read(at.child(POINTS), _POINT_TYPES)
    val = _metrics("val", columns, len(columns["trial"]))
    own = (columns[name] for name in ("trial", "step", "epoch"))
    return tuple(PointRow(*point) for point in zip(*own, val, columns["is_selected"], strict=True))


def _metric_columns(split: str, metrics: Sequence[Mapping[str, float]]) -> dict[str, pa.Array]:
    names = dict.fromkeys(name for row in metrics for name in row)
    return {f"{split}/{name}": pa.array([row.get(name) for row in metrics], pa.float64()) for name in names}


def _metrics(split: str, columns: Mapping[str, list[Any]], count: int) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{} for _ in range(count)]
    for name, column in columns.items():
        if name.startswith(f"{split}/"):
            metric = name.removeprefix(f"{split}/")
            for row, value in zip(found, column, strict=True):
                if value is not None:
                    row[metric] = value
    return found


def _column(values: Sequence[Scalar]) -> pa.Array:
    """A column of the one type that all values have; as JSON text where they have several."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    if len(kinds) == 1:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _write(at: Location, columns: Mapping[str, pa.Array]) -> None:
    table = pa.table(columns).replace_schema_metadata({_VERSION_KEY: _VERSION})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write_bytes(at, sink.getvalue().to_pybytes())


def _read(at: Location, expected: Mapping[str, pa.DataType]) -> dict[str, list[Any]]:
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(at)), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{at.uri} is not a readable Parquet file: {' '.join(str(error).split())}") from error
    if (table.schema.metadata or {}).get(_VERSION_KEY) != _VERSION:
        raise CheckpointError(
            f"{at.uri} is not a table of this release; write it again with `raytrain-xai tune report`"
        )
    assert all(table.schema.field(name).type == kind for name, kind in expected.items())
    return {name: table[name].to_pylist() for name in table.column_names}
