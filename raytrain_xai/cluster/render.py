"""From values to a folder that ``kubectl apply -k`` takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raytrain_xai.cluster.differences import patches_between
from raytrain_xai.cluster.documents import Document, dump, file_name, identity
from raytrain_xai.cluster.jobs import ray_cron_job, ray_job
from raytrain_xai.cluster.monitoring import monitoring
from raytrain_xai.cluster.network import network
from raytrain_xai.cluster.platform import platform
from raytrain_xai.cluster.ray import ray_cluster, ray_service
from raytrain_xai.cluster_config import ClusterValues
from raytrain_xai.errors import ConfigError

INDEX = "kustomization.yaml"
_HEADER = "# Made by `raytrain-xai cluster render`: change the values and render again.\n"


@dataclass(frozen=True)
class Sources:
    """Texts that manifests carry: Ray Serve's configuration (YAML) and Grafana's dashboard (JSON)."""

    serve_config: str
    dashboard: str


def manifests(values: ClusterValues, sources: Sources) -> list[Document]:
    """All manifests of a cluster, in an order in which they can be applied.

    Raises:
        ConfigError: a command of a job cannot be filled in, or the service does not fit on its workers.
    """
    found = [*platform(values), *network(values), *monitoring(values, sources.dashboard), ray_cluster(values)]
    found += [ray_job(values, name, job) for name, job in values.jobs.items()]
    if values.serve is not None:
        found.append(ray_service(values, values.serve, sources.serve_config))
    found += [ray_cron_job(values, name, job) for name, job in values.nightly.items()]
    return found


def write_manifests(found: Sequence[Document], out: Path, base: Path | None = None) -> list[Path]:
    """Write manifests with the index that kustomize reads.

    Args:
        out: folder; files of an earlier rendering there are replaced.
        base: folder of another rendering; then only what differs from it is written.
    Returns:
        What was written, the index first.
    Raises:
        ConfigError: ``out`` holds something else, or ``base`` no rendering.
    """
    index: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    added = list(found)
    resources: list[str] = []
    patches: list[dict[str, Any]] = []
    if base is not None:
        there = read_manifests(base)
        known = {identity(manifest) for manifest in there}
        added = [manifest for manifest in found if identity(manifest) not in known]
        resources, patches = [Path(os.path.relpath(base, out)).as_posix()], patches_between(there, found)
    index["resources"] = resources + [file_name(manifest) for manifest in added]
    if patches:
        index["patches"] = patches
    _make_room(out)
    texts = {INDEX: dump(index)} | {file_name(manifest): dump(manifest) for manifest in added}
    for name, text in texts.items():
        (out / name).write_text(_HEADER + text, encoding="utf-8")
    return [out / name for name in texts]


def read_manifests(folder: Path) -> list[Document]:
    """The manifests of a rendering that stands by itself.

    Raises:
        ConfigError: the folder is none, or one that builds upon another.
    """
    index = _index_of(folder)
    if index is None or index.get("patches"):
        raise ConfigError(f"{folder} holds no complete rendering; give a folder written without --base")
    return [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in index["resources"]]


def _make_room(out: Path) -> None:
    """An empty folder, or one without the files of an earlier rendering."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder")
    index = _index_of(out)
    if index is None and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds files that are not a rendering; give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in index["resources"] if index is not None else ():
        if "/" not in name and name.endswith(".yaml"):
            (out / name).unlink(missing_ok=True)


def _index_of(folder: Path) -> dict[str, Any] | None:
    file = folder / INDEX
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return yaml.safe_load(text) if text.startswith(_HEADER) else None
