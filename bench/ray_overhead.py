"""``python -m bench.ray_overhead``: images per second of two workers under Ray Train and under ``torchrun``.

Both train the same run with the same loop, one after the other, in turn; nothing of Ray is alive while ``torchrun``
trains. On a machine with two cores all of Ray's own processes share them with the two workers. Where others use the
machine, seconds measure them too: then look at images per second of CPU time of a worker, and at the CPUs that Ray
takes beside the workers.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import torch.distributed as dist

from bench.loop_rates import Rates, steady_rates, train_logged
from bench.processes import cpu_seconds, descendants, is_train_worker
from raytrain_xai.config import RunConfig, dump_config, load_config, parse_config
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.run_folder import create_run, run_location
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.worker import Worker

WORKERS, BATCH, TARGET = 2, 32, 0.97
_SAMPLE_S = 1.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--epochs", default=4, show_default=True, type=click.IntRange(2), help="Of each run; one is not counted.")
@click.option("--images", default=640, show_default=True, type=click.IntRange(2 * BATCH), help="Of the training split.")
def main(rounds: int, epochs: int, images: int) -> None:
    """Measure what Ray costs in the steady state."""
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="ro-") as folder:
        data = str(Path(folder, "data"))
        prepare(read_source("scenes-birds", None, 0, {"num_train": images, "size": 96}), data)
        for number in range(rounds):
            rates: dict[str, Rates] = {}
            for name, run in _LAUNCHERS.items() if number % 2 == 0 else reversed(_LAUNCHERS.items()):
                config = _config(folder, data, f"{name}-{number}", epochs)
                beside = run(config)
                rates[name] = found = steady_rates(config)
                click.echo(
                    f"round {number}: {name:8} {found.images_per_s:7.1f} images/s, {found.images_per_cpu_s:7.1f} per "
                    f"CPU second of a worker; {beside:.3f} CPUs beside the workers"
                )
            ray, torchrun = rates["ray"], rates["torchrun"]
            by_cpu = ray.images_per_cpu_s / torchrun.images_per_cpu_s
            ratios.append((ray.images_per_s / torchrun.images_per_s, by_cpu))
    for what, found in zip(("images/s", "images per CPU second"), zip(*ratios, strict=True), strict=True):
        shown = ", ".join(f"{ratio:.3f}" for ratio in found)
        reached = "yes" if median(found) >= TARGET else "no"
        click.echo(f"{what}, ray / torchrun: median {median(found):.3f} of {shown}; target {TARGET}: {reached}")


def _config(folder: str, data: str, name: str, epochs: int) -> RunConfig:
    return parse_config({
        "name": name, "storage": str(Path(folder, "runs")), "epochs": epochs, "workers": WORKERS, "batch_size": BATCH,
        "data": {"path": data, "image_size": 96, "augment": "flip", "cache_decoded": True},
        "model": {"name": "bcos_resnet_tiny", "norm_statistics": "local"},
        "guidance": {"loss": "energy", "weight": 0.1, "layer": "Input"},
        "evaluation": {"every_epochs": epochs},
        "tracking": {"log_every_steps": 5, "tensorboard": False},
    })  # fmt: skip


def _ray(config: RunConfig) -> float:
    """Train on a Ray cluster of this machine; CPUs of Ray's own processes and the driver meanwhile."""
    with connected(config, "local", debug=False):
        from raytrain_xai.runners.ray_train import run_on_ray  # imports Ray, which reads its settings then

        create_run(config)
        with _watched() as watch:
            run_on_ray(config, train_logged, Launch("local", watch.mark))
    return watch.cpus


def _torchrun(config: RunConfig) -> float:
    """Train under ``torchrun``; CPUs of its own process meanwhile, which waits."""
    create_run(config)
    file = Path(run_location(config).path, "torchrun.yaml")
    file.write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-m", "bench.ray_overhead", "--worker", str(file)], check=True, env=environment)
    return 0.0


_LAUNCHERS: dict[str, Callable[[RunConfig], float]] = {"torchrun": _torchrun, "ray": _ray}


def worker(file: str) -> None:
    """One process of ``torchrun``: the loop as a Ray worker runs it, in a process group of gloo."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    own = Worker(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), _ignore, _ignore)
    train_logged(own, load_config(file))
    dist.destroy_process_group()


def _ignore(values: dict[str, Any]) -> None:
    """Nobody watches; the figures are in the log of the run."""


class _Watch:
    """CPU time of Ray's processes and this one, without the workers, from the first record of steps to the last."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, dict[int, float]]] = []
        self._from, self._to = math.inf, 0.0

    def mark(self, record: dict[str, Any]) -> None:
        """Called with the records of the run."""
        if record["kind"] == "step" and record["epoch"] > 0:
            self._from, self._to = min(self._from, time.monotonic()), time.monotonic()

    @property
    def cpus(self) -> float:
        """On average; 0 where the steps took less than two samples."""
        inside = [(at, used) for at, used in self.samples if self._from <= at <= self._to]
        if len(inside) < 2:
            return 0.0
        (first_at, first), (last_at, last) = inside[0], inside[-1]
        return sum(last[pid] - first[pid] for pid in last if pid in first) / (last_at - first_at)


@contextmanager
def _watched() -> Generator[_Watch]:
    watch, done = _Watch(), threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            own = [pid for pid in descendants(os.getpid()) if not is_train_worker(pid)]
            watch.samples.append((time.monotonic(), cpu_seconds([*own, os.getpid()])))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2])
    else:
        main()
