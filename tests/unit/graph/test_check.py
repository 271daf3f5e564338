"""Checks and planning of graphs, with a registry of a few units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modelbox.errors import GraphError, UnitNotFoundError
from modelbox.spec import FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import load_graph, parse_graph
from modelboxd.graph.model import Graph
from modelboxd.graph.plan import make_plan
from modelboxd.graph.show import plan_dot, plan_table
from modelboxd.graph.types import TYPES, TypeTree


def unit(
    name: str, inputs: str = "in", outputs: str = "out", kind: UnitKind = UnitKind.NATIVE, **more: object
) -> UnitSpec:
    made = UnitSpec(
        name, "cpu", "1.0.0", name, kind, f"{name}.so",
        tuple(PortSpec(port) for port in inputs.split()), tuple(PortSpec(port) for port in outputs.split()),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


UNITS = {
    item.name: item
    for item in (
        unit("src", "", "out", UnitKind.BUILTIN),
        unit("sink", "in", "", UnitKind.BUILTIN),
        unit("work"),
        unit("join", "a b"),
        unit("py", kind=UnitKind.PYTHON, open_options=True, flow_type=FlowType.STREAM),
        unit("opt", options=(
            OptionSpec("size", "int", "5"), OptionSpec("mode", values=("fast", "slow"), default="fast"),
            OptionSpec("ratio", "float"), OptionSpec("on", "bool"), OptionSpec("need", required=True),
        )),
        unit("image", outputs="out", inputs="", kind=UnitKind.BUILTIN),
        unit("branch", condition=True, outputs="yes no"),
    )
}  # fmt: skip
UNITS["text_sink"] = replace(UNITS["sink"], name="text_sink", inputs=(PortSpec("in", "string"),))
UNITS["image"] = replace(UNITS["image"], outputs=(PortSpec("out", "image"),))


class Registry:
    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        if name not in UNITS or device not in ("", "cpu"):
            raise UnitNotFoundError(f"create flowunit '{name}' failed.")
        return UNITS[name]


def build(dot: str, extra: str = "") -> Graph:
    text = f'[graph]\nformat = "graphviz"\n{extra}\ngraphconf = """digraph g {{ {dot} }}"""\n'
    return check_graph(parse_graph(text, "g.toml"), Registry())


def problems(dot: str, extra: str = "") -> list[str]:
    with pytest.raises(GraphError) as caught:
        build(dot, extra)
    return [str(problem) for problem in caught.value.problems]


CHAIN = "s [flowunit=src]; w [flowunit=work]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in"


@pytest.mark.parametrize(
    ("dot", "text"),
    [
        (CHAIN + "; o [flowunit=work]", "orphan node: 'o', use graph.strict=false to disable orphan check"),
        (CHAIN.replace("flowunit=work", "x=1"), "node 'w': flowunit name is empty."),
        (CHAIN.replace("flowunit=work", "type=flow, flowunit=work"), "unsupport node type 'flow'"),
        (CHAIN.replace("flowunit=work", "flowunit=wrk"), "create flowunit 'wrk' failed."),
        (CHAIN.replace("flowunit=work", "flowunit=work, device=cuda"), "create flowunit 'work' failed."),
        (CHAIN.replace("w:out", "w"), "src port is missing, node: w (write w:PORT; output ports of work: out)"),
        (CHAIN.replace("w:out", "w:ot"), "src port is not exist, node: w port: ot (did you mean 'out'?"),
        (CHAIN + "; w:out -> t:in", "link is already exist: w:out -> t:in"),
        (CHAIN + "; s:out -> t:in", "One port links multi edges can not match at one port: w:out and s:out"),
        (CHAIN.replace("; w:out -> t:in", "; s:out -> t:in"), "node 'w' port 'out': out port is not connect."),
        (CHAIN.replace("flowunit=work", "flowunit=join").replace("w:in", "w:a"), "port 'b': in port is not connect."),
        ("a [flowunit=work]; b [flowunit=work]; a:out -> b:in; b:out -> a:in", "start node is not exist."),
        (
            "s [flowunit=src]; a [flowunit=join]; b [flowunit=work]; s:out -> a:a; a:out -> b:in; b:out -> a:b",
            "generate topology fail: the graph has a cycle: a -> b -> a",
        ),
        (CHAIN + "; s2 [flowunit=src]; t2 [flowunit=sink]; s2:out -> t2:in", "not all node union. 's2' has no path to 's'"),
        ("s [flowunit=image]; t [flowunit=text_sink]; s:out -> t:in", "s:out gives image, t:in takes string"),
        (CHAIN.replace("flowunit=work", "flowunit=opt"), "option 'need' of opt is missing"),
        (CHAIN.replace("flowunit=work", "flowunit=opt, need=1, size=big"), "option size='big' is not allowed (a whole number)"),
        (CHAIN.replace("flowunit=work", "flowunit=opt, need=1, mode=fst"), "(one of fast, slow; did you mean 'fast'?)"),
        (CHAIN.replace("flowunit=work", "flowunit=opt, need=1, ratio=x"), "option ratio='x' is not allowed (a number)"),
        (CHAIN.replace("flowunit=work", "flowunit=opt, need=1, on=maybe"), "(true or false)"),
        (CHAIN.replace("flowunit=work", "flowunit=work, batch_size=0"), "batch_size='0' is out of range"),
        (CHAIN.replace("flowunit=work", "flowunit=work, queue_size=0"), "queue size config is zero"),
        (CHAIN.replace("flowunit=work", "flowunit=work, priority=11"), "(a whole number from 1 to 10)"),
        (CHAIN.replace("flowunit=work", "flowunit=work, deviceid=0"), "deviceid needs a device"),
        (CHAIN.replace("flowunit=work", "flowunit=branch"), "condition units are not supported yet"),
        (CHAIN.replace("s [flowunit=src]", "s [type=input]"), "type=input is not supported yet"),
    ],
)  # fmt: skip
def test_refused(dot: str, text: str) -> None:
    found = problems(dot)
    assert any(text in problem for problem in found), found
    assert all(problem.startswith("g.toml") for problem in found)


def test_all_problems_at_once_in_file_order() -> None:
    found = problems("a [flowunit=nope]\nb [flowunit=work, batch_size=x]\nc [flowunit=nix]")
    assert [problem.split(": ")[0] for problem in found] == ["g.toml:4:40", "g.toml:5:30", "g.toml:6:13"]


def test_unknown_option_is_a_warning() -> None:
    graph = build(CHAIN.replace("flowunit=work", 'flowunit=opt, need=1, siz=4, label="x", shape=box'))
    assert [str(warning) for warning in graph.warnings] == [
        "g.toml:4:75: node 'w': unit opt has no option 'siz', it is ignored (did you mean 'size'?)"
    ]
    assert graph.nodes["w"].options == {"need": "1", "size": "5", "mode": "fast"}


def test_options_batch_and_queue() -> None:
    graph = build(
        "queue_size=7; batch_size=3; "
        + CHAIN.replace("flowunit=work", "flowunit=py, x=1, queue_size_in=9, priority=1"),
    )
    node = graph.nodes["w"]
    assert node.options == {"x": "1"}
    assert (node.batch_size, node.queue_sizes, node.user_priority) == (1, {"in": 9}, 1)  # STREAM caps the batch
    assert graph.nodes["t"].queue_sizes == {"in": 7}
    assert list(graph.nodes) == ["s", "w", "t"]


def test_strict_false_allows_orphans() -> None:
    assert len(build(CHAIN + "; o [flowunit=work]", "strict = false").nodes) == 4


def test_plan_fuses_native_chains() -> None:
    graph = build(
        """s [flowunit=src]; a, b
        """.replace("a, b", "")
        + "a [flowunit=work]; b [flowunit=work]; c [flowunit=work]; p [flowunit=py]; d [flowunit=work]; e [flowunit=work];"
        + "j [flowunit=join]; t [flowunit=sink]; s:out -> a:in; a:out -> b:in; b:out -> c:in; c:out -> p:in; c:out -> j:b;"
        + "p:out -> d:in; d:out -> e:in; e:out -> j:a; j:out -> t:in"
    )
    plan = make_plan(graph)
    assert [[node.name for node in step.nodes] for step in plan.steps] == [
        ["s"], ["a", "b", "c"], ["p"], ["d", "e"], ["j"], ["t"],
    ]  # fmt: skip
    table = plan_table(plan)
    assert "9 nodes in 6 steps" in table
    assert "branches" in table
    assert plan_dot(plan).count("subgraph cluster_") == 2


def test_types() -> None:
    tree = TypeTree()
    tree.add("bgr", "image")
    assert tree.fit("tensor", "bgr")
    assert tree.fit("bgr", "raw")
    assert not tree.fit("string", "bgr")
    assert tree.fit("never heard of", "bgr")
    assert TYPES.fit("image", "image")
    with pytest.raises(ValueError, match="below 'image' already"):
        tree.add("bgr", "buff")


# ---- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[graph]\n", "g.toml: graph.format is empty"),
        ('[graph]\nformat = "yaml"\n', "g.toml:2: Graph format not supported, support type: graphviz"),
        ('[graph]\nformat = "graphviz"\n', "g.toml: graph config path is null."),
        ('[graph]\nformat = "graphviz"\ngraphconf = "digraph {}"\n', "g.toml:3:14: graph is empty, no node."),
        ('[graph]\nformat = "graphviz"\ngraphconf = ["digraph {", "a ->", "}"]\n', "g.toml:3:36: unexpected '}'"),
        ('[graph]\nformat = "graphviz"\ngraphconf = 5\n', "graph.graphconf must be a text or a list of texts"),
        ("[flow]\nenable = false\n", "flow is disabled"),
        ("[graph\n", "g.toml:1:7:"),
        ('{"graph": }', "g.toml:1:11: Expecting value"),
        ('[graph]\nformat = "graphviz"\ngraphconf = "digraph { a [x=\\"${UNSET_9}\\"] }"\n', "UNSET_9 is not set"),
    ],
)
def test_file_errors(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(text, "g.toml")
    assert message in str(caught.value)


def test_unknown_keys_are_warnings() -> None:
    spec = parse_graph('[grph]\n[graph]\nformat = "graphviz"\nqueue_sise = 3\ngraphconf = "digraph { a }"\n', "g.toml")
    assert [str(warning) for warning in spec.warnings] == [
        "g.toml:1: section [grph] is not known (did you mean graph?)",
        "g.toml:4: graph.queue_sise is not known (did you mean queue_size?)",
    ]


def test_json_and_separate_dot_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.dot").write_text('digraph d {\n a [x="${WORD}"] }')
    (tmp_path / "g.json").write_text(
        '{"graph": {"format": "graphviz", "graphconffilepath": "g.dot"}, "driver": {"dir": "units"}}'
    )
    (tmp_path / "units").mkdir()
    monkeypatch.setenv("WORD", "set")
    spec = load_graph(tmp_path / "g.json")
    assert spec.nodes["a"].attrs["x"].text == "set"
    assert spec.nodes["a"].where.line == 2
    assert spec.driver_dirs == [str(tmp_path / "units")]
