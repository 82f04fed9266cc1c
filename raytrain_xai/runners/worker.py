"""One process of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from raytrain_xai.runners.tracking import Publish

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Halt:
    """Why the workers of a run are to write a checkpoint and leave.

    Attributes:
        kind: ``stop`` ends the run; with ``preemption`` (a machine is about to be taken away) and ``resize`` (there is
            room for another number of workers) the run goes on with new workers.
        reason: for people; the name of a signal, or what is about to happen.
        exit_code: of the process that started the run, after a stop.
    """

    kind: Literal["stop", "preemption", "resize"]
    reason: str
    exit_code: int = 143


def never() -> None:
    """Nobody asks the workers to leave."""


@dataclass(frozen=True)
class Worker:
    """One process of a run.

    Attributes:
        rank: 0 writes, all compute.
        world_size: processes in the run.
        device: where this one computes.
        publish: takes the records of worker 0 for the live display.
        report: takes the validation metrics of each evaluation with its ``epoch`` and ``step``, on every worker, once
            its checkpoint is written.
        asked: whether the workers are to leave, without waiting; only that of worker 0 counts.
    """

    rank: int
    world_size: int
    device: torch.device
    publish: Publish
    report: Report
    asked: Callable[[], Halt | None] = never


Work = Callable[[Worker, Any], dict[str, Any]]
"""What every worker of a run does, given itself and the configuration: trains, and returns ``metrics.json``."""
