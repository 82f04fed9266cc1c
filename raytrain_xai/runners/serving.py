"""A service on Ray Serve for as long as this process wants it: what ``raytrain-xai serve`` runs."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners.cluster import connected, shortage
from raytrain_xai.sections import ResourcesConfig
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "raytrain-xai"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KEEP_ALIVE_S = 90
_PROXY_CHECKS = ("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1")
"""A proxy is replaced after three checks without an answer: 3 s instead of 30 in which nobody is served. Serve's
controller reads it where it starts, so an existing cluster has to be given it with its nodes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Front:
    """Where a service listens.

    Attributes:
        host, port: of the HTTP proxy.
        address: Ray cluster, see :func:`~raytrain_xai.runners.cluster.connected`.
        debug: show what replicas log.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    address: str = "local"
    debug: bool = False

    @property
    def url(self) -> str:
        """Address for a browser on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@dataclass(frozen=True)
class _Replicas:
    """What the replicas of a service ask of a cluster."""

    workers: int
    resources: ResourcesConfig


def serve_until_stopped(settings: ServeSettings, front: Front, ready: Callable[[str], None]) -> None:
    """Deploy, tell that requests are answered, wait for an interrupt or a termination signal, drain and leave.

    Args:
        settings: what is served.
        front: where.
        ready: called with the address once every replica has loaded and warmed up its models.
    Raises:
        ConfigError, CheckpointError: a run cannot be served.
        RunError: the port is taken, the cluster cannot be reached, or replicas do not start.
    """
    with deployed(settings, front), _stop_signals() as stop:
        ready(front.url)
        stop.wait()


@contextmanager
def deployed(settings: ServeSettings, front: Front, replica_class: type[Any] | None = None) -> Generator[None]:
    """A service for the time of the block; see :func:`serve_until_stopped`.

    Args:
        settings, front: what is served, and where.
        replica_class: in place of :class:`serve.app.Replica`.
    """
    replica = settings.replica
    each = ResourcesConfig(cpus_per_worker=max(1, math.ceil(replica.num_cpus)), gpus_per_worker=replica.num_gpus)
    _check_port(front)
    os.environ.setdefault(*_PROXY_CHECKS)
    with connected(_Replicas(replica.max_replicas, each), front.address, debug=front.debug):
        from ray import serve
        from ray.serve.config import HTTPOptions

        from serve.app import Replica, application

        logging.getLogger("ray.serve").setLevel(logging.INFO if front.debug else logging.ERROR)
        deployment = application(settings, replica_class or Replica)
        options = HTTPOptions(
            host=front.host, port=front.port, keep_alive_timeout_s=_KEEP_ALIVE_S,
            request_timeout_s=2 * settings.limits.time_s,  # replicas give up earlier, and say why
        )  # fmt: skip
        serve.start(http_options=options, proxy_location="HeadOnly")
        _check_front(front)
        lack = shortage(_Replicas(replica.min_replicas, each)) if replica.min_replicas else None
        if lack is not None:
            logger.warning("%s", lack)
        try:
            _run(deployment)
            yield
        finally:
            serve.delete(APPLICATION)
            if front.address != "local" and not serve.status().applications:
                serve.shutdown()  # of a cluster that ends right after, it would print alarms


def _check_front(front: Front) -> None:
    """On a cluster where Serve runs already, it goes on to listen where it does, and says so in a log only.

    Raises:
        RunError: that is somewhere else.
    """
    from ray.serve import context

    there = cast(Any, context)._get_global_client().http_config  # no public way to these options in Ray 2.60
    if (there.host, there.port) != (front.host, front.port):
        raise RunError(
            f"Ray Serve listens at {there.host} port {there.port} of this cluster already; give --host {there.host} "
            f"--port {there.port}, or end it with `serve shutdown`"
        )


def _run(deployment: Application) -> None:
    """Wait until the replicas are ready.

    Raises:
        RunError: says what the replicas failed with.
    """
    from ray import serve

    try:
        serve.run(deployment, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise RunError(f"the service did not start: {' '.join((_failure() or str(error)).split())}") from error


def _failure() -> str:
    """What replicas say of their failure, which the exception of Serve does not tell: the last line of the trace."""
    from ray import serve

    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return ""
    messages = [deployment.message.strip() for deployment in application.deployments.values()]
    return "; ".join(message.splitlines()[-1] for message in messages if message)


def check_exposure(settings: ServeSettings, host: str, *, has_keys: bool) -> None:
    """Refuse to answer strangers by accident.

    Raises:
        ConfigError: an address that others can reach, and no keys.
    """
    if host not in LOOPBACK and not (has_keys or settings.security.keys):
        raise ConfigError(
            f"--host {host} can be reached by others and no API keys are set; make some with `raytrain-xai serve-keys "
            "add FILE NAME` and give --keys FILE, or listen on 127.0.0.1"
        )


def _check_port(front: Front) -> None:
    """Serve itself would report a taken port only in the log of its proxy.

    Raises:
        RunError: something listens there already, or the address is not of this machine.
    """
    if front.address != "local":
        return
    family = socket.AF_INET6 if ":" in front.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((front.host, front.port))
    except OSError as error:
        raise RunError(f"cannot listen on {front.host} port {front.port}: {error.strerror}; choose --port") from error


@contextmanager
def _stop_signals() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that replicas drain before this process ends."""
    stop = threading.Event()

    def stopped(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
