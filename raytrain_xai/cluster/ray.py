"""Ray on Kubernetes: the cluster for interactive work, and the service.

Fields are those of KubeRay 1.7 (``ray.io/v1``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from raytrain_xai.cluster.documents import Document, document, dump, present
from raytrain_xai.cluster.pods import AGENT_PORT, CONTAINER_SECURITY, METRICS_PORT, SCRATCH, Role, pod_template
from raytrain_xai.cluster_config import ClusterValues, GroupValues, Pool, ServeValues
from raytrain_xai.errors import ConfigError

API = "ray.io/v1"
_POOLS: tuple[Pool, ...] = ("data", "train", "spot")
_STARTED_WITH = {"metrics-export-port": str(METRICS_PORT), "dashboard-agent-listen-port": str(AGENT_PORT)}
_PREFERENCE = {"data": 30, "spot": 20, "train": 10}  # where a task fits several groups, the cheapest one grows


def cluster_spec(
    values: ClusterValues, groups: Sequence[dict[str, Any]], *, grows: bool, serves: bool = False
) -> Document:
    """Specification of a Ray cluster: a head on which no work lands, and worker groups.

    Args:
        grows: by the autoscaler; otherwise every group has the size it starts with.
        serves: part of a service.
    """
    head = Role("head", values.head, "serve" if serves else "batch")
    return present({
        "rayVersion": values.ray_version,
        "enableInTreeAutoscaling": grows,
        "autoscalerOptions": _autoscaler(values) if grows else None,
        "authOptions": {"mode": "token", "secretName": values.token_secret},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "enableIngress": False,
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"} | _STARTED_WITH,
            "template": pod_template(values, head),
        },
        "workerGroupSpecs": list(groups),
    })  # fmt: skip


def worker_group(
    values: ClusterValues, name: Pool, *, fixed: int | None = None, most: int | None = None
) -> dict[str, Any]:
    """Workers of a kind: as many as the values say and at ``most`` so many, or exactly ``fixed`` of them."""
    size = values.pool(name)
    component = name if getattr(values, name) is not None else "data"
    if most is not None:
        size = size.model_copy(update={"min_replicas": min(size.min_replicas, most), "max_replicas": most})
    group = _group(values, Role(component, size, "batch"), size, fixed)
    return group | {"priority": _PREFERENCE[component]} if fixed is None else group


def ray_cluster(values: ClusterValues) -> Document:
    """The cluster that stays: for `ray job submit` and notebooks, its GPU workers from zero."""
    pools: list[Pool] = [pool for pool in _POOLS if getattr(values, pool) is not None]
    spec = cluster_spec(values, [worker_group(values, pool) for pool in pools], grows=True)
    return document(values, API, "RayCluster", values.name, spec=spec | _tolerant(values))


def ray_service(values: ClusterValues, serve: ServeValues, config: str) -> Document:
    """The service: a change of the cluster builds a second one, and requests move when it is ready.

    Args:
        config: text of Ray Serve's configuration.
    """
    group = _group(values, Role("serve", serve, "serve", serves=True), serve, None)
    spec = {
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": 300,
        "excludeHeadPodFromServeSvc": True,
        "serveConfigV2": serve_config(serve, config),
        "rayClusterConfig": cluster_spec(values, [group], grows=True, serves=True) | _tolerant(values),
    }
    return document(values, API, "RayService", f"{values.name}-serve", spec=spec)


def serve_config(serve: ServeValues, config: str) -> str:
    """Ray Serve's configuration with the replicas that fit on the workers.

    Raises:
        ConfigError: the text is no configuration, or a replica is larger than a worker.
    """
    content = yaml.safe_load(config)
    if not isinstance(content, dict) or not isinstance(content.get("applications"), list):
        raise ConfigError("the configuration of Ray Serve lists no applications; see serve/config/production.yaml")
    for application in content["applications"]:
        arguments = application.setdefault("args", {})
        replica = arguments.setdefault("replica", {})
        replica |= {key: int(value) if value == int(value) else value for key, value in serve.replica.items()}
        _check_fits(serve, replica)
    return dump(content).rstrip("\n")  # kustomize keeps no line break at the end of a patched text


def _check_fits(serve: ServeValues, replica: dict[str, Any]) -> None:
    for key, room in (("num_cpus", serve.cpu), ("num_gpus", serve.gpus)):
        if replica.get(key, 0) > room:
            raise ConfigError(
                f"a replica of the service needs {key}={replica[key]}, a worker has {room}; raise serve.{key[4:]} or "
                f"set serve.replica.{key}"
            )


def _group(values: ClusterValues, role: Role, size: GroupValues, fixed: int | None) -> dict[str, Any]:
    low, high = (size.min_replicas, size.max_replicas) if fixed is None else (fixed, fixed)
    return present({
        "groupName": role.component,
        "replicas": low,
        "minReplicas": low,
        "maxReplicas": high,
        "idleTimeoutSeconds": size.idle_s if fixed is None else None,
        "rayStartParams": dict(_STARTED_WITH),
        "template": pod_template(values, role),
    })  # fmt: skip


def _autoscaler(values: ClusterValues) -> dict[str, Any]:
    amounts = {"cpu": "500m", "memory": "1Gi"}
    return {
        "version": "v2",
        "upscalingMode": "Default",
        "idleTimeoutSeconds": values.data.idle_s,
        "imagePullPolicy": values.image.pull_policy,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}, {"name": "HOME", "value": SCRATCH["mountPath"]}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": copy.deepcopy(CONTAINER_SECURITY),
        "volumeMounts": [dict(SCRATCH)],
    }


def _tolerant(values: ClusterValues) -> dict[str, Any]:
    """Fault tolerance of the head, for clusters that outlive it; a job begins again instead."""
    if values.redis is None:
        return {}
    password = {"secretKeyRef": {"name": values.redis.secret, "key": "password"}}
    return {
        "gcsFaultToleranceOptions": {
            "backend": "redis",
            "redisAddress": values.redis.address,
            "redisPassword": {"valueFrom": password},
        }
    }
