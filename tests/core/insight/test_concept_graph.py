"""The graph files, read by networkx."""

from __future__ import annotations

import io
import json

import networkx
import torch

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import co_occurrence
from raytrain_xai.concepts.relations import RelationRule, Relations, relations
from raytrain_xai.insight.graph import ConceptGraph, concept_graph, to_graphml, to_json

NAMES = {0: "animal", 1: 'dog <"wild"> & co', 2: "Mops\x07 \u2028"}


def small_relations() -> Relations:
    """0 animal, 1 dog below it, 2 pug and 3 the same below dog, 4 alone, 5 never active."""
    z = torch.zeros(100, 6)
    z[:40, 0] = z[:20, 1] = z[:10, 2] = z[:9, 3] = z[50:60, 4] = 1.0
    code = SparseCode(z, torch.arange(6).expand_as(z), 6)
    return relations(co_occurrence(code), torch.zeros(6, dtype=torch.int64), RelationRule(0.8, 5, 0.5))


def small_graph() -> ConceptGraph:
    return concept_graph(small_relations(), torch.tensor([0, 0, 1, 1, 1, 1]), NAMES)


def test_nodes_and_edges() -> None:
    graph = small_graph()
    assert [(node.concept, node.group, node.frequency) for node in graph.nodes] == [
        (0, 0, 0.4), (1, 0, 0.2), (2, 1, 0.1), (3, 1, 0.09),
    ]  # fmt: skip
    assert [(edge.source, edge.target, edge.kind) for edge in graph.edges] == [
        (1, 0, "parent"), (2, 1, "parent"), (3, 2, "synonym"),
    ]  # fmt: skip
    assert [edge.weight for edge in graph.edges] == [1, 1, 1]


def test_json_as_networkx_reads_it() -> None:
    found = networkx.node_link_graph(json.loads(json.dumps(to_json(small_graph()))), edges="edges")
    assert list(networkx.topological_sort(found)) == [3, 2, 1, 0]
    assert found.nodes[1] == {"name": 'dog <"wild"> & co', "group": 0, "frequency": 0.2}
    assert found.edges[3, 2]["kind"] == "synonym"


def test_graphml_as_networkx_reads_it() -> None:
    found = networkx.read_graphml(io.BytesIO(to_graphml(small_graph())), node_type=int)
    assert found.is_directed()
    assert set(found.edges) == {(1, 0), (2, 1), (3, 2)}
    assert found.nodes[1] == {"name": 'dog <"wild"> & co', "group": 0, "frequency": 0.2}
    assert found.nodes[2]["name"] == "Mops ", "what XML cannot hold is left out"
    assert found.nodes[3].get("name") in (None, "")
    assert found.edges[2, 1] == {"kind": "parent", "weight": 1.0}


def test_no_relations() -> None:
    z = torch.zeros(4, 3)
    code = SparseCode(z, torch.arange(3).expand_as(z), 3)
    lonely = relations(co_occurrence(code), torch.zeros(3, dtype=torch.int64))
    graph = concept_graph(lonely, torch.zeros(3, dtype=torch.int64), {})
    assert (graph.nodes, graph.edges) == ((), ())
    assert len(networkx.read_graphml(io.BytesIO(to_graphml(graph)))) == 0
