"""What tells one set of manifests from another, as patches that kustomize applies (JSON patches, RFC 6902)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from raytrain_xai.cluster.documents import Document, dump, identity

Change = dict[str, Any]
_IN_LIST = re.compile(r"/\d+(/|$)")


def patches_between(base: Sequence[Document], wanted: Sequence[Document]) -> list[dict[str, Any]]:
    """Entries of ``patches`` that turn the manifests of ``base`` into those of ``wanted`` with the same identity.

    Manifests of a kind that change alike share an entry, those below lists one of their own; those that are not wanted
    are deleted.
    """
    target = {identity(manifest): manifest for manifest in wanted}
    groups: dict[tuple[str, str, str], list[str]] = {}
    gone: list[dict[str, Any]] = []
    for manifest in base:
        api_version, kind, name = identity(manifest)
        if (api_version, kind, name) not in target:
            gone.append({"patch": dump(_deletion(manifest))})
            continue
        changes = list(changes_between(manifest, target[api_version, kind, name]))
        for below in (False, True):
            part = [change for change in changes if bool(_IN_LIST.search(change["path"])) == below]
            if part:
                groups.setdefault((api_version, kind, dump(part)), []).append(name)
    return [
        {"target": _target(api_version, kind, names), "patch": patch}
        for (api_version, kind, patch), names in groups.items()
    ] + gone


def changes_between(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Operations that turn one value into another, in the order in which they apply."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [key for key in old if key not in new]:
            yield {"op": "remove", "path": _below(path, key)}
        for key, value in new.items():
            if key in old:
                yield from changes_between(old[key], value, _below(path, key))
            else:
                yield {"op": "add", "path": _below(path, key), "value": value}
    elif isinstance(old, list) and isinstance(new, list) and (names := _common_names(old, new)) is not None:
        yield from _list_changes(old, new, names, path)
    elif old != new or type(old) is not type(new):
        yield {"op": "replace", "path": path, "value": new}


def _list_changes(old: list[Any], new: list[Any], common: list[str], path: str) -> Iterator[Change]:
    for index in reversed(range(len(old))):
        if _name(old[index]) not in common:
            yield {"op": "remove", "path": _below(path, index)}
    before = {_name(item): item for item in old}
    after = {_name(item): item for item in new}
    for index, name in enumerate(common):
        yield from changes_between(before[name], after[name], _below(path, index))
    for index, item in enumerate(new):
        if _name(item) not in common:
            yield {"op": "add", "path": _below(path, index), "value": item}


def _common_names(old: list[Any], new: list[Any]) -> list[str] | None:
    """Names that both lists have, in their order; None for lists that cannot be told item by item."""
    then, now = [_name(item) for item in old], [_name(item) for item in new]
    if None in then or None in now or len(set(then)) < len(then) or len(set(now)) < len(now):
        return None
    common = [name for name in then if name in now]
    return [name for name in common if name] if common == [name for name in now if name in then] else None


def _name(item: Any) -> str | None:
    return item.get("groupName") or item.get("name") if isinstance(item, dict) else None


def _below(path: str, key: str | int) -> str:
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _target(api_version: str, kind: str, names: Sequence[str]) -> dict[str, str]:
    group, slash, version = api_version.rpartition("/")
    return ({"group": group} if slash else {}) | {"version": version, "kind": kind, "name": "|".join(names)}


def _deletion(manifest: Document) -> dict[str, Any]:
    known = {key: value for key, value in manifest["metadata"].items() if key in ("name", "namespace")}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": known, "$patch": "delete"}
