"""DOT against Graphviz's own parser, and where it must complain."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelbox.errors import GraphError, Where
from modelboxd.graph.dot import DotGraph, parse_dot


def parse(text: str) -> DotGraph:
    return parse_dot(text, lambda line, column: Where("g.dot", line, column))


def graphviz(text: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, str, str]]]:
    """Nodes with attributes and edges with ports, as Graphviz reads them."""
    done = subprocess.run(["dot", "-Tdot_json"], input=text, capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    hidden = {"_gvid", "name", "nodes", "edges", "subgraphs", "label", "bb"}
    objects = [item for item in data.get("objects", []) if "nodes" not in item and "subgraphs" not in item]
    by_id = {item["_gvid"]: item["name"] for item in objects}
    nodes = {item["name"]: {k: v for k, v in item.items() if k not in hidden} for item in objects}
    edges = [
        (by_id[edge["tail"]], edge.get("tailport", ""), by_id[edge["head"]], edge.get("headport", ""))
        for edge in data.get("edges", [])
    ]
    return nodes, edges


def ours(graph: DotGraph) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, str, str]]]:
    nodes = {
        node.name: {key: attr.text for key, attr in node.attrs.items() if key != "label"}
        for node in graph.nodes.values()
    }
    return nodes, [(e.src, e.src_port or "", e.dst, e.dst_port or "") for e in graph.edges]


def agree(text: str) -> None:
    their_nodes, their_edges = graphviz(text)
    our_nodes, our_edges = ours(parse(text))
    # Graphviz leaves empty attributes out, and keeps the compass point that we do not need.
    our_nodes = {name: {key: value for key, value in attrs.items() if value} for name, attrs in our_nodes.items()}
    their_edges = [(a, b.removesuffix(":ne"), c, d.removesuffix(":ne")) for a, b, c, d in their_edges]
    keys = {key for attrs in our_nodes.values() for key in attrs}
    assert our_nodes == {
        name: {key: attrs[key] for key in keys if attrs.get(key)} for name, attrs in their_nodes.items()
    }
    assert sorted(our_edges) == sorted(their_edges)


@pytest.mark.parametrize(
    "text",
    [
        "digraph g { a; b; a -> b }",
        "strict digraph { a -> b -> c; c:x -> a:y:ne }",
        'digraph "a name" { "node 1" [flowunit="x y", k=v]; "node 1":"out/1" -> b }',
        "digraph { node [k=1]; a; node [k=2]; b; subgraph s { node [k=3]; c; a } d }",
        "digraph { subgraph cluster_x { a; b } -> { c d } }",
        'digraph { a [x="con" + "cat", y=-.5, z=<b>]; }',
        "digraph { /* c1 */ a // c2\n -> b\n# c3\n }",
        'digraph { a [t="quote \\" inside"]; _x9; ü -> b }',
        "DiGraph { a -> b [weight=2] ; edge [x=1]; c -> d; rankdir=LR; graph [q=3] }",
        "digraph { a [x=1; y=2] [z=3] }",
    ],
)
def test_same_as_graphviz(text: str) -> None:
    agree(text)


names = st.one_of(
    st.sampled_from(["a", "b", "node1", "_x", "9", "1.5", "graph_", "x y", "ä", 'q"t', "sub-graph", "-3"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\\\r\n", exclude_categories=("Cs", "Cc")), max_size=5),
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '\\"') + '"'


@st.composite
def dots(draw: st.DrawFn) -> str:
    statements = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["node", "edge", "default", "sub"]))
        first, second = quoted(draw(names)), quoted(draw(names))
        key = draw(st.sampled_from(["k1", "k2", "flowunit"]))
        value = quoted(draw(names))
        if kind == "node":
            statements.append(f"{first} [{key}={value}]")
        elif kind == "edge":
            statements.append(f"{first}:p1 -> {second} -> {first}")
        elif kind == "default":
            statements.append(f"node [{key}={value}]")
        else:
            statements.append(f"subgraph {{ node [{key}={value}]; {first}; {second} }}")
    return "digraph { " + draw(st.sampled_from([";", "\n", " "])).join(statements) + " }"


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(dots())
def test_random_graphs_same_as_graphviz(text: str) -> None:
    agree(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graph { a }", "g.dot:1:1: the graph must be a digraph, this one is undirected"),
        ("digraph { a -- b }", "g.dot:1:13: unexpected '--', edges of a digraph are written '->'"),
        ("digraph { a ->\n }", "g.dot:2:2: unexpected '}' in the graph, expected"),
        ("digraph { a [x=] }", "g.dot:1:16: unexpected ']' in the graph, expected a name, a number, a quoted text"),
        ('digraph { a [x="open] }', "g.dot:1:16: unexpected '\"' in the graph (a quoted text is not closed)"),
        ("digraph { a", "g.dot:1:12: the graph ends too early, expected"),
        ("a -> b", "g.dot:1:1: unexpected 'a' in the graph"),
        ("", "g.dot:1:1: the graph ends too early, expected"),
    ],
)
def test_syntax_errors(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_many_nodes() -> None:
    text = "digraph {" + "".join(f"n{i} [flowunit=x]; n{i}:o -> n{i + 1}:i\n" for i in range(5000)) + "}"
    assert len(parse(text).nodes) == 5001
