"""A replica put together from its settings: models, queue, monitoring. Ray is not needed for it; see serve.app."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from raytrain_xai.config import parse_job
from raytrain_xai.explain import available_device
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.serving.engine import run_jobs
from raytrain_xai.serving.model_store import ModelStore
from raytrain_xai.serving.served_model import ModelKey, RunAddress
from serve.batches import BatchQueue
from serve.links import Links
from serve.meter import Meter, Mirror
from serve.observers import monitoring
from serve.service import Service
from serve.settings import ServeSettings


@dataclass(frozen=True)
class Composition:
    """A service with what it needs to start and to end.

    Attributes:
        service: for :func:`serve.api.create_api`.
        queue: in front of the models.
    """

    service: Service
    queue: BatchQueue

    async def start(self) -> None:
        """Load models and answer once with each, so that the first request is as fast as the next.

        Raises:
            ConfigError, CheckpointError: a run cannot be served.
        """
        await self.queue.compute(self._load)

    async def check_health(self) -> None:
        """A real explanation by the model that was used last, in the thread that answers requests.

        Raises:
            CheckpointError: it is not what it has to be; Ray then replaces the replica.
        """
        await self.queue.compute(self._check)

    async def close(self) -> None:
        """Let the batch under way finish, and write what monitoring holds."""
        self.queue.close()
        await asyncio.get_running_loop().run_in_executor(None, self._close_observers)

    def _load(self) -> None:
        """The first model at least, so that a replica which can answer nothing never becomes one."""
        models, settings = self.service.models, self.service.settings
        keys = [ModelKey(name, version) for name, model in settings.served.items() for version in model.versions]
        for number, key in enumerate(keys if settings.preload else keys[:1]):
            models.get(key)  # which also warms it up
            if len(models.loaded()) <= number:
                return  # another one was put out: no more fit

    def _check(self) -> None:
        model = self.service.models.last_used()
        if model is not None:
            model.self_check()
        # told again: a mirror that was not listening yet when models were loaded would never show them
        _count_models(self.service.meter, self.service.models.loaded())

    def _close_observers(self) -> None:
        for observer in self.service.observers:
            observer.close()
        self.service.links.close()


def compose(
    settings: ServeSettings,
    *,
    replica: str = "local",
    replicas: Callable[[], int] = lambda: 1,
    mirror: Mirror | None = None,
    on_load: Callable[[Iterable[ModelKey]], None] = lambda _: None,
) -> Composition:
    """A service that has loaded nothing yet.

    Args:
        settings: what is served.
        replica: name of this process in what it stores.
        replicas: number of them.
        mirror: is told all metrics as well.
        on_load: told, in any thread, what is loaded after every change.
    """
    meter = Meter(mirror=mirror)
    threads = settings.replica.threads or max(1, math.ceil(settings.replica.num_cpus))
    queue = BatchQueue(
        run_jobs, images=settings.batch.images, meter=meter, prepare_thread=lambda: torch.set_num_threads(threads)
    )

    def loaded(models: Mapping[ModelKey, int]) -> None:
        _count_models(meter, models)
        on_load(models)

    models = ModelStore(
        {
            name: {
                version: RunAddress(served.run, served.also, served.weight)
                for version, served in model.versions.items()
            }
            for name, model in settings.served.items()
        },
        memory_bytes=settings.replica.memory_bytes,
        device=available_device(),
        on_change=loaded,
    )
    links = Links(settings.monitor.links, max_bytes=settings.monitor.links_bytes)
    drift, observers = monitoring(settings, meter, replica)
    service = Service(settings, models, queue, links, meter, observers, drift, replicas)
    return Composition(service, queue)


def _count_models(meter: Meter, nbytes: Mapping[ModelKey, int]) -> None:
    meter.models(len(nbytes), sum(nbytes.values()))


def check_runs(settings: ServeSettings) -> None:
    """Look whether every run is there, without loading any.

    Raises:
        ConfigError: names the first that is not a run.
    """
    for model in settings.served.values():
        for version in model.versions.values():
            for run in (version.run, *version.also):
                at = open_run(run)
                parse_job(read_config(at), source=at.child("config.yaml").uri)
