"""The hierarchy of concepts as one page to browse, with everything in it, and as graphs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raytrain_xai import __version__
from raytrain_xai.concept_runs.names import read_names
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.insight.described import Described, read_described, totals
from raytrain_xai.insight.graph import concept_graph, write_graph
from raytrain_xai.report.pages import page_environment
from raytrain_xai.storage import Location, write_bytes

PAGE = "tree.html"
_PER_CONCEPT = 6  # pictures
_MOST_PICTURES = 6000  # on the page, about 20 MB; concepts in the hierarchy come first


def write_hierarchy(run: Location) -> str:
    """Write graphs and page of a described run anew, with the names of now.

    Args:
        run: its folder.
    Returns:
        Address of the page.
    Raises:
        ConfigError: the run is not described.
        DataError: the description is damaged.
    """
    described, names = read_described(run), read_names(run)
    write_graph(described.at, concept_graph(described.relations, described.groups, names))
    write_bytes(described.at.child(PAGE), render_tree(described, names).encode())
    return described.at.child(PAGE).uri


def render_tree(described: Described, names: Mapping[int, str]) -> str:
    """The page as text."""
    rows, pictures = _pictures(described)
    subject, found = described.subject, totals(described.relations)
    content = {
        "size": list(subject.size),
        "concepts": _columns(described, names, rows),
        "pictures": pictures,
    }
    return page_environment().get_template("tree.html.j2").render(
        title=subject.run.partition("?")[0].rstrip("/").rpartition("/")[2],
        version=__version__,
        found=found,
        subject=subject,
        rule=described.relations.rule,
        groups=described.group_sizes,
        with_pictures=sum(bool(own) for own in rows),
        data=_script(content),
    )  # fmt: skip


def _columns(described: Described, names: Mapping[int, str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """One array per property of the active concepts."""
    relations = described.relations
    active = (relations.frequency > 0).nonzero().flatten().tolist()
    share = (relations.frequency.double() / max(relations.positions, 1)).tolist()
    groups, same_as = described.groups.tolist(), relations.same_as.tolist()
    parents: dict[int, list[tuple[int, float]]] = {}
    edges = (relations.child.tolist(), relations.parent.tolist(), relations.weight.tolist())
    for child, parent, weight in zip(*edges, strict=True):
        parents.setdefault(child, []).append((parent, round(weight, 3)))
    return {
        "id": active,
        "name": [names.get(k, "") for k in active],
        "group": [groups[k] for k in active],
        "frequency": [float(f"{share[k]:.3g}") for k in active],
        "same": [same_as[k] for k in active],
        "parents": [parents.get(k, []) for k in active],
        "shown": [rows[k] for k in active],
    }


def _pictures(described: Described) -> tuple[list[list[tuple[int, int]]], dict[int, str]]:
    """Per concept its (row, position) pairs with a picture on the page; and the pictures by row, as base64."""
    _, token = unpack_tokens(described.sums.images)
    positions = described.subject.size[0] * described.subject.size[1]
    rows: list[list[tuple[int, int]]] = [[] for _ in range(described.subject.concepts)]
    chosen: set[int] = set()
    for concept in _order(described).tolist():
        own = [divmod(number, positions) for number in token[concept, :_PER_CONCEPT].tolist() if number >= 0]
        if len(chosen | {row for row, _ in own}) <= _MOST_PICTURES:
            rows[concept] = own
            chosen |= {row for row, _ in own}
    table = described.pictures()
    stored = zip(table["row"].to_pylist(), table["jpeg"], strict=True)
    return rows, {row: base64.b64encode(jpeg.as_py()).decode() for row, jpeg in stored if row in chosen}


def _order(described: Described) -> Tensor:
    """Concepts in the hierarchy first, then the others, both from frequent to rare: (K,) int64."""
    relations = described.relations
    related = torch.zeros(relations.num_latents, dtype=torch.bool)
    related[torch.cat([relations.child, relations.parent])] = True
    by_frequency = relations.frequency.argsort(descending=True, stable=True)
    return by_frequency[related[by_frequency].long().argsort(descending=True, stable=True)]


def _script(content: Any) -> str:
    """JSON that can stand in a script element: names may hold anything."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
