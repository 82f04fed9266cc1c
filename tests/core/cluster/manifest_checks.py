"""Strict checks of manifests: custom resources by the schemas here, pods and everything else by Kubernetes' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kuberay_schema import RESOURCES

KUBERNETES = "1.34"


class Wrong(Exception):
    """A manifest that a cluster would not take as it is meant."""


def check(manifest: dict[str, Any]) -> None:
    """Raise :class:`Wrong` for unknown keys, missing ones and wrong types, anywhere in a manifest."""
    try:
        if manifest["kind"] not in RESOURCES:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            return
        jsonschema.validate(manifest, RESOURCES[manifest["kind"]])
        for pod in pods_of(manifest["spec"]):
            _check_pod(json.dumps(pod))
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        raise Wrong(str(error)) from error


@cache  # the same pods stand in many manifests
def _check_pod(pod: str) -> None:
    kubernetes_validate.validate(json.loads(pod), KUBERNETES, strict=True)


def clusters_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Specification of the Ray cluster within a manifest, if there is one."""
    spec = manifest.get("spec", {})
    spec = spec.get("jobTemplate", spec)
    if manifest["kind"] == "RayCluster":
        return [spec]
    return [spec[key] for key in ("rayClusterSpec", "rayClusterConfig") if key in spec]


def templates_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod templates of head and workers."""
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", []))]


def pods_of(node: Any) -> Iterator[dict[str, Any]]:
    """Everything below that Kubernetes knows as a pod or as part of one, as pods."""
    if isinstance(node, list):
        for item in node:
            yield from pods_of(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in ("template", "submitterPodTemplate"):
            yield _pod(value)
        elif key == "autoscalerOptions":
            known = ("resources", "image", "imagePullPolicy", "securityContext", "env", "envFrom", "volumeMounts")
            yield _of_container({part: value[part] for part in known if part in value})
        elif key in ("redisPassword", "redisUsername"):
            yield _of_container({"env": [{"name": "PASSWORD"} | value]})
        else:
            yield from pods_of(value)


def _of_container(container: dict[str, Any]) -> dict[str, Any]:
    return _pod({"spec": {"containers": [{"name": "any"} | container]}})


def _pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod"} | template | {"metadata": {"name": "any"} | template.get("metadata", {})}
