"""What a cluster can give to the trials of a sweep: whether one fits at all, and how many run at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        total: of the whole cluster.
        nodes: of every node.
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

    Ray does not tell how far an autoscaler may grow its cluster. So where no node has any of what the workers of a
    trial need, as before the first node comes, ``wanted`` is taken as it is; ``resources.capacity_deadline_s`` bounds
    the wait.

    Raises:
        ConfigError: not even one trial fits, or one of its workers fits on no node.
    """
    workers, need = max(run.workers, 1), _per_worker(run)
    alone = {**need, "CPU": need["CPU"] + (DRIVER_CPUS / workers if run.workers else 0.0)}
    lack = _lack(need, capacity) or _lack_of_a_trial(alone, workers, capacity)
    if lack is None:
        room = min(math.floor(capacity.total[name] / (each * workers) + 1e-9) for name, each in alone.items())
        return min(wanted, room) if wanted is not None else room
    is_empty = any(all(node.get(name, 0.0) == 0 for node in capacity.nodes) for name in need)
    if wanted is not None and run.workers and is_empty:
        return wanted
    hint = "; where an autoscaler is to bring them, say how many trials train together: concurrent"
    raise ConfigError(lack + (hint if run.workers and is_empty else ""))


def _lack(need: Mapping[str, float], capacity: Capacity) -> str | None:
    for name, each in need.items():
        largest = max((node.get(name, 0.0) for node in capacity.nodes), default=0.0)
        if each > largest:
            return (
                f"a worker needs {each:g} {name} (resources.{name.lower()}s_per_worker), the largest node of this "
                f"cluster has {largest:g}; set less, or use a cluster with larger nodes"
            )
    return None


def _lack_of_a_trial(alone: Mapping[str, float], workers: int, capacity: Capacity) -> str | None:
    for name, each in alone.items():
        most = capacity.total.get(name, 0.0)
        if each * workers > most:
            return (
                f"one trial needs {each * workers:g} {name} ({workers} worker(s)), this cluster has {most:g}; set "
                "fewer workers or less in resources"
            )
    return None


def cluster_capacity() -> Capacity:
    """What the connected cluster has now."""
    import ray

    return Capacity(ray.cluster_resources(), [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _per_worker(run: AnyRunConfig) -> dict[str, float]:
    need = {"CPU": run.resources.cpus_per_worker}
    return need | ({"GPU": run.resources.gpus_per_worker} if run.resources.gpus_per_worker > 0 else {})
