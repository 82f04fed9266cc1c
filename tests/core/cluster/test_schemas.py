"""Every manifest that is shipped is taken, and a key with one wrong letter is caught wherever it stands."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from kustomize_build import build
from manifest_checks import Wrong, check
from shipped_values import ROOT, Shipped, render

FREE = ("labels", "annotations", "matchLabels", "rayStartParams", "requests", "limits", "data", "nodeSelector")
KINDS = (
    "Namespace", "ServiceAccount", "Role", "RoleBinding", "PriorityClass", "PodDisruptionBudget", "NetworkPolicy",
    "Ingress", "ConfigMap", "PodMonitor", "RayCluster", "RayJob", "RayService", "RayCronJob",
)  # fmt: skip
REACHABLE = ("ingress.host=xai.example.org", "ingress.tls_secret=certificate", "ingress.class_name=nginx")


@pytest.fixture(scope="module")
def everything() -> Shipped:
    """Whatever can be switched on, on."""
    return render("gpu", *REACHABLE, "spot.gpu_type=L4", "storage.secret=s3", "image.pull_secrets=[registry]")


def test_all_that_is_shipped_is_taken(shipped: Shipped) -> None:
    found = build(shipped.folder)
    assert len(found) >= 20
    for manifest in found:
        check(manifest)


def test_all_that_can_be_switched_on_is_taken(everything: Shipped) -> None:
    assert {manifest["kind"] for manifest in everything.found} == set(KINDS)
    for manifest in everything.found:
        check(manifest)


def keys_in(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all keys whose names are not free."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not (path and path[-1] in FREE):
                yield (*path, key)
            yield from keys_in(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node[:1]):
            yield from keys_in(value, (*path, index))


def misspelt(manifest: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    node: Any = changed
    for part in path[:-1]:
        node = node[part]
    node[f"{path[-1]}x"] = node.pop(path[-1])
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_every_misspelt_key_is_caught(everything: Shipped, kind: str) -> None:
    manifest = everything.of_kind(kind)[-1]
    paths = [path for path in keys_in(manifest) if path not in (("kind",), ("apiVersion",))]
    assert len(paths) >= 3
    step = max(1, len(paths) // 60)  # of the long ones every few keys
    for path in paths[::step]:
        with pytest.raises(Wrong):
            check(misspelt(manifest, path))
            pytest.fail(f"{kind}: {path} may be misspelt")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("workerGroupSpecs", 0, "minReplicas"), "1"),
        (("workerGroupSpecs", 0, "maxReplica"), 1),
        (("autoscalerOptions", "idleTimeout"), 60),
        (("autoscalerOptions", "version"), "v3"),
        (("autoscalerOptions", "resources"), {"limit": {"cpu": "1"}}),
        (("authOptions", "mode"), "tokens"),
        (("gcsFaultToleranceOptions", "redisPassword"), {"valueFrom": {"secretRef": {"name": "a", "key": "b"}}}),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("headGroupSpec", "template", "spec", "containers", 0, "resource"), {}),
    ],
)
def test_known_mistakes_are_caught(base: Shipped, path: tuple[Any, ...], value: Any) -> None:
    manifest = copy.deepcopy(base.named("RayCluster", "raytrain-xai"))
    node: Any = manifest["spec"]
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(Wrong):
        check(manifest)


def test_the_folders_hold_nothing_else() -> None:
    for name in ("base", "overlays/cpu", "overlays/gpu", "overlays/spot", "overlays/dev-kind"):
        folder = ROOT / "cluster" / name
        assert all(file.read_text(encoding="utf-8").startswith("# Made by") for file in folder.iterdir())
