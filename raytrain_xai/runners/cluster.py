"""Starting, joining and leaving Ray, with nothing left behind and no cluster open to strangers."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners.protection import import_ray, named_server, on_loopback
from raytrain_xai.sections import ResourcesConfig

_OBJECT_STORE_BYTES = 80 << 20  # nothing large travels through it; containers often have 64 MiB of shared memory
_CONNECT_S = 10.0
_TRAIN_SETTINGS = {
    "HEALTH_CHECK_INTERVAL_S": "0.5",  # at 2 s, short epochs wait for the controller
    "PREEMPTION_POLL_INTERVAL_S": "1",  # at 5 s, much of a notice of 30 s is over before anybody hears it
    # For places of workers alone, not their start. What a lost node offered is counted for up to 20 s more: at 60 s, an
    # elastic run would wait that long for it, and every run as long before it hears that it is to stop.
    "WORKER_GROUP_START_TIMEOUT_S": "10",
}

logger = logging.getLogger(__name__)


class Demand(Protocol):
    """What asks for workers: the configuration of a run, or a crew."""

    @property
    def workers(self) -> int: ...

    @property
    def resources(self) -> ResourcesConfig: ...


@contextmanager
def connected(demand: Demand, address: str, *, debug: bool) -> Generator[None]:
    """Ray for the time of the block: a local cluster of its own, or the one at ``address``.

    A cluster that this process is connected to already is used as it is and left running.

    Args:
        demand: workers and resources of each.
        address: ``local``, ``auto``, ``ray://HOST:PORT`` or ``HOST:PORT``.
        debug: show what workers print and log.

    Raises:
        ConfigError: a local machine without enough GPUs, or an environment in which Ray is not safe.
        RunError: the cluster cannot be reached.
    """
    _check_reachable(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(f"RAY_TRAIN_{name}", value)
    import_ray(address)  # only now: the settings above are read at import
    import ray

    if ray.is_initialized():
        yield
    elif address == "local":
        with _local_cluster(demand, debug=debug):
            yield
    else:
        try:
            ray.init(address=address, log_to_driver=debug, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(
                f"no Ray cluster at {address}: {' '.join(str(error).split())}; check the address, and that "
                "RAY_AUTH_MODE and the token are those of the cluster"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _local_cluster(demand: Demand, *, debug: bool) -> Generator[None]:
    import ray

    needed = math.ceil(demand.workers * demand.resources.cpus_per_worker)
    available = machine_cpus()
    if needed > available:
        logger.warning("%d CPUs are asked for on a machine with %d; workers share them", needed, available)
    folder = tempfile.mkdtemp(prefix="rx-")  # short: socket paths below it are limited to about 107 characters
    try:
        with on_loopback():
            ray.init(
                address="local",
                num_cpus=max(needed, available),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=debug,
                logging_level=logging.WARNING,
                _temp_dir=folder,
            )
        try:
            _check_gpus(demand)
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine_cpus() -> int:
    """CPUs of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_reachable(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for ever.

    Raises:
        RunError: no server at the HOST:PORT of ``address``.
    """
    server = named_server(address)
    if server is None:
        return
    try:
        socket.create_connection(server, timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"no Ray cluster at {address}: {error}; check host, port and that the head is running"
        ) from error


def _check_gpus(demand: Demand) -> None:
    import ray

    needed = demand.workers * demand.resources.gpus_per_worker
    available = ray.cluster_resources().get("GPU", 0.0)
    if needed > available:
        raise ConfigError(
            f"{demand.workers} workers with resources.gpus_per_worker={demand.resources.gpus_per_worker} need "
            f"{needed:g} GPUs, this machine has {available:g}; set fewer workers, or gpus_per_worker=0"
        )


def shortage(demand: Demand) -> str | None:
    """That the connected cluster lacks something for this right now, or None; more nodes may still join."""
    lack = missing(demand)
    return None if lack is None else f"waiting for the cluster to offer {lack}"


def missing(demand: Demand) -> str | None:
    """What the connected cluster has too little of, whoever uses it; for an elastic run, to start at all."""
    import ray

    have = ray.cluster_resources()
    resources = demand.resources
    workers = resources.sizes(demand.workers)[0]
    lacks = [
        f"{needed:g} {name} (it has {have.get(name, 0.0):g})"
        for name, needed in (("CPU", workers * resources.cpus_per_worker), ("GPU", workers * resources.gpus_per_worker))
        if needed > have.get(name, 0.0)
    ]
    return " and ".join(lacks) if lacks else None
