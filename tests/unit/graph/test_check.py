"""Checks of graphs, with a registry of a few units, and of graph files."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbox.errors import GraphError
from modelboxd.graph.loader import load_graph, parse_graph
from modelboxd.graph.types import TYPES, TypeTree
from tests.unit.graph.units import build, problems

CHAIN = "s [flowunit=src]; w [flowunit=work]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in"


def work(attributes: str) -> str:
    """The chain with other attributes of its node in the middle."""
    return CHAIN.replace("flowunit=work", attributes)


@pytest.mark.parametrize(
    ("dot", "expected"),
    [
        (
            CHAIN + "; o [flowunit=work]",
            ["g.toml:4:114: orphan node: 'o', use graph.strict=false to disable orphan check"],
        ),
        (
            work("x=1"),
            [
                "g.toml:4:46: node 'w': flowunit name is empty. (give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?)"
            ],
        ),
        (
            work("type=flow, flowunit=work"),
            ["g.toml:4:54: node 'w': unsupport node type 'flow' (type is flowunit, input or output)"],
        ),
        (
            work("flowunit=wrk"),
            ["g.toml:4:58: node 'w': create flowunit 'wrk' failed. (searched: nowhere)"],
        ),
        (
            work("flowunit=work, device=npu"),
            ["g.toml:4:71: node 'w': create flowunit 'work' failed. (searched: nowhere)"],
        ),
        (
            work('flowunit=work, version="2.0.0"'),
            ["g.toml:4:58: node 'w': create flowunit 'work' failed. (searched: nowhere)"],
        ),
        (
            CHAIN.replace("w:out", "w"),
            ["g.toml:4:99: src port is missing, node: w (write w:PORT; output ports of work: out)"],
        ),
        (
            CHAIN.replace("w:out", "w:ot"),
            ["g.toml:4:99: src port is not exist, node: w port: ot (did you mean 'out'? output ports of work: out)"],
        ),
        (
            CHAIN.replace("w:in", "w:inn"),
            ["g.toml:4:84: dst port is not exist, node: w port: inn (did you mean 'in'? input ports of work: in)"],
        ),
        (
            CHAIN + "; w:out -> t:in",
            ["g.toml:4:114: link is already exist: w:out -> t:in"],
        ),
        (
            CHAIN + "; s:out -> t:in",
            [
                "g.toml:4:114: node 't' port 'in': One port links multi edges can not match at one port: w:out and s:out (an input takes one edge; only the branches of one condition may meet)"
            ],
        ),
        (
            CHAIN.replace("; w:out -> t:in", "; s:out -> t:in"),
            [
                "g.toml:4:46: node 'w' port 'out': out port is not connect. (flowunit 'work' config error, port not connect correctly; every output port needs an edge)"
            ],
        ),
        (
            work("flowunit=join").replace("w:in", "w:a"),
            [
                "g.toml:4:46: node 'w' port 'b': in port is not connect. (flowunit 'join' config error, port not connect correctly; every input port needs an edge)"
            ],
        ),
        (
            "s [flowunit=work]",
            [
                "g.toml:4:28: node 's' port 'in': in port is not connect. (flowunit 'work' config error, port not connect correctly; every input port needs an edge)",
                "g.toml:4:28: node 's' port 'out': out port is not connect. (flowunit 'work' config error, port not connect correctly; every output port needs an edge)",
                "g.toml:4:28: start node is not exist. (a graph needs a node whose unit has no inputs)",
            ],
        ),
        (
            "a [flowunit=work]; b [flowunit=work]; a:out -> b:in; b:out -> a:in",
            [
                "g.toml:4:28: start node is not exist. (a graph needs a node whose unit has no inputs)",
                "g.toml:4:28: generate topology fail: the graph has a cycle: a -> b -> a (an edge must not lead back to a node before it)",
            ],
        ),
        (
            "a [flowunit=work]; a:out -> a:in",
            [
                "g.toml:4:28: start node is not exist. (a graph needs a node whose unit has no inputs)",
                "g.toml:4:28: generate topology fail: the graph has a cycle: a -> a (an edge must not lead back to a node before it)",
            ],
        ),
        (
            "s [flowunit=src]; a [flowunit=join]; b [flowunit=work]; s:out -> a:a; a:out -> b:in; b:out -> a:b",
            [
                "g.toml:4:46: generate topology fail: the graph has a cycle: a -> b -> a (an edge must not lead back to a node before it)"
            ],
        ),
        (
            CHAIN + "; s2 [flowunit=src]; t2 [flowunit=sink]; s2:out -> t2:in",
            [
                "g.toml:4:114: not all node union. 's2' has no path to 's' (put separate pipelines into files of their own)"
            ],
        ),
        (
            "s [flowunit=image]; t [flowunit=text_sink]; s:out -> t:in",
            ["g.toml:4:72: type mismatch: s:out gives image, t:in takes string"],
        ),
        (
            work("flowunit=opt"),
            ["g.toml:4:46: node 'w': option 'need' of opt is missing"],
        ),
        (
            work("flowunit=opt, need=1, size=big"),
            ["g.toml:4:76: node 'w': option size='big' is not allowed (a whole number)"],
        ),
        (
            work('flowunit=opt, need=1, size="1_0"'),
            ["g.toml:4:76: node 'w': option size='1_0' is not allowed (a whole number)"],
        ),
        (
            work("flowunit=opt, need=1, size=99999999999999999999"),
            ["g.toml:4:76: node 'w': option size='99999999999999999999' is not allowed (a whole number)"],
        ),
        (
            work("flowunit=opt, need=1, mode=fst"),
            ["g.toml:4:76: node 'w': option mode='fst' is not allowed (one of fast, slow; did you mean 'fast'?)"],
        ),
        (
            work("flowunit=opt, need=1, ratio=x"),
            ["g.toml:4:77: node 'w': option ratio='x' is not allowed (a number)"],
        ),
        (
            work("flowunit=opt, need=1, ratio=nan"),
            ["g.toml:4:77: node 'w': option ratio='nan' is not allowed (a number)"],
        ),
        (
            work("flowunit=opt, need=1, on=maybe"),
            ["g.toml:4:74: node 'w': option on='maybe' is not allowed (true or false)"],
        ),
        (
            work("flowunit=work, batch_size=0"),
            ["g.toml:4:75: node 'w': batch_size='0' is out of range (a whole number from 1 on)"],
        ),
        (
            work("flowunit=work, batch_size=²"),
            ["g.toml:4:75: node 'w': batch_size='²' is out of range (a whole number from 1 on)"],
        ),
        (
            work("flowunit=work, queue_size=0"),
            ["g.toml:4:75: node 'w': queue size config is zero (a whole number from 1 on)"],
        ),
        (
            work("flowunit=work, queue_size_in=0"),
            ["g.toml:4:78: node 'w': queue size config is zero (a whole number from 1 on)"],
        ),
        (
            work("flowunit=work, priority=11"),
            ["g.toml:4:73: node 'w': priority='11' is out of range (a whole number from 1 to 10)"],
        ),
        (
            work("flowunit=work, deviceid=0"),
            ["g.toml:4:73: node 'w': deviceid needs a device (such as device=cpu, deviceid=0)"],
        ),
        (
            work('flowunit=work, deviceid=0, device="cuda:0,1"'),
            [
                "g.toml:4:73: node 'w': should not set deviceid param when use multi device (such as device=cpu, deviceid=0)",
                "g.toml:4:83: node 'w': create flowunit 'work' failed. (searched: nowhere)",
            ],
        ),
        (
            "batch_size=big; " + CHAIN,
            ["g.toml:4:39: the graph: batch_size='big' is out of range (a whole number from 1 on)"],
        ),
        (
            "x -> y",
            [
                "g.toml:4:28: node 'x': flowunit name is empty. (give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?)",
                "g.toml:4:33: node 'y': flowunit name is empty. (give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?)",
            ],
        ),
        (
            work("flowunit=nope").replace("s:out", "s:ot"),
            ["g.toml:4:58: node 'w': create flowunit 'nope' failed. (searched: nowhere)"],
        ),
        (
            "s [type=input]; t [type=output, output_type=mtch]; s -> t",
            ["g.toml:4:72: node 't': Invalid Output Type 'mtch' (match or unmatch)"],
        ),
    ],
)
def test_refused(dot: str, expected: list[str]) -> None:
    assert problems(dot) == expected


def test_all_problems_at_once_in_file_order() -> None:
    found = problems("a [flowunit=nope]\nb [flowunit=work, batch_size=x]\nc [flowunit=nix]")
    assert [problem.split(": ")[0] for problem in found] == [
        "g.toml:4:40", "g.toml:5:1", "g.toml:5:30", "g.toml:6:13",
    ]  # fmt: skip


def test_unknown_option_is_a_warning() -> None:
    graph = build(work('flowunit=opt, need=1, siz=4, label="x", shape=box'))
    assert [str(warning) for warning in graph.warnings] == [
        "g.toml:4:75: node 'w': unit opt has no option 'siz', it is ignored (did you mean 'size'?)"
    ]
    assert graph.nodes["w"].options == {"need": "1", "size": "5", "mode": "fast"}


def test_options_batch_and_queue() -> None:
    graph = build(
        "queue_size=7; batch_size=3; " + work("flowunit=py, x=1, queue_size_in=9, priority=1"),
    )
    node = graph.nodes["w"]
    assert node.options == {"x": "1"}
    assert (node.batch_size, node.queue_sizes, node.user_priority) == (1, {"in": 9}, 1)  # STREAM caps the batch
    assert graph.nodes["t"].queue_sizes == {"in": 7}
    assert list(graph.nodes) == ["s", "w", "t"]


def test_queue_size_of_no_port_is_a_warning() -> None:
    graph = build(work("flowunit=work, queue_size_inn=4, queue_size_event=9") + "; queue_size_external=3")
    assert [str(warning) for warning in graph.warnings] == [
        "g.toml:4:79: node 'w': queue_size_inn names no input port, it is ignored (did you mean 'queue_size_in'?)"
    ]


def test_a_unit_may_have_options_of_the_names_that_the_engine_uses() -> None:
    graph = build(work("flowunit=own, priority=7, label=x, device=cpu"))
    assert graph.nodes["w"].options == {"priority": "7", "level": "1", "name": "x"}
    assert graph.nodes["w"].user_priority == 7


def test_inputs_and_outputs_of_a_graph() -> None:
    graph = build(
        "i [type=input, device=cpu, queue_size_external=5]; o [type=output]; w [flowunit=work]; i:any -> w:in; w:out -> o"
    )
    assert graph.nodes["i"].is_source
    assert graph.nodes["i"].queue_size_external == 5
    assert [(end.node, end.port) for end in graph.nodes["w"].sources["in"]] == [("i", "input")]
    assert [(end.node, end.port) for end in graph.nodes["w"].targets["out"]] == [("o", "output")]


def test_inherited_attributes() -> None:
    graph = build(
        "deviceid=1; batch_size=3; s [flowunit=src, device=cpu]; t [flowunit=sink, device=cpu, batch_size=2]; s:out -> t:in"
    )
    assert [(node.device_id, node.batch_size) for node in graph.nodes.values()] == [("1", 3), ("1", 2)]


def test_strict_false_allows_orphans() -> None:
    assert len(build(CHAIN + "; o [flowunit=work]", "strict = false").nodes) == 4


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
    with pytest.raises(ValueError, match="type 'nothing', which 'x' is to be below, is not known"):
        tree.add("x", "nothing")
    with pytest.raises(ValueError, match="'raw' is the root"):
        tree.add("raw", "image")
    assert "bgr" in tree
    assert "raw" in tree
    assert "nothing" not in tree


def test_types_in_any_order() -> None:
    tree = TypeTree()
    assert tree.add_all([("c", "b", "1"), ("b", "a", "2"), ("a", "tensor", "3"), ("b", "a", "4")]) == []
    assert tree.line("c") == ["c", "b", "a", "tensor", "raw"]
    assert tree.add_all([("a", "image", "f1"), ("x", "y", "f2"), ("y", "x", "f3"), ("raw", "a", "f4")]) == [
        "f1: type 'a' is below 'tensor' already",
        "f4: 'raw' is the root of all types",
        "f2: type 'y', which 'x' is to be below, is not known",
        "f3: type 'x', which 'y' is to be below, is not known",
    ]


# ---- files ------------------------------------------------------------------------------------------------

DOT = '[graph]\nformat = "graphviz"\ngraphconf = "digraph { a }"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[graph]\n", "g.toml:1: graph.format is empty"),
        ('[graph]\nformat = "yaml"\n', "g.toml:2: Graph format not supported, support type: graphviz"),
        ('[graph]\nformat = "graphviz"\n', "g.toml:1: graph config path is null."),
        ('[graph]\nformat = "graphviz"\ngraphconf = "digraph {}"\n', "g.toml:3:14: graph is empty, no node."),
        ('[graph]\nformat = "graphviz"\ngraphconf = ["digraph {", "a ->", "}"]\n', "g.toml:3:36: unexpected '}'"),
        ('[graph]\nformat = "graphviz"\ngraphconf = 5\n', "graph.graphconf must be a text or a list of texts"),
        ("[flow]\nenable = false\n", "flow is disabled"),
        ("[graph\n", "g.toml:1:7:"),
        ("[graph]\nformat = graphviz\n", "g.toml:2:10: Invalid value"),
        ('[graph]\nformat = "graphviz', "g.toml:2:19: Unterminated string at the end of the file"),
        ("x = " + "[" * 5000, "g.toml: the file is nested too deeply"),
        ('{"x": ' + "[" * 100000, "g.toml: the file is nested too deeply"),
        ("x = " + "9" * 5000, "g.toml: Exceeds the limit"),
        ("[flow]\nenable = 3\n", "g.toml:2: flow.enable = 3 is not true or false"),
        ("graph = 5\n", "g.toml:1: 'graph' must be a section [graph]"),
        ("[[graph]]\n", "g.toml:1: 'graph' must be a section [graph]"),
        (DOT + 'strict = "maybe"\n', "g.toml:4: graph.strict = 'maybe' is not true or false"),
        (DOT + "queue_size = 0\n", "g.toml:4: queue size config is zero"),
        (DOT + "thread-num = -1\n", "g.toml:4: graph.thread-num = -1 is no whole number"),
        (DOT + '[driver]\ndir = ["a", 5]\n', "g.toml:5: driver.dir: 5 is no text"),
        (DOT + '[driver]\ndir = "${UNSET_9}/x"\n', "g.toml:5: environment variable UNSET_9 is not set"),
        (
            '[graph]\nformat = "graphviz"\ngraphconffilepath = "/no/where"\n',
            "g.toml:3: graph.graphconffilepath: /no/where cannot be read: No such file or directory",
        ),
        ('[graph]\nformat = "graphviz"\ngraphconffilepath = 5\n', "g.toml:3: graph.graphconffilepath must be a text"),
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


def test_warnings_come_in_file_order() -> None:
    spec = parse_graph(DOT + "z = 1\ny = 1\nx = 1\n[flow]\nw = 1\n[profile]\nprofile = true\n", "g.toml")
    assert [str(warning.where) for warning in spec.warnings] == ["g.toml:4", "g.toml:5", "g.toml:6", "g.toml:8"]


def test_settings() -> None:
    spec = parse_graph(
        DOT + 'queue_size = 8\nbatch_size = "4"\nstrict = 0\n[flow]\nname = "n"\ndesc = """\nd\n"""\n'
        '[driver]\nskip-default = "true"\ndir = ""\n[args.x]\ndefault = 1\n',
        "g.toml",
    )
    assert spec.settings == {"queue_size": 8, "batch_size": 4}
    assert (spec.strict, spec.skip_default, spec.driver_dirs) == (False, True, [])
    assert (spec.name, spec.flow_name, spec.flow_desc, spec.warnings) == ("n", "n", "d", [])


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIZE", "7")
    dot = 'digraph { queue_size = "${SIZE}"; a [x="a${SIZE}b", y="\\\\${SIZE}", z="$SIZE"] }'
    spec = parse_graph(f'[graph]\nformat = "graphviz"\ngraphconf = """{dot}"""\n', "g.toml")
    assert spec.attrs["queue_size"].text == "7"
    assert {key: attr.text for key, attr in spec.nodes["a"].attrs.items()} == {"x": "a7b", "y": "${SIZE}", "z": "$SIZE"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"no\.toml: cannot be read: No such file or directory"):
        load_graph(tmp_path / "no.toml")
    with pytest.raises(GraphError, match="is no file"):
        load_graph(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(GraphError, match=r"latin\.toml: is not UTF-8 text \(byte 2\)"):
        load_graph(tmp_path / "latin.toml")


def test_relative_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin at the graph file, or where the process works, whichever is there."""
    for name in ("graphs/here", "cwd/here", "cwd/there"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    text = DOT + '[driver]\ndir = ["here", "./there", "nowhere", "/abs"]\n'
    assert parse_graph(text, str(tmp_path / "graphs" / "g.toml")).driver_dirs == [
        str(tmp_path / "graphs/here"), str(tmp_path / "cwd/there"), str(tmp_path / "graphs/nowhere"), "/abs",
    ]  # fmt: skip


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


def test_ways_from_inputs_to_outputs_are_one_graph() -> None:
    dot = "i [type=input]; j [type=input]; o [type=output]; p [type=output]; v [flowunit=work]; w [flowunit=work]; "
    assert len(build(dot + "i -> v:in; v:out -> o; j -> w:in; w:out -> p").nodes) == 6
    (message,) = problems("i [type=input]; o [type=output]; s [flowunit=src]; t [flowunit=sink]; i -> o; s:out -> t:in")
    assert message.endswith(
        "not all node union. 's' has no path to 'i' (put separate pipelines into files of their own)"
    )
