"""The training loop on a worker of whatever launcher, with a log of its CPU time beside that of the run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from raytrain_xai.config import RunConfig
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.run_folder import run_location
from raytrain_xai.runners.loop import train
from raytrain_xai.runners.worker import Worker

_FILE = "rates.jsonl"


@dataclass(frozen=True)
class Rates:
    """Of a run in its steady state: after the first epoch, without loading, evaluations and checkpoints.

    Attributes:
        images_per_s: median over the readings, of all workers.
        images_per_cpu_s: images of worker 0 for each second of its own CPU time, over all of them.
    """

    images_per_s: float
    images_per_cpu_s: float


def train_logged(worker: Worker, config: RunConfig) -> dict[str, Any]:
    """Train; worker 0 writes down every reading with the CPU time that its process has used."""
    publish = partial(_write, Path(run_location(config).path, _FILE), worker)
    return train(replace(worker, publish=publish), config, open_run_data(config.data, config.seed))


def steady_rates(config: RunConfig) -> Rates:
    """What :func:`train_logged` wrote."""
    lines = Path(run_location(config).path, _FILE).read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step" and record["epoch"] > 0]
    pairs = [(a, b) for a, b in zip(steps, steps[1:], strict=False) if a["epoch"] == b["epoch"]]
    images = sum(b["step"] - a["step"] for a, b in pairs) * config.batch_size / config.workers
    cpu_s = sum(b["cpu_s"] - a["cpu_s"] for a, b in pairs)
    return Rates(median(record["images_per_s"] for record in steps), images / cpu_s)


def _write(file: Path, worker: Worker, record: Mapping[str, Any]) -> None:
    worker.publish(dict(record))
    line = {"kind": record["kind"], "step": record["step"], "epoch": record["epoch"], "cpu_s": time.process_time()}
    if record["kind"] == "step":
        line["images_per_s"] = record["images_per_s"]
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
