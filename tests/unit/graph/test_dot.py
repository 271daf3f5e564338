"""DOT against Graphviz's own parser, and where it must complain."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelbox.errors import GraphError, Where
from modelboxd.graph.dot import DotGraph, parse_dot
from modelboxd.graph.model import Attr


def parse(text: str) -> DotGraph:
    return parse_dot(text, lambda line, column: Where("g.dot", line, column))


Attrs = dict[str, str]
Edges = list[tuple[str, str, str, str, Attrs]]


def graphviz(text: str) -> tuple[dict[str, Attrs], Edges]:
    """Nodes with attributes, edges with ports and attributes, as Graphviz reads them."""
    done = subprocess.run(["dot", "-Tdot_json"], input=text, capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    objects = data.get("objects", [])[data["_subgraph_cnt"] :]
    by_id = {item["_gvid"]: item["name"] for item in objects}
    nodes = {item["name"]: chosen(item) for item in objects}
    edges = [
        (by_id[e["tail"]], port(e.get("tailport", "")), by_id[e["head"]], port(e.get("headport", "")), chosen(e))
        for e in data.get("edges", [])
    ]
    return nodes, edges


def chosen(item: Attrs) -> Attrs:
    """The attributes that tests set; Graphviz leaves empty ones out and adds some of its own."""
    own = ("_gvid", "name", "nodes", "edges", "subgraphs", "label", "bb", "tail", "head", "tailport", "headport", "key")
    return {key: value for key, value in item.items() if key not in own and value}


def port(text: str) -> str:
    """Graphviz keeps the compass point that we do not need."""
    return text.removesuffix(":ne")


def ours(graph: DotGraph) -> tuple[dict[str, Attrs], Edges]:
    def texts(attrs: dict[str, Attr]) -> Attrs:
        return chosen({key: attr.text for key, attr in attrs.items()})

    nodes = {node.name: texts(node.attrs) for node in graph.nodes.values()}
    return nodes, [(e.src, e.src_port or "", e.dst, e.dst_port or "", texts(e.attrs)) for e in graph.edges]


def agree(text: str) -> None:
    their_nodes, their_edges = graphviz(text)
    our_nodes, our_edges = ours(parse(text))
    assert our_nodes == their_nodes

    def order(edge: tuple[str, str, str, str, Attrs]) -> tuple[str, str, str, str, str]:
        return (*edge[:4], str(sorted(edge[4].items())))

    assert sorted(our_edges, key=order) == sorted(their_edges, key=order)


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
        "digraph { a, b [x=1]; a, b -> c, d -> { e; f, g } [w=2] }",
        "digraph { {a b} -> {c d} -> e [k=1] }",
        "digraph { subgraph s { node [k=1]; a } node [j=2]; subgraph s { b } -> c; b -> subgraph s { d } }",
        "digraph { subgraph s { subgraph t { node [k=1]; a } } subgraph t { b } subgraph s { subgraph t { c } } }",
        'digraph { a -> b [tailport=out, headport="in:0"]; edge [w=1]; a:x -> b; { edge [w=2, v=3] b -> a [v=4] } }',
        'digraph { a [x="l\\nm\\\\n\\"q"]; b [x="one \\\ntwo"]; "a\\\\" }',
        "digraph { a [x=<a<b>c<d<e>>>, y=<>, z=< <BR/> >] }",
        "digraph { 1 -> -1.5 -> .5 -> 2. }",
        "digraph { a -> a; strict_ -> node1 -> Edge_; subgraph_ }",
        'digraph { a [x="&amp; <b>"]; "1:2" -> b:"0:1":ne }',
        "digraph {}",
        "digraph g { node [] edge [] graph [] [x=1] }",
    ],
)
def test_same_as_graphviz(text: str) -> None:
    agree(text)


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0\\\r%", exclude_categories=("Cs", "Cc")), max_size=5)
names = st.one_of(st.sampled_from(["a", "b", "c", "d", "x y", "ä", 'q"t', "node", "-3"]), plain)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '\\"') + '"'


@st.composite
def ids(draw: st.DrawFn, texts: st.SearchStrategy[str] = names) -> str:
    """One id in any of the ways to write it."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(["7", "-3", "1.5", "-.25", "2."]))
    if kind == 1:
        return "<" + draw(st.sampled_from(["", "b", "a<i>x</i>", "<b><i>x</i></b>", '"'])) + ">"
    if kind == 2:
        return " + ".join(quoted(part) for part in draw(st.lists(texts, min_size=1, max_size=3)))
    if kind < 6:
        return draw(st.sampled_from(["a", "b", "c", "_x9", "ünï", "Graph1", "stricter"]))
    return quoted(draw(texts))


@st.composite
def attributes(draw: st.DrawFn) -> str:
    pairs = draw(st.lists(st.tuples(st.sampled_from(["k1", "k2", "flowunit"]), ids()), max_size=3))
    between = draw(st.sampled_from([", ", ";", " "]))
    return "[" + between.join(f"{key}={value}" for key, value in pairs) + "]"


