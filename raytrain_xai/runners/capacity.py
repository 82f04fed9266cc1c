"""What a cluster can give to the trials of a sweep: whether one fits at all, and how many run at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.cluster import machine_cpus
from raytrain_xai.runners.tasks import Crew

DRIVER_CPUS = 0.1
"""Of a trial that only waits for its own workers. Not 0: a node without free CPUs should get no more of them."""


@dataclass(frozen=True)
class Capacity:
    """Resources by Ray's names (CPU, GPU).

    Attributes:
        total: of the whole cluster, grown as far as its autoscaler may.
        nodes: of every node, and of every kind of node that the autoscaler may add.
    """

    total: Mapping[str, float]
    nodes: Sequence[Mapping[str, float]]


def crew_of_trials(run: AnyRunConfig, trials: int, address: str, *, debug: bool) -> Crew:
    """All workers of ``trials`` trials at a time, as a demand on a cluster; drivers are shared out among them."""
    if run.workers == 0:
        return Crew(trials, run.resources, address, debug=debug)
    cpus = run.resources.cpus_per_worker + DRIVER_CPUS / run.workers
    resources = run.resources.model_copy(update={"cpus_per_worker": cpus})
    return Crew(trials * run.workers, resources, address, debug=debug)


def check_machine(run: AnyRunConfig) -> None:
    """Refuse a trial that a cluster of this machine alone can never hold.

    A single run may ask for more workers than there are CPUs, which then share them; a sweep of such runs would only
    get slower.

    Raises:
        ConfigError: says how many CPUs are asked for, and how many there are.
    """
    needed, available = max(run.workers, 1) * run.resources.cpus_per_worker, machine_cpus()
    if needed > available:
        raise ConfigError(
            f"one trial needs {needed:g} CPU ({max(run.workers, 1)} worker(s)), this machine has {available}; "
            "set fewer workers or less in resources, or give the --address of a cluster"
        )


def trials_at_a_time(run: AnyRunConfig, capacity: Capacity, wanted: int | None) -> int:
    """How many trials train together: ``wanted``, or as many as there is room for.

    Raises:
        ConfigError: not even one trial will ever fit, or one of its workers fits on no node.
    """
    workers, need = max(run.workers, 1), _per_worker(run)
    alone = {**need, "CPU": need["CPU"] + (DRIVER_CPUS / workers if run.workers else 0.0)}
    for name, each in need.items():
        largest = max((node.get(name, 0.0) for node in capacity.nodes), default=0.0)
        if each > largest:
            raise ConfigError(
                f"a worker needs {each:g} {name} (resources.{name.lower()}s_per_worker), the largest node of this "
                f"cluster has {largest:g}; set less, or use a cluster with larger nodes"
            )
    for name, each in alone.items():
        most = capacity.total.get(name, 0.0)
        if each * workers > most:
            raise ConfigError(
                f"one trial needs {each * workers:g} {name} ({workers} worker(s)), this cluster can never give more "
                f"than {most:g}; set fewer workers or less in resources"
            )
    room = min(math.floor(capacity.total[name] / (each * workers) + 1e-9) for name, each in alone.items())
    return min(wanted, room) if wanted is not None else room


def cluster_capacity() -> Capacity:
    """What the connected cluster has, or may grow to where its autoscaler tells."""
    import ray
    from ray.util.client import ray as client

    if client.is_connected():  # the state below is out of reach of a client
        return ray.get(ray.remote(num_cpus=0)(_capacity).remote())
    return _capacity()


def _capacity() -> Capacity:
    import ray
    from ray._private.state import state  # no public way to the limits of the autoscaler in Ray 2.60; Ray Data does so

    nodes: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now = ray.cluster_resources()
    most: Mapping[str, Any] = state.get_max_resources_from_cluster_config() or {}
    config = state.get_cluster_config()
    kinds = [dict(group.resources) for group in config.node_group_configs] if config is not None else []
    total = {name: max(now.get(name, 0.0), float(most.get(name, 0.0))) for name in {*now, *most}}
    return Capacity(total, [*nodes, *kinds])


def _per_worker(run: AnyRunConfig) -> dict[str, float]:
    need = {"CPU": run.resources.cpus_per_worker}
    return need | ({"GPU": run.resources.gpus_per_worker} if run.resources.gpus_per_worker > 0 else {})
