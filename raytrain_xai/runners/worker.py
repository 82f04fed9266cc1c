"""One process of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from raytrain_xai.runners.tracking import Publish

Report = Callable[[dict[str, float]], None]


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
    """

    rank: int
    world_size: int
    device: torch.device
    publish: Publish
    report: Report


Work = Callable[[Worker, Any], dict[str, Any]]
"""What every worker of a run does, given itself and the configuration: trains, and returns ``metrics.json``."""
