"""Live progress of a run: a bar on a terminal, one line per record elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import click

Show = Callable[[dict[str, Any]], None]

_TRAINING = ("loss", "cls", "loc", "kd", "exp", "base", "variance_explained")
_VALIDATION = (
    "f1", "epg", "iou", "accuracy", "worst_group", "agreement", "similarity", "variance_explained", "carriers",
    "map_pooled",
)  # fmt: skip


@contextmanager
def live_progress() -> Generator[Show]:
    """A function that shows records of ``metrics.jsonl`` on stderr as they come in."""
    if not sys.stderr.isatty():
        yield _echo
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[part]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, part="epoch 1")

        def show(record: dict[str, Any]) -> None:
            if record["kind"] == "step":
                part = f"epoch {record['epoch'] + 1}"
                progress.update(task, completed=record["step"], part=part, description=_numbers(record))
                return
            if record["kind"] == "tasks":
                done, total, description = record["done"], record["total"], _rate(record)
                progress.update(task, completed=done, total=total, part="images", description=description)
                return
            if record.get("event") == "start":
                progress.update(task, total=record["num_steps"], completed=record["step"], description="")
            console.print(describe(record), highlight=False, markup=False)

        yield show


def describe(record: Mapping[str, Any]) -> str:
    """One line for one record."""
    if record["kind"] == "event":
        return f"{record['event']}: {record['message']}"
    if record["kind"] == "epoch":
        values = (f"{name} {record['val'][name]:.3f}" for name in _VALIDATION if name in record["val"])
        return f"epoch {record['epoch']} done, validation: {', '.join(values)}"
    if record["kind"] == "tasks":
        return f"{record['done']} of {record['total']} images: {_rate(record)}"
    return f"epoch {record['epoch'] + 1} step {record['step']}: {_numbers(record)}"


def _numbers(record: Mapping[str, Any]) -> str:
    parts = [f"{name} {record[name]:.4g}" for name in _TRAINING if name in record]
    parts += [f"empty maps {record[name]:.0%}" for name in ("empty_maps", "exp_empty") if record.get(name)]
    if record.get("dead"):
        parts.append(f"{record['dead']:.0f} dead")
    rate = "images" if "images_per_s" in record else "vectors"
    parts += [f"{record[f'{rate}_per_s']:.0f} {rate}/s", f"input wait {record['input_wait']:.0%}"]
    return ", ".join([*parts, _time_left(record)])


def _rate(record: Mapping[str, Any]) -> str:
    """Of tasks that are done out of order."""
    return f"{record['images_per_s']:.0f} images/s, {_time_left(record)}"


def _time_left(record: Mapping[str, Any]) -> str:
    minutes, seconds = divmod(round(record["seconds_left"]), 60)
    return f"{minutes}:{seconds:02d} left"


def _echo(record: dict[str, Any]) -> None:
    click.echo(describe(record), err=True)
