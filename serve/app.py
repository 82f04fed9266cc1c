"""The Ray Serve deployment: ``serve run serve.app:build checkpoint=RUN``, or ``serve deploy`` with a file naming it.

One deployment, without a hop between HTTP and model: a replica is a :class:`~serve.service.Service` behind the API. Ray
brings replicas up, checks and drains them, adds more under load, and replaces dead ones.
"""

# No `from __future__ import annotations`: Ray Serve looks at the annotation of `build` itself.
import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve import metrics

from raytrain_xai.serving.served_model import ModelKey
from serve.api import create_api
from serve.compose import Composition, check_runs, compose
from serve.meter import METRICS, Metric
from serve.security.entrance import ACCESS_LOG
from serve.security.keys import VARIABLE as KEYS_VARIABLE
from serve.settings import ReplicaSettings, ServeSettings

_LOAD_WINDOW_S = (11.0, 30.0)  # replicas tell their load every 10 s, and Ray asks for a longer window than that
_REFUSAL_ROOM = 4  # times the admitted requests: that many are let in to be refused with reasons and Retry-After


@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Replica:
    """One process that answers requests for the models of ``settings``.

    Args:
        settings: :class:`~serve.settings.ServeSettings` as JSON.
    """

    async def __init__(self, settings: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        _log_access()
        context = serve.get_replica_context()
        self._composition: Composition = await loop.run_in_executor(
            None,
            lambda: compose(
                ServeSettings.model_validate(settings),
                replica=context.replica_tag,
                replicas=lambda: max(1, serve.get_replica_context().world_size or 1),
                mirror=RayMetrics(),
                on_load=self._announce_from_thread,
            ),
        )
        await self._composition.start()

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: PLW3201
        return create_api(self._composition.service)

    async def check_health(self) -> None:
        """A real explanation by the thread that answers requests; raises what went wrong."""
        await self._composition.check_health()

    async def __del__(self) -> None:
        composition = getattr(self, "_composition", None)  # absent when the constructor failed
        if composition is not None:
            await composition.close()

    @serve.multiplexed(max_num_models_per_replica=64)
    async def announce(self, address: str) -> str:
        """Make known to Serve that this replica holds a model.

        Requests with the header ``serve_multiplexed_model_id: NAME@VERSION`` then come here rather than to a replica
        that would have to load it. What is in memory is decided by the model store, which knows sizes in bytes.
        """
        return address

    def _announce_from_thread(self, keys: Iterable[ModelKey]) -> None:
        for key in keys:
            asyncio.run_coroutine_threadsafe(cast(Any, self.announce)(str(key)), self._loop)


def _environment() -> dict[str, Any]:
    """Keys (hashes, rather) that this process has in its environment go along to replicas on other machines."""
    keys = os.environ.get(KEYS_VARIABLE)
    return {} if keys is None else {"runtime_env": {"env_vars": {KEYS_VARIABLE: keys}}}


def _log_access() -> None:
    """One line of JSON per request in the log of the replica."""
    access = logging.getLogger(ACCESS_LOG)
    access.setLevel(logging.INFO)
    access.propagate = False
    if not access.handlers:
        access.addHandler(logging.StreamHandler())


class RayMetrics:
    """Ray's metrics beside those of the replica: Ray's are collected from all nodes, and carry the replica's name."""

    def __init__(self) -> None:
        self._metrics = {metric.name: _ray_metric(metric) for metric in METRICS}

    def __call__(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        found = self._metrics[metric.name]
        tags = dict(labels)
        if isinstance(found, metrics.Counter):
            if value > 0:  # Ray refuses to add nothing
                found.inc(value, tags=tags)
        elif isinstance(found, metrics.Gauge):
            found.set(value, tags=tags)
        else:
            found.observe(value, tags=tags)


def _ray_metric(metric: Metric) -> metrics.Counter | metrics.Gauge | metrics.Histogram:
    labels = cast(Any, metric.labels)  # Ray says tuple[str] where it means tuple[str, ...]
    match metric.kind:
        case "counter":  # Ray's exporter adds the ending itself
            return metrics.Counter(metric.name.removesuffix("_total"), metric.help, labels)
        case "gauge":
            return metrics.Gauge(metric.name, metric.help, labels)
        case "histogram":
            return metrics.Histogram(metric.name, metric.help, list(metric.buckets), labels)


def build(settings: ServeSettings) -> serve.Application:
    """The application for ``serve run``, ``serve deploy`` and ``raytrain-xai serve``.

    Args:
        settings: Serve validates them from ``key=value`` arguments or the ``args`` of a file.
    Raises:
        ConfigError, CheckpointError: a run is missing or cannot be served; nothing has been deployed.
    """
    return application(settings, Replica)


def application(settings: ServeSettings, replica_class: type[Any]) -> serve.Application:
    """As :func:`build`, with a class in place of :class:`Replica`."""
    check_runs(settings)
    replica, in_flight = settings.replica, settings.limits.in_flight
    deployment: Any = serve.deployment(
        replica_class,
        name="replica",
        max_ongoing_requests=_REFUSAL_ROOM * in_flight,
        max_queued_requests=_REFUSAL_ROOM * in_flight,
        health_check_period_s=replica.health_period_s,
        health_check_timeout_s=replica.health_timeout_s,
        graceful_shutdown_timeout_s=replica.drain_s,
        ray_actor_options={"num_cpus": replica.num_cpus, "num_gpus": replica.num_gpus, **_environment()},
        logging_config={"enable_access_log": False},  # ours names client, model and request
        **_scaling(replica),
    )
    return deployment.bind(settings.model_dump(mode="json"))


def _scaling(replica: ReplicaSettings) -> dict[str, Any]:
    if replica.min_replicas == replica.max_replicas:
        return {"num_replicas": replica.min_replicas}
    shortest, longest = _LOAD_WINDOW_S
    return {
        "autoscaling_config": {
            "min_replicas": replica.min_replicas,
            "max_replicas": replica.max_replicas,
            "target_ongoing_requests": replica.target_in_flight,
            "upscale_delay_s": replica.scale_up_after_s,
            "downscale_delay_s": replica.scale_down_after_s,
            "look_back_period_s": min(longest, max(shortest, replica.scale_up_after_s)),
        }
    }
