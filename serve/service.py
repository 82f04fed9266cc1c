"""What the routes of a replica share: settings, models, the way to an answer, and who is told about it.

There is no HTTP and no Ray in here; :mod:`serve.app` makes a service in a Ray Serve replica, tests make one by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, overload

from anyio import CapacityLimiter

from raytrain_xai.monitoring.monitor import DriftMonitor
from raytrain_xai.serving.engine import Job, SegmentJob
from raytrain_xai.serving.insight_jobs import ImageSegments
from raytrain_xai.serving.jobs import ImageAnswer
from raytrain_xai.serving.model_store import ModelStore
from serve.catalogues import Catalogues
from serve.links import Links
from serve.meter import Meter
from serve.searches import Searches
from serve.settings import ServeSettings

_DECODED_TOGETHER = 2


@dataclass(frozen=True)
class Observation:
    """Images that were answered.

    Attributes:
        job: what was asked; its images are those the network saw.
        answers: one per image.
        hashes: SHA-256 of the bytes of each image as it was sent, hexadecimal.
        request_id: of the request.
        client: who asked, as :mod:`serve.security` names them.
    """

    job: Job
    answers: Sequence[ImageAnswer]
    hashes: Sequence[str]
    request_id: str
    client: str


class Observer(Protocol):
    """Told about every answer after it was made; must return at once and must not raise."""

    def __call__(self, seen: Observation) -> None: ...

    def close(self) -> None:
        """Write what is still held; called once, after the last answer."""
        ...


class Infer(Protocol):
    """Answers a job together with what else waits."""

    @overload
    async def __call__(self, job: Job) -> Sequence[ImageAnswer]: ...

    @overload
    async def __call__(self, job: SegmentJob) -> Sequence[ImageSegments]: ...


@dataclass(frozen=True)
class Service:
    """A replica, seen from its routes.

    Attributes:
        settings: what is served and within which limits.
        models: the runs that are served, loaded when needed.
        infer: answer a job together with what else waits; raises what the engine raised.
        links: full-size maps for a while.
        meter: counts and durations for Prometheus.
        observers: told about every answer.
        drift: what the concepts of answered images are compared with; None: nothing is followed.
        replicas: number of replicas that share the load, for limits that hold for the whole service.
    """

    settings: ServeSettings
    models: ModelStore
    infer: Infer
    links: Links
    meter: Meter
    observers: tuple[Observer, ...] = ()
    drift: DriftMonitor | None = None
    replicas: Callable[[], int] = lambda: 1

    @cached_property
    def catalogues(self) -> Catalogues:
        """Concepts of the models, opened once for all routes."""
        return Catalogues(self.models)

    @cached_property
    def searches(self) -> Searches:
        """Indexes of images, opened once for all routes."""
        return Searches(self.models)

    @cached_property
    def decoding(self) -> CapacityLimiter:
        """Bounds the images that all routes together have open at full size: one per CPU of the replica, at least two.

        One of 25 million pixels takes up to 300 MB until it is scaled.
        """
        return CapacityLimiter(max(_DECODED_TOGETHER, math.ceil(self.settings.replica.num_cpus)))
