"""``python -m bench.ray_start``: seconds from a command to its first step, and from a killed worker to the next report.

A cluster of this machine is started and warmed by one run that is not counted. Then the command line trains the same
small run on it, again and again; in each run one worker is killed as soon as two steps are in the log. Times of the
parts come from the log of the run. On a machine that others use, the least disturbed repetition is the smallest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.processes import train_worker_pids
from raytrain_xai.config import RunConfig, dump_config, parse_config
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.run_folder import LOG, run_location
from raytrain_xai.runners.cluster import connected

FIRST_STEP_S, RECOVERY_S = 20, 30
_WAIT_S, _POLL_S, _DEADLINE_S = 300, 0.1, 900


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(1))
def main(repetitions: int) -> None:
    """Measure starts and recoveries on a warm cluster."""
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        data = str(Path(folder, "data"))
        prepare(read_source("scenes-birds", None, 0, {"num_train": 64, "size": 64}), data)
        with connected(_config(folder, data, "warm"), "local", debug=False):
            import ray

            address = ray.get_runtime_context().gcs_address
            _train(_config(folder, data, "warm"), address, is_killed=False)
            found = [
                _train(_config(folder, data, f"run-{number}"), address, is_killed=True) for number in range(repetitions)
            ]
    for what, place, target in (("first step", 0, FIRST_STEP_S), ("recovery", 1, RECOVERY_S)):
        seconds = [times[place] for times in found]
        reached = "yes" if median(seconds) <= target else "no"
        shown = ", ".join(f"{value:.1f}" for value in seconds)
        click.echo(f"{what}: median {median(seconds):.1f} s of {shown}; target {target} s: {reached}")


def _config(folder: str, data: str, name: str) -> RunConfig:
    return parse_config({
        "name": name, "storage": str(Path(folder, "runs")), "epochs": 1000, "workers": 2, "batch_size": 16,
        "data": {"path": data, "image_size": 64}, "model": {"name": "bcos_resnet_tiny", "norm_statistics": "local"},
        "checkpoint": {"every_steps": 1}, "tracking": {"log_every_steps": 1, "tensorboard": False},
    })  # fmt: skip


def _train(config: RunConfig, address: str, *, is_killed: bool) -> tuple[float, float]:
    """Seconds from the command to the first step, and from the kill of a worker to the next step."""
    file = Path(config.storage).parent / f"{config.name}.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    started = time.time()
    command = subprocess.Popen([sys.executable, "-m", "raytrain_xai", "train", str(file), "--address", address])
    try:
        first = _wait_for_step(config, command, after=0.0, count=1)
        _echo_parts(config, started)
        recovery = 0.0
        if is_killed:
            _wait_for_step(config, command, after=0.0, count=2)
            killed = time.time()
            os.kill(train_worker_pids()[-1], signal.SIGKILL)
            restarted = _wait_for_event(config, command, "start", after=killed)
            recovery = _wait_for_step(config, command, after=restarted, count=1) - killed
            click.echo(f"  killed; workers of the next attempt train after {restarted - killed:.1f} s")
    finally:
        command.terminate()  # it stops with a checkpoint, and leaves the cluster as it was
        command.wait(timeout=_WAIT_S)
    return first - started, recovery


def _wait_for_step(config: RunConfig, command: subprocess.Popen[bytes], *, after: float, count: int) -> float:
    """When the ``count``-th step after a time was logged."""
    return _wait(config, command, lambda record: record["kind"] == "step" and record["time"] > after, count)


def _wait_for_event(config: RunConfig, command: subprocess.Popen[bytes], event: str, *, after: float) -> float:
    return _wait(config, command, lambda record: record.get("event") == event and record["time"] > after, 1)


def _wait(config: RunConfig, command: subprocess.Popen[bytes], is_wanted: Any, count: int) -> float:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        found = [record for record in _records(config) if is_wanted(record)]
        if len(found) >= count:
            return float(found[count - 1]["time"])
        if command.poll() is not None:
            raise RuntimeError(f"the run ended before that, with exit code {command.returncode}")
        time.sleep(_POLL_S)
    raise RuntimeError(f"nothing within {_DEADLINE_S} s")


def _records(config: RunConfig) -> list[dict[str, Any]]:
    log = Path(run_location(config).path, LOG)
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _echo_parts(config: RunConfig, started: float) -> None:
    folder = Path(run_location(config).path)
    checked = (folder / "config.yaml").stat().st_mtime - started
    events: Sequence[str] = [
        f"{record['event']} {record['time'] - started:.1f} s"
        for record in _records(config)
        if record["kind"] == "event"
    ]
    click.echo(f"  {config.name}: checked and connected {checked:.1f} s; {', '.join(events)}")


if __name__ == "__main__":
    main()
