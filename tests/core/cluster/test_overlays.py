"""The folders in the repository are what their values give, and kustomize sees in them what was rendered."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kustomize_build import build
from shipped_values import ROOT, Shipped, render

from raytrain_xai.cluster.differences import changes_between
from raytrain_xai.cluster.documents import dump
from raytrain_xai.cluster.render import write_manifests


def in_order(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(documents, key=lambda document: (document["kind"], document["metadata"]["name"]))


def texts_of(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def test_folders_are_up_to_date(shipped: Shipped, tmp_path: Path) -> None:
    """If this fails, render again; the commands are in cluster/README.md."""
    is_base = shipped.folder.name == "base"
    out = tmp_path / "cluster" / shipped.folder.relative_to(ROOT / "cluster")
    if not is_base:
        shutil.copytree(ROOT / "cluster" / "base", tmp_path / "cluster" / "base")
    write_manifests(shipped.found, out, None if is_base else tmp_path / "cluster" / "base")
    assert texts_of(out) == texts_of(shipped.folder)


def test_kustomize_builds_what_was_rendered(shipped: Shipped) -> None:
    assert in_order(build(shipped.folder)) == in_order(shipped.found)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which brings kustomize")
def test_kubectl_builds_what_was_rendered(shipped: Shipped) -> None:
    command = ["kubectl", "kustomize", str(shipped.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert in_order(list(yaml.safe_load_all(done.stdout))) == in_order(shipped.found)


def test_an_overlay_adds_what_the_base_lacks(base: Shipped, tmp_path: Path) -> None:
    wanted = render("base", "ingress.host=a.example.org", "ingress.tls_secret=tls", "queue=q", "namespace=other")
    write_manifests(base.found, tmp_path / "base")
    write_manifests(wanted.found, tmp_path / "overlay", tmp_path / "base")
    assert in_order(build(tmp_path / "overlay")) == in_order(wanted.found)
    assert (tmp_path / "overlay" / "ingress-raytrain-xai-serve.yaml").is_file()


def test_changes_are_those_one_would_write() -> None:
    old = {
        "a": 1,
        "b": {"x/y": 1, "z": [1, 2]},
        "groups": [{"name": "p", "n": 1}, {"name": "q", "n": 2}, {"name": "r"}],
    }
    new = {"b": {"x/y": 2, "z": [1, 3]}, "groups": [{"name": "p", "n": 5}, {"name": "r"}, {"name": "s"}], "c": None}
    assert list(changes_between(old, new)) == [
        {"op": "remove", "path": "/a"},
        {"op": "replace", "path": "/b/x~1y", "value": 2},
        {"op": "replace", "path": "/b/z", "value": [1, 3]},
        {"op": "remove", "path": "/groups/1"},
        {"op": "replace", "path": "/groups/0/n", "value": 5},
        {"op": "add", "path": "/groups/2", "value": {"name": "s"}},
        {"op": "add", "path": "/c", "value": None},
    ]
    assert list(changes_between({"a": True}, {"a": 1})) == [{"op": "replace", "path": "/a", "value": 1}]


def test_a_list_whose_order_changes_is_replaced() -> None:
    old, new = [{"name": "p"}, {"name": "q"}], [{"name": "q"}, {"name": "p"}]
    assert list(changes_between(old, new, "/l")) == [{"op": "replace", "path": "/l", "value": new}]


def test_yaml_has_no_anchors_and_keeps_lines() -> None:
    shared = {"k": "a\nb\n"}
    assert dump({"x": [shared, shared]}) == "x:\n  - k: |\n      a\n      b\n  - k: |\n      a\n      b\n"
