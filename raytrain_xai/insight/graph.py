"""The hierarchy of concepts as a graph that other programs read: node-link JSON and GraphML.

Nodes are the concepts that are related to another one; an edge leads from a child to its parent (``kind`` parent), or
from a concept to the one that stands for it (``kind`` synonym). GraphML: Brandes et al. 2002, graphml.graphdrawing.org.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from raytrain_xai.concepts.relations import Relations
from raytrain_xai.storage import Location, write_bytes

HIERARCHY, GRAPHML = "hierarchy.json", "hierarchy.graphml"
_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_NODE_KEYS = {"name": "string", "group": "int", "frequency": "double"}
_EDGE_KEYS = {"kind": "string", "weight": "double"}


@dataclass(frozen=True)
class ConceptNode:
    """A concept: its name (empty for none), Matryoshka group, and share of the positions at which it is active."""

    concept: int
    name: str
    group: int
    frequency: float


@dataclass(frozen=True)
class ConceptEdge:
    """From a child to its parent with P_D(parent|child), or from a synonym to the concept that stands for it with 1."""

    source: int
    target: int
    kind: str
    weight: float


@dataclass(frozen=True)
class ConceptGraph:
    """Related concepts, and how."""

    nodes: tuple[ConceptNode, ...]
    edges: tuple[ConceptEdge, ...]


def concept_graph(relations: Relations, groups: Tensor, names: Mapping[int, str]) -> ConceptGraph:
    """The graph of all concepts with a relation.

    Args:
        groups: (K,) int64.
        names: concept -> name.
    """
    columns = (relations.child.tolist(), relations.parent.tolist(), relations.weight.tolist())
    edges = [ConceptEdge(a, b, "parent", weight) for a, b, weight in zip(*columns, strict=True)]
    merged = (relations.same_as != torch.arange(relations.num_latents)).nonzero().flatten()
    edges += [
        ConceptEdge(a, b, "synonym", 1.0)
        for a, b in zip(merged.tolist(), relations.same_as[merged].tolist(), strict=True)
    ]
    used = sorted({end for edge in edges for end in (edge.source, edge.target)})
    share = (relations.frequency.double() / max(relations.positions, 1)).tolist()
    nodes = [ConceptNode(k, names.get(k, ""), int(groups[k]), share[k]) for k in used]
    return ConceptGraph(tuple(nodes), tuple(edges))


def write_graph(at: Location, graph: ConceptGraph) -> None:
    """Write ``hierarchy.json`` and ``hierarchy.graphml`` into a folder."""
    write_bytes(at.child(HIERARCHY), (json.dumps(to_json(graph), indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(at.child(GRAPHML), to_graphml(graph))


def to_json(graph: ConceptGraph) -> dict[str, Any]:
    """Node-link form, as ``networkx.node_link_graph(..., edges="edges")`` reads it."""
    return {
        "directed": True,
        "multigraph": False,
        "graph": {},
        "nodes": [
            {"id": node.concept, "name": node.name, "group": node.group, "frequency": node.frequency}
            for node in graph.nodes
        ],
        "edges": [
            {"source": edge.source, "target": edge.target, "kind": edge.kind, "weight": edge.weight}
            for edge in graph.edges
        ],
    }


def to_graphml(graph: ConceptGraph) -> bytes:
    """The graph as GraphML; characters that XML cannot hold are left out of names."""
    root = ElementTree.Element("graphml", xmlns=_NAMESPACE)
    for kind, keys in (("node", _NODE_KEYS), ("edge", _EDGE_KEYS)):
        for name, value in keys.items():
            ElementTree.SubElement(
                root, "key", {"id": name, "for": kind, "attr.name": name, "attr.type": value}
            )  # fmt: skip
    body = ElementTree.SubElement(root, "graph", edgedefault="directed")
    for node in graph.nodes:
        values = [_xml_text(node.name), str(node.group), repr(node.frequency)]
        _with_data(ElementTree.SubElement(body, "node", id=str(node.concept)), _NODE_KEYS, values)
    for edge in graph.edges:
        at = ElementTree.SubElement(body, "edge", source=str(edge.source), target=str(edge.target))
        _with_data(at, _EDGE_KEYS, [edge.kind, repr(edge.weight)])
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _with_data(element: ElementTree.Element, keys: Mapping[str, str], values: Sequence[str]) -> None:
    for name, value in zip(keys, values, strict=True):
        ElementTree.SubElement(element, "data", key=name).text = value


def _xml_text(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())
