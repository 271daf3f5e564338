"""What is fused, what is not and why, and how the plan is shown."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox.errors import GraphError, Where
from modelbox.spec import FlowType, UnitKind
from modelboxd.graph.dot import parse_dot
from modelboxd.graph.model import Graph, Plan
from modelboxd.graph.plan import make_plan
from modelboxd.graph.show import plan_dot, plan_table
from tests.unit.graph.units import build, chain


def steps(text: str) -> dict[str, str]:
    """The nodes of each step, joined, and why it ends."""
    return {"+".join(n.name for n in step.nodes): step.reason for step in make_plan(build(chain(text))).steps}


def test_native_chains_are_fused() -> None:
    text = "src work1 work2 work3 py work4 work5 join.a; work3 join.b; join sink"
    assert steps(text) == {
        "src": "built-in",
        "work1+work2+work3": "branches",
        "py": "runs in worker processes",
        "work4+work5": "'join' has several ports",
        "join": "has several ports",
        "sink": "built-in",
    }


@pytest.mark.parametrize(
    ("text", "fused", "reason"),
    [
        ("src work1 stream sink", "work1", "'stream' keeps a stream in order"),
        ("src work1 onnx work2 sink", "work1", "'onnx' runs a model"),
        ("src work1 sink1; work1 sink2", "work1", "branches"),
        ("src work1 split:x work2 sink2; split:y sink3", "work1", "'split' has several ports"),
    ],
)
def test_what_ends_a_segment(text: str, fused: str, reason: str) -> None:
    assert steps(text)[fused] == reason


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [("device=cuda", "'b' is on another device"), ("priority=1", "'b' has another priority")],
)
def test_what_parts_neighbours(attribute: str, reason: str) -> None:
    dot = f"s [flowunit=src]; a [flowunit=work]; b [flowunit=work, {attribute}]; t [flowunit=sink]"
    plan = make_plan(build(dot + "; s:out -> a:in; a:out -> b:in; b:out -> t:in"))
    assert [step.first.name for step in plan.steps] == ["s", "a", "b", "t"]
    assert plan.steps[1].reason == reason


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (
            "src branch:yes work1 sink; branch:no sink",
            {"src": "builtin", "branch": "native", "work1": "segment", "sink": "builtin"},
        ),
        (
            "src expand stream collapse sink",
            {"src": "builtin", "expand": "native", "stream": "native", "collapse": "native", "sink": "builtin"},
        ),
        (
            "src loop:again work1 loop; loop:done py sink",
            {"src": "builtin", "loop": "native", "work1": "segment", "py": "worker", "sink": "builtin"},
        ),
        ("input1 onnx output1", {"input1": "input", "onnx": "builtin", "output1": "output"}),
    ],
)
def test_kinds_of_steps(text: str, kinds: dict[str, str]) -> None:
    assert {step.first.name: step.kind for step in make_plan(build(chain(text))).steps} == kinds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "src work1 branch:yes work2 work3 sink1; branch:no sink2",
            {"work1": "'branch' chooses a branch", "branch": "chooses a branch", "work2+work3": "'sink1' built-in"},
        ),
        ("src branch:yes work1 work3; branch:no work2 work3 sink", {"work1": "branches meet at 'work3'"}),
        (
            "src work1 expand work2 collapse sink",
            {"work1": "'expand' opens sub-streams", "expand": "opens sub-streams"},
        ),
        (
            "src expand work2 collapse sink",
            {"work2": "'collapse' closes sub-streams", "collapse": "closes sub-streams"},
        ),
        (
            "src work1 loop:again work2 work3 loop; loop:done sink",
            {"work1": "'loop' leads back", "loop": "leads back", "work2+work3": "'loop' leads back"},
        ),
        ("input1 work1 output1", {"input1": "input of the graph", "work1": "'output1' output of the graph"}),
    ],
)
def test_levels_part_segments(text: str, expected: dict[str, str]) -> None:
    assert expected.items() <= steps(text).items()


def test_native_sources_are_refused() -> None:
    with pytest.raises(GraphError) as caught:
        make_plan(build(chain("native_src1 join.a; native_src1 join.b; join sink")))
    assert str(caught.value) == (
        "g.toml:4:28: node 'native_src1': native sources are not supported "
        "(a source is a Python unit without inputs, or a built-in one)"
    )


def test_table() -> None:
    table = plan_table(make_plan(build(chain("src work1 work2 py sink"))))
    assert table.split("\n") == [
        "graph g: 5 nodes in 4 steps",
        "STEP  RUNS       NODE   UNIT        DEVICE  KIND    BATCH  QUEUE  ENDS BECAUSE",
        "0     builtin    src    src 1.0.0   cpu     normal  8      1024   built-in",
        "1     native     work1  work 1.0.0  cpu     normal  8      32",
        "        fused    work2  work 1.0.0  cpu     normal  8      32     'py' runs in worker processes",
        "2     python x1  py     py 1.0.0    cpu     stream  1      32     runs in worker processes",
        "3     builtin    sink   sink 1.0.0  cpu     normal  8      32     built-in",
    ]


def drawn(plan: Plan) -> str:
    """The plan as Graphviz draws it."""
    done = subprocess.run(["dot", "-Tsvg"], input=plan_dot(plan), capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout


def test_graphviz_draws_the_plan() -> None:
    picture = drawn(make_plan(build(chain("src work1 work2 py work3 work4 sink"))))
    assert picture.count('class="cluster"') == 2
    assert picture.count('class="edge"') == 6
    assert "segment 1" in picture


def test_graphviz_draws_odd_names() -> None:
    names = ['a\\"b', "back\\\\", "new\\nline", "<x> & y", "ü 1"]
    nodes = "; ".join(f'"{name}" [flowunit=work]' for name in names)
    edges = " ".join(f'"{a}":out -> "{b}":in;' for a, b in itertools.pairwise(names))
    dot = f's [flowunit=src]; t [flowunit=sink]; {nodes}; s:out -> "{names[0]}":in; {edges} "{names[-1]}":out -> t:in'
    text = dot.replace("\\", "\\\\")
    picture = drawn(make_plan(build(text)))
    assert picture.count('class="node"') == 7
    assert "&lt;x&gt; &amp; y" in picture
    assert "back\\\\" in picture


# ---- any graph --------------------------------------------------------------------------------------------

KINDS = {"work": 1, "py": 1, "stream": 1, "onnx": 1, "split": 1, "join": 2, "join3": 3}


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """A random graph without cycles in which every port is connected."""
    nodes, edges = ["n0 [flowunit=src]"], []
    open_ports = ["n0:out"]  # still to be connected
    every = ["n0:out"]
    for number in range(1, draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(sorted(KINDS)))
        nodes.append(f"n{number} [flowunit={kind}]")
        for port in ("in",) if KINDS[kind] == 1 else "abc"[: KINDS[kind]]:
            end = draw(st.sampled_from(open_ports[-2:] if open_ports and draw(st.booleans()) else every))
            open_ports = [other for other in open_ports if other != end]
            edges.append(f"{end} -> n{number}:{port}")
        ports = [f"n{number}:{port}" for port in (("x", "y") if kind == "split" else ("out",))]
        open_ports += ports
        every += ports
    for number, end in enumerate(open_ports):
        nodes.append(f"t{number} [flowunit=sink]")
        edges.append(f"{end} -> t{number}:in")
    return "; ".join(draw(st.permutations(nodes)) + draw(st.permutations(edges)))


def ranks(graph: Graph) -> dict[str, int]:
    return {name: node.priority for name, node in graph.nodes.items()}


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(graphs())
def test_any_plan(dot: str) -> None:
    graph = build(dot)
    plan = make_plan(graph)
    order = ranks(graph)
    assert sorted(order.values()) == list(range(len(order)))
    for node in graph.nodes.values():
        for port, ends in node.targets.items():
            for end in ends:
                assert order[node.name] < order[end.node]
                assert [back.node for back in graph.nodes[end.node].sources[end.port]] == [node.name]
                assert graph.nodes[end.node].sources[end.port][0].port == port
    assert sorted(node.name for step in plan.steps for node in step.nodes) == sorted(graph.nodes)
    place = {node.name: step.index for step in plan.steps for node in step.nodes}
    for step in plan.steps:
        assert step.reason
        for node, following in itertools.pairwise(step.nodes):
            assert [end.node for end in node.targets["out"]] == [following.name]
        assert len(step.nodes) == 1 or all(fusible(graph, node.name) for node in step.nodes)
    for node in graph.nodes.values():  # nothing that could be fused is left apart
        ends = node.targets.get("out", [])
        if fusible(graph, node.name) and len(ends) == 1 and fusible(graph, ends[0].node):
            assert place[node.name] == place[ends[0].node]
    shown = parse_dot(plan_dot(plan), lambda line, column: Where("plan", line, column))
    assert set(shown.nodes) == set(graph.nodes)
    assert len(shown.edges) == dot.count("->")
    assert len(plan_table(plan).split("\n")) == 2 + len(graph.nodes)


def fusible(graph: Graph, name: str) -> bool:
    unit = graph.nodes[name].unit
    ports = len(unit.inputs) == len(unit.outputs) == 1
    return ports and unit.kind is UnitKind.NATIVE and unit.flow_type is FlowType.NORMAL


# ---- size ------------------------------------------------------------------------------------------------


def test_a_long_chain() -> None:
    """Nothing recurses, and nothing takes time by the square of the length."""
    count = 20_000
    graph = build(chain("src " + " ".join(f"work{number}" for number in range(count)) + " sink"))
    plan = make_plan(graph)
    assert [len(step.nodes) for step in plan.steps] == [1, count, 1]
    assert plan_dot(plan).count("->") == count + 1


def test_a_long_cycle() -> None:
    count = 20_000
    ring = " ".join(f"work{number}" for number in range(count))
    with pytest.raises(GraphError) as caught:
        build(chain(f"src join.a; join {ring} join.b"))
    (problem,) = caught.value.problems
    assert "the graph has a cycle: join -> work0 -> work1 -> work2 -> work3 -> work4 -> ... -> work19996" in str(
        problem
    )
    assert len(str(problem)) < 400


def test_many_open_ports() -> None:
    with pytest.raises(GraphError) as caught:
        build("; ".join(f"n{number} [flowunit=work]" for number in range(5_000)))
    assert len(caught.value.problems) == 5_001


def test_groups_are_drawn() -> None:
    nodes = "s [flowunit=src]; subgraph cluster_one { a [flowunit=work]; subgraph cluster_two { b [flowunit=work]; c [flowunit=work] } } "
    dot = f"{nodes}; p [flowunit=py]; subgraph cluster_one {{ d [flowunit=work]; e [flowunit=work] }}; t [flowunit=sink]; s:out -> a:in; a:out -> b:in; b:out -> c:in; c:out -> p:in; p:out -> d:in; d:out -> e:in; e:out -> t:in"
    plan = make_plan(build(dot))
    picture = drawn(plan)
    assert picture.count('class="cluster"') == 3  # one, two in it, and the segment of d and e; a to c lie over several
    assert picture.count("segment 1") == 3
    assert picture.count("segment 3") == 1
    table = plan_table(plan).split("\n")
    assert table[1] == "STEP  RUNS       NODE  GROUP      UNIT        DEVICE  KIND    BATCH  QUEUE  ENDS BECAUSE"
    assert table[4] == "        fused    b     one > two  work 1.0.0  cpu     normal  8      32"
