"""``python -m bench.many_rows [--rows N]``: what the index of a data set costs a worker, before any image is decoded.

A data set of N rows is written whose images are a few bytes, in the stored form, with one label and one box a row. Each
line is measured in a process of its own: CPU seconds, memory that stays and the highest memory, both beyond what the
process had before, also per row; of two sizes the difference is what a row costs. Reads come from the page cache of
the machine; over a network add round trips for each file.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import safetensors.torch
import torch

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.loader import TrainingData
from raytrain_xai.data.manifest import Manifest, ShardInfo, read_manifest, write_manifest
from raytrain_xai.data.parquet import encode_table, schema
from raytrain_xai.data.records import Box, Entry, FileRecipe
from raytrain_xai.features.plan import image_order
from raytrain_xai.guidance.evaluate import summarise
from raytrain_xai.guidance.evaluation_state import EvaluationState
from raytrain_xai.storage import locate, write_bytes

_CLASSES = 1000
_BATCH, _WORKERS = 1024, 8
_CONFIG = {"name": "rows", "epochs": 1, "workers": _WORKERS, "batch_size": _BATCH, "model": {"name": "resnet18"}}


@dataclass(frozen=True)
class Cost:
    """Of one stage: seconds, MiB that stay and MiB at most."""

    seconds: float
    kept_mib: float
    peak_mib: float


Stage = Callable[[str, int], object]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rows", default=1_000_000, show_default=True, type=click.IntRange(_BATCH), help="Images of the data set."
)
@click.option("--shard-rows", default=512, show_default=True, type=click.IntRange(64), help="Images per file.")
def main(rows: int, shard_rows: int) -> None:
    """Measure the index of ROWS images."""
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        write_rows(folder, rows, shard_rows)
        rows -= rows % shard_rows
        manifest = Path(folder, "manifest.json").stat().st_size
        click.echo(f"{rows} rows in {rows // shard_rows} files, manifest {manifest / 2**20:.1f} MiB")
        click.echo(f"{'stage':34} {'CPU s':>8} {'kept MiB':>9} {'peak MiB':>9} {'kept B/row':>11} {'peak B/row':>11}")
        for name, stage in STAGES.items():
            click.echo(_line(name, _alone(stage, folder, rows), rows))
        click.echo(_line(f"data prepare, {_RECORDS} records", _alone(_entries, folder, _RECORDS), _RECORDS))
        click.echo(_line(f"evaluation of {_EVALUATED} images", _alone(_evaluation, folder, _EVALUATED), _EVALUATED))


def _line(name: str, cost: Cost, rows: int) -> str:
    kept, peak = (mib * 2**20 / rows for mib in (cost.kept_mib, cost.peak_mib))
    return f"{name:34} {cost.seconds:8.2f} {cost.kept_mib:9.1f} {cost.peak_mib:9.1f} {kept:11.1f} {peak:11.1f}"


def write_rows(folder: str, rows: int, shard_rows: int) -> None:
    """A stored data set of ``rows`` rows in split ``train``; images are no images, and all files are links to one."""
    at = locate(folder)
    classes = tuple(f"class {c}" for c in range(_CLASSES))
    dataset = {"task": "multiclass", "classes": classes, "groups": None, "kind": "rows"}
    columns = schema(dataset, {"plan": "rows", "bad_records": [], "dropped_boxes": 0})
    data, first = encode_table(_table(shard_rows, columns)), Path(folder, "train", "part-00000.parquet")
    shards = [
        ShardInfo(f"train/part-{number:05d}.parquet", shard_rows, 0, len(data), f"{number:064x}")
        for number in range(rows // shard_rows)
    ]
    write_bytes(at.child("train", first.name), data)
    for shard in shards[1:]:
        os.link(first, Path(folder, shard.file))
    write_manifest(at, Manifest(
        kind="rows", task="multiclass", classes=classes, groups=None, options={},
        splits={"train": tuple(shards)}, dropped_boxes=0, bad_records=(),
    ))  # fmt: skip


def _table(rows: int, columns: pa.Schema) -> pa.Table:
    numbers = np.arange(rows)
    ones = pa.array(np.arange(rows + 1, dtype=np.int32))
    labels = pa.array((numbers % _CLASSES).astype(np.int32))
    sides = [pa.array(np.full(rows, side, dtype=np.float32)) for side in (10, 20, 110, 120)]
    box = columns.field("boxes").type.value_type
    boxes = pa.StructArray.from_arrays([labels, *sides], fields=[box.field(place) for place in range(box.num_fields)])
    values = {
        "id": pa.array([f"n{number % _CLASSES:07d}_{number:07d}" for number in numbers]),
        "image": pa.array([b"16 bytes, no JPEG"] * rows, pa.binary()),
        "width": pa.array(np.full(rows, 500, dtype=np.int32)),
        "height": pa.array(np.full(rows, 375, dtype=np.int32)),
        "labels": pa.ListArray.from_arrays(ones, labels, type=columns.field("labels").type),
        "boxes": pa.ListArray.from_arrays(ones, boxes, type=columns.field("boxes").type),
        "mask": pa.nulls(rows, pa.binary()),
        "group": pa.nulls(rows, pa.int32()),
    }
    return pa.table(values, schema=columns)


def _manifest(folder: str, rows: int) -> object:  # noqa: ARG001
    return read_manifest(locate(folder))


def _annotations(folder: str, rows: int) -> object:  # noqa: ARG001
    return StoredSplit(folder, "train")


def _config(folder: str) -> RunConfig:
    return parse_config({**_CONFIG, "data": {"path": folder}})


def _start(folder: str, rows: int) -> object:  # noqa: ARG001
    """All that a worker does before its first image: annotations, budget, order and plan of an epoch."""
    data = TrainingData(_config(folder), open_dataset(folder), rank=0, world_size=_WORKERS)
    batches = data.epoch(0)
    return data, batches, next(iter(batches.plans))


def _whole_plan(folder: str, rows: int) -> object:  # noqa: ARG001
    data = TrainingData(_config(folder), open_dataset(folder), rank=0, world_size=_WORKERS)
    for plan in data.epoch(0).plans:
        assert len(plan.indices) == _BATCH // _WORKERS
    return data


def _image_order(folder: str, rows: int) -> object:  # noqa: ARG001
    return image_order([512] * (rows // 512), 0, 0)


def _entries(folder: str, rows: int) -> object:
    """What a reader hands to ``prepare``: one record for each image, in memory."""
    root = Path(folder)
    return [
        Entry(
            f"n{row % _CLASSES:08d}_{row}", str(root), (row % _CLASSES,), FileRecipe(root / f"{row}.jpg", (_box(row),))
        )
        for row in range(rows)
    ]


def _box(row: int) -> Box:
    return Box(row % _CLASSES, 10.0 + row, 20.0, 110.0 + row, 120.0)


def _evaluation(folder: str, rows: int) -> object:
    """As many images evaluated by eight workers, joined and summarised as each of them does it."""
    sent = [_evaluated_part(len(range(part, rows, _WORKERS))) for part in range(_WORKERS)]
    first, *others = [EvaluationState.from_tensors(safetensors.torch.load(part)) for part in sent]
    return summarise(first.merge(*others), open_dataset(folder), None)


def _evaluated_part(rows: int) -> bytes:
    empty = EvaluationState.empty(_CLASSES, torch.device("cpu"))
    labels = torch.nn.functional.one_hot(torch.arange(rows) % _CLASSES, _CLASSES).bool()
    part = empty.with_fields(scores=torch.randn(rows, _CLASSES), labels=labels, groups=torch.full((rows,), -1))
    return safetensors.torch.save({name: value.clone() for name, value in part.to_tensors().items()})


STAGES: dict[str, Stage] = {
    "manifest": _manifest,
    "annotations of a split": _annotations,
    "annotations and first batch": _start,
    "annotations and all plans": _whole_plan,
    "order of a concept epoch": _image_order,
}
_RECORDS, _EVALUATED = 200_000, 50_000


def _alone(stage: Stage, folder: str, rows: int) -> Cost:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (stage, folder, rows))


def _measure(stage: Stage, folder: str, rows: int) -> Cost:
    before = _status_mib("VmRSS")
    started = time.process_time()
    held = stage(folder, rows)
    seconds = time.process_time() - started
    kept, peak = _status_mib("VmRSS") - before, _status_mib("VmHWM") - before
    del held
    return Cost(seconds, kept, max(peak, kept))


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
