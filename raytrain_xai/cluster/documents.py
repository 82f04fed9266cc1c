"""What all manifests share: the form of a document, its file, and YAML as people read it."""

from __future__ import annotations

from typing import Any

import yaml

from raytrain_xai.cluster_config import ClusterValues

Document = dict[str, Any]
PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"


def document(
    values: ClusterValues, api_version: str, kind: str, name: str, *,
    labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, namespaced: bool = True,
    **fields: Any,
) -> Document:  # fmt: skip
    """A manifest with the labels that all of them have; fields without a value are left out."""
    metadata: Document = {"name": name}
    if namespaced:
        metadata["namespace"] = values.namespace
    metadata["labels"] = {PART_OF: values.name} | (labels or {})
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata} | present(fields)


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """Without the keys whose value is None."""
    return {key: value for key, value in fields.items() if value is not None}


def identity(manifest: Document) -> tuple[str, str, str]:
    """API version, kind and name: what tells manifests of one cluster apart."""
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def file_name(manifest: Document) -> str:
    """Name of the file of a manifest."""
    return f"{manifest['kind'].lower()}-{manifest['metadata']['name']}.yaml"


class _Dumper(yaml.SafeDumper):
    """No anchors, which Kubernetes tools dislike, lists below their key, and text of several lines as it is."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(content: Any) -> str:
    """YAML text."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
