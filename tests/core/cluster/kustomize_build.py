"""What of kustomize is used here: ``resources`` (files, folders) and ``patches`` (JSON patches by target, deletions).

Written from the documents of kustomize 5 and RFC 6902, apart from the code that makes the patches.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kuberay_schema import KUSTOMIZATION

Document = dict[str, Any]


def build(folder: Path) -> list[Document]:
    """What ``kubectl kustomize FOLDER`` prints, in the order of the resources."""
    index = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(index, KUSTOMIZATION)
    found: list[Document] = []
    for name in index["resources"]:
        path = folder / name
        found += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    names = [_key(document) for document in found]
    assert len(set(names)) == len(names), "two resources of one kind and name"
    for entry in index.get("patches", []):
        found = _patched(found, yaml.safe_load(entry["patch"]), entry.get("target"))
    return found


def _patched(found: list[Document], patch: Any, target: dict[str, str] | None) -> list[Document]:
    if isinstance(patch, dict):
        assert patch.get("$patch") == "delete", "only deletions are merged strategically here"
        rest = [document for document in found if _key(document) != _key(patch)]
        assert len(rest) == len(found) - 1, f"nothing to delete: {_key(patch)}"
        return rest
    assert target is not None
    chosen = [document for document in found if _matches(document, target)]
    assert chosen, f"no resource for {target}"
    for document in chosen:
        for operation in patch:
            _apply(document, operation)
    return found


def _key(document: Document) -> tuple[str, ...]:
    metadata = document["metadata"]
    return document["apiVersion"], document["kind"], metadata.get("namespace", ""), metadata["name"]


def _matches(document: Document, target: dict[str, str]) -> bool:
    group, _, version = document["apiVersion"].rpartition("/")
    actual = {"group": group, "version": version, "kind": document["kind"], "name": document["metadata"]["name"]}
    return all(re.fullmatch(f"(?:{pattern})", actual[key]) for key, pattern in target.items())


def _apply(document: Document, operation: dict[str, Any]) -> None:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    node: Any = document
    for part in parts[:-1]:
        node = node[int(part)] if isinstance(node, list) else node[part]
    key: Any = parts[-1]
    if isinstance(node, list):
        key = len(node) if key == "-" else int(key)
    kind = operation["op"]
    if kind == "add" and isinstance(node, list):
        assert key <= len(node)
        node.insert(key, operation["value"])
    elif kind == "add":
        node[key] = operation["value"]
    elif kind == "replace":
        there = range(len(node)) if isinstance(node, list) else node
        assert key in there, f"nothing to replace at {operation['path']}"
        node[key] = operation["value"]
    else:
        assert kind == "remove"
        del node[key]
