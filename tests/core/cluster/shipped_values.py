"""The shipped values, rendered once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrain_xai.cli.cluster import sources_of
from raytrain_xai.cluster.render import manifests
from raytrain_xai.cluster_config import ClusterValues, load_values

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ("base", "cpu", "gpu", "spot", "dev-kind")


@dataclass(frozen=True)
class Shipped:
    """One of the shipped files of values: its folder of manifests, and what it stands for."""

    folder: Path
    values: ClusterValues
    found: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [manifest for manifest in self.found if manifest["kind"] == kind]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        return next(manifest for manifest in self.of_kind(kind) if manifest["metadata"]["name"] == name)


def render(name: str, *overrides: str) -> Shipped:
    values = load_values(ROOT / "cluster" / "values" / f"{name}.yaml", overrides)
    folder = ROOT / "cluster" / ("base" if name == "base" else f"overlays/{name}")
    return Shipped(folder, values, manifests(values, sources_of(values)))
