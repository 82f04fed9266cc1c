"""A run, checked and ready to start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.runners.stop import StopRequest
from raytrain_xai.runners.tracking import Publish
from raytrain_xai.runners.worker import Report, Work


def _nobody(metrics: dict[str, float]) -> None:  # noqa: ARG001
    """Most runs are watched by nobody but their log."""


@dataclass(frozen=True)
class Launch:
    """How to run, as opposed to what.

    Attributes:
        address: ``local``, ``auto``, ``ray://HOST:PORT`` or ``HOST:PORT``; of no effect with workers=0.
        publish: called in this process with every record of worker 0.
        debug: show what workers print and log.
        report: with workers=0, called after each evaluation, see :class:`raytrain_xai.runners.worker.Worker`.
        callbacks: with Ray workers, ``ray.train.UserCallback``s that are told of each evaluation.
        stop: asks the run to stop at a checkpoint; training listens to it, and it to signals.
    """

    address: str
    publish: Publish
    debug: bool = False
    report: Report = _nobody
    callbacks: tuple[Any, ...] = ()
    stop: StopRequest | None = None


def _nothing(launch: Launch) -> None:  # noqa: ARG001
    """Most runs need nothing but their folder."""


@dataclass(frozen=True)
class Job:
    """What is to be done for a run.

    Attributes:
        config: with absolute local paths.
        work: what every worker does; picklable.
        prepare: called in this process when the run folder and, with workers, the cluster are there.
    """

    config: AnyRunConfig
    work: Work
    prepare: Callable[[Launch], None] = _nothing