@st.composite
def statement(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["node", "edge", "edge", "default", "sub", "graph"] if depth else ["node", "default"]))
    if kind == "node":
        return ", ".join(draw(st.lists(ids(), min_size=1, max_size=2))) + " " + draw(attributes())
    if kind == "default":
        return draw(st.sampled_from(["node", "NODE", "edge", "Edge", "graph"])) + " " + draw(attributes())
    if kind == "graph":
        return f"rank_{draw(st.integers(0, 2))} = {draw(ids())}"
    if kind == "sub":
        return draw(subgraph(depth - 1))
    points = st.one_of(ids(), st.tuples(ids(), ids(st.sampled_from(["in", "o/1", "t:0"]))).map(":".join), subgraph(0))
    chain = " -> ".join(draw(st.lists(points, min_size=2, max_size=3)))
    return chain + (" " + draw(attributes()) if draw(st.booleans()) else "")


@st.composite
def subgraph(draw: st.DrawFn, depth: int) -> str:
    head = draw(st.sampled_from(["", "subgraph ", "subgraph s1 ", "subgraph s2 ", "SubGraph cluster_x "]))
    return head + "{" + " ".join(draw(st.lists(statement(depth), max_size=3))) + "}"


@st.composite
def dots(draw: st.DrawFn) -> str:
    between = draw(st.sampled_from([";", "\n", " ", " // }\n", ' /* " */ ', "\n# [\n"]))
    head = draw(st.sampled_from(["digraph", "DIGRAPH name", 'digraph "a" + "b"', "digraph 1"]))
    return head + " { " + between.join(draw(st.lists(statement(), max_size=6))) + " }"


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
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
        (
            "digraph { node -> b }",
            "g.dot:1:16: unexpected '->' in the graph, expected '[' ('node' is a word of DOT; as",
        ),
        ("digraph { a -> edge }", "g.dot:1:16: unexpected 'edge' in the graph, expected '{', a name, a number, a"),
        ("digraph { a [x=Graph] }", "g.dot:1:16: unexpected 'Graph' in the graph, expected a name, a number, a quoted"),
        ("digraph { a [x] }", "g.dot:1:15: unexpected ']' in the graph, expected '='"),
        ("digraph { a [v=1.2.3] }", "g.dot:1:16: unexpected '1.2.3' in the graph (names and values of more than"),
        ("digraph { my-node }", "g.dot:1:13: unexpected '-node' in the graph (names and values of more than"),
        ("digraph { a <- b }", "g.dot:1:13: unexpected '<' in the graph (edges are written 'from -> to')"),
        ("digraph { a [x=<b] }", "g.dot:1:16: unexpected '<' in the graph (a text in <...> is not closed)"),
        ("digraph { /* a }", "g.dot:1:11: unexpected '/' in the graph (a comment is not closed)"),
        ("digraph { a } b", "g.dot:1:15: unexpected 'b' in the graph, expected nothing more"),
        ("digraph { a:b:n:d }", "g.dot:1:16: unexpected ':' in the graph, expected"),
        ("digraph " + "{" * 3000 + "a" + "}" * 3000, "g.dot:1:110: subgraphs are nested more than 100 deep"),
        ("", "g.dot:1:1: the graph ends too early, expected"),
    ],
)
def test_syntax_errors(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_our_own_ways() -> None:
    """Where we differ from Graphviz on purpose."""
    graph = parse("strict digraph { a:x -> b:y -> c; a:x -> b:y [k=1]; a:z -> b:w; a\u00a0; # a comment -> c\n }")
    assert [(e.src_port, e.dst_port) for e in graph.edges] == [("x", "y"), ("y", None), ("z", "w")]
    assert list(graph.nodes) == ["a", "b", "c"]
    assert [str(edge.where) for edge in graph.edges] == ["g.dot:1:18", "g.dot:1:25", "g.dot:1:53"]


def test_graph_attributes() -> None:
    graph = parse("digraph g { a=1; graph [b=2, c=3]; subgraph { a=9; graph [b=9] } c=4 }")
    assert {key: attr.text for key, attr in graph.attrs.items()} == {"a": "1", "b": "2", "c": "4"}
    assert graph.name == "g"


def test_many_nodes() -> None:
    text = "digraph {" + "".join(f"n{i} [flowunit=x]; n{i}:o -> n{i + 1}:i\n" for i in range(5000)) + "}"
    assert len(parse(text).nodes) == 5001


# ---- clusters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("subgraph cluster_a { x }; y", {"x": ("a",), "y": ()}),
        ("subgraph cluster_a { subgraph cluster_b { x } y }", {"x": ("a", "b"), "y": ("a",)}),
        ("subgraph cluster_a { subgraph plain { x } }", {"x": ("a",)}),
        ("subgraph other { x }", {"x": ()}),
        ("x; subgraph cluster_a { x }", {"x": ("a",)}),  # it goes deeper
        ("subgraph cluster_a { x }; subgraph cluster_b { x }", {"x": ("a",)}),  # the first one counts
        ("subgraph cluster_a { x }; subgraph cluster_a { y }", {"x": ("a",), "y": ("a",)}),
        ("subgraph cluster_a { x -> y }; y -> z", {"x": ("a",), "y": ("a",), "z": ()}),
        ('subgraph cluster { x }; subgraph cluster1 { y }; subgraph "cluster_two words" { z }',
         {"x": ("cluster",), "y": ("1",), "z": ("two words",)}),
    ],
)  # fmt: skip
def test_clusters(text: str, groups: dict[str, tuple[str, ...]]) -> None:
    graph = parse_dot(f"digraph {{ {text} }}", lambda line, column: Where("g", line, column))
    assert {name: node.group for name, node in graph.nodes.items()} == groups
