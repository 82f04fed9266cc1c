"""Pods of the head and of workers: image, environment, sizes, probes, and what they may not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from raytrain_xai.cluster.documents import COMPONENT, PART_OF, present
from raytrain_xai.cluster_config import ClusterValues, GpuGroupValues, GroupValues, HeadValues, ServeValues, SpotValues

USER = 1000  # of the image
KEYS_FOLDER = "/etc/raytrain-xai"
Component = Literal["head", "data", "train", "spot", "serve"]

AGENT_PORT, METRICS_PORT = 52365, 8080
_NODE_HEALTH = "/api/healthz"  # of Ray's agent on every node; open without a token
_PROXY_PORT, _PROXY_HEALTH = 8000, "/-/healthz"


@dataclass(frozen=True)
class Role:
    """What a pod is for.

    Attributes:
        component: value of its label.
        size: of its container.
        priority: its PriorityClass without the name of the installation.
        serves: whether requests from outside may reach it.
    """

    component: Component
    size: HeadValues | GroupValues
    priority: Literal["serve", "batch"]
    serves: bool = False


def pod_template(values: ClusterValues, role: Role) -> dict[str, Any]:
    """Template of a head or worker pod."""
    labels = {PART_OF: values.name, COMPONENT: role.component}
    spec = {
        "serviceAccountName": f"{values.name}-head" if role.component == "head" else values.name,
        "automountServiceAccountToken": role.component == "head",  # the autoscaler beside the head needs it
        "enableServiceLinks": False,
        "restartPolicy": "Never",  # a Ray node is replaced, never restarted
        "terminationGracePeriodSeconds": _grace(role),
        "priorityClassName": f"{values.name}-{role.priority}",
        "imagePullSecrets": [{"name": name} for name in values.image.pull_secrets] or None,
        "securityContext": POD_SECURITY,
        "nodeSelector": _nodes(role.size) or None,
        "tolerations": _tolerations(role.size) or None,
        "affinity": _together(labels) if role.component in ("train", "spot") else None,
        "topologySpreadConstraints": _spread(labels) if role.component in ("data", "serve") else None,
        "containers": [_container(values, role)],
        "volumes": _volumes(role),
    }
    metadata: dict[str, Any] = {"labels": labels}
    if role.component in ("head", "train"):
        metadata["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"metadata": metadata, "spec": present(spec)}


POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SCRATCH = {"name": "scratch", "mountPath": "/tmp"}  # what Ray writes, and HOME


def environment(values: ClusterValues) -> list[dict[str, Any]]:
    """Variables of a Ray container; secrets by reference only."""
    storage = values.storage
    plain = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": SCRATCH["mountPath"],
        "PYTHONUNBUFFERED": "1",
        "AWS_REGION": storage.region,
        "AWS_ENDPOINT_URL": storage.endpoint,
    }
    variables: list[dict[str, Any]] = [{"name": k, "value": v} for k, v in plain.items() if v is not None]
    if storage.secret is not None:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            source = {"secretKeyRef": {"name": storage.secret, "key": key}}
            variables.append({"name": key, "valueFrom": source})
    return variables


def gpus_of(size: HeadValues | GroupValues) -> int:
    """GPUs of a pod."""
    return size.gpus if isinstance(size, GpuGroupValues) else 0


def _container(values: ClusterValues, role: Role) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [dict(SCRATCH)]
    if isinstance(role.size, ServeValues):
        mounts.append({"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True})
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "name": "ray-head" if role.component == "head" else "ray-worker",
        "image": values.image.cuda if gpus_of(role.size) else values.image.cpu,
        "imagePullPolicy": values.image.pull_policy,
        "ports": _ports(role),
        "env": environment(values),
        "resources": _resources(role.size),
        "securityContext": CONTAINER_SECURITY,
        "startupProbe": _node_check() | {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 60},
        "livenessProbe": _node_check() | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 12},
        "readinessProbe": (_serving_check() if role.serves else _node_check())
        | {"periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 3},
        "volumeMounts": mounts,
    }


def _ports(role: Role) -> list[dict[str, Any]]:
    ports = {"metrics": METRICS_PORT}
    if role.component == "head":
        ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001} | ports
    if role.serves or role.component == "head":
        ports["serve"] = 8000
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]


def _resources(size: HeadValues | GroupValues) -> dict[str, Any]:
    amounts = {"cpu": str(size.cpu), "memory": size.memory, "ephemeral-storage": size.disk}
    if gpus_of(size):
        amounts["nvidia.com/gpu"] = str(gpus_of(size))
    return {"requests": dict(amounts), "limits": dict(amounts)}  # equal: Ray counts on what it was promised


def _node_check() -> dict[str, Any]:
    return {"httpGet": {"path": _NODE_HEALTH, "port": AGENT_PORT}}


def _serving_check() -> dict[str, Any]:
    """Both the node and its proxy, which is there only where replicas are: two questions, one probe."""
    code = "import sys, urllib.request as r; [r.urlopen(url, timeout=4) for url in sys.argv[1:]]"
    paths = (f"{AGENT_PORT}{_NODE_HEALTH}", f"{_PROXY_PORT}{_PROXY_HEALTH}")
    return {"exec": {"command": ["python", "-c", code, *(f"http://127.0.0.1:{path}" for path in paths)]}}


def _volumes(role: Role) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {"sizeLimit": role.size.disk}}]
    if isinstance(role.size, ServeValues):
        secret = {"secretName": role.size.keys_secret, "defaultMode": 0o440}
        volumes.append({"name": "keys", "secret": secret})
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _third(role.size.memory)}})
    return volumes


def _third(memory: str) -> str:
    """A little above the 30 % that Ray gives to its object store."""
    amount, unit = int(memory[:-2]), memory[-2:]
    return f"{amount * (1024 if unit == 'Gi' else 1) // 3}Mi"


def _grace(role: Role) -> int:
    if isinstance(role.size, SpotValues):
        return role.size.notice_s
    return 60 if role.serves else 120


def _nodes(size: HeadValues | GroupValues) -> dict[str, str]:
    nodes: dict[str, str] = {}
    if isinstance(size, GpuGroupValues) and size.gpu_type is not None:
        nodes[size.gpu_label] = size.gpu_type
    if isinstance(size, SpotValues):
        nodes[size.label] = "true"
    return nodes


def _tolerations(size: HeadValues | GroupValues) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    if gpus_of(size):
        found.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if isinstance(size, SpotValues):
        found.append({"key": size.label, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    return found


def _spread(labels: dict[str, str]) -> list[dict[str, Any]]:
    # a preference: a place in one zone is better than none
    common = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": labels}}
    return [{"topologyKey": key} | common for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")]


def _together(labels: dict[str, str]) -> dict[str, Any]:
    """Workers of a training in one zone: gradients that cross zones are slow, and paid for."""
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "topology.kubernetes.io/zone"}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
