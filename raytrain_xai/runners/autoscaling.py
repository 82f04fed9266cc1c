"""What Ray leaves on a cluster after a run, kept off the nodes that are to go again."""

from __future__ import annotations

import ray
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_NAME = "AutoscalingCoordinator"  # and namespace: Ray looks for it by both
_HEAD = "node:__internal_head__"


def coordinator_on_head() -> None:
    """Start the actor that collects what runs ask of the autoscaler on the head of the connected cluster.

    It outlives all runs. Ray (2.60) starts it beside the controller of the first one: for a trial of a sweep, or a job
    with CPUs of its own, on a node of workers, which would then never be idle and never go. Where it runs already, it
    stays.
    """
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]]
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(
        coordinator._AutoscalingCoordinatorActor  # pyright: ignore[reportPrivateUsage]
    )
    actor.options(
        name=_NAME, namespace=_NAME, get_if_exists=True, lifetime="detached",
        scheduling_strategy=NodeAffinitySchedulingStrategy(heads[0], soft=False),
    ).remote()  # fmt: skip
