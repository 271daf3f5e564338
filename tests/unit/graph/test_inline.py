"""Graph files as units of other graphs: what they become, their arguments, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbox.errors import GraphError
from modelbox.spec import UnitKind
from modelboxd.drivers.registry import Registry as DriverRegistry
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import load_graph
from modelboxd.graph.model import Graph
from modelboxd.graph.plan import make_plan
from modelboxd.graph.show import plan_dot, plan_table

PY = """[base]
name = "{name}"
type = "python"
device = "cpu"
version = "1.0.0"
description = "a unit"
entry = "{name}@Unit"
{flags}
{ports}
"""
UNITS = {
    "src": (0, 1, "stream = true"),
    "sink": (1, 0, "stream = false"),
    "work": (1, 1, "stream = false"),
    "join": (2, 1, "stream = false"),
    "branch": (1, 2, "condition = true"),
    "expand": (1, 1, "expand = true\nstream = false"),
    "collapse": (1, 1, "collapse = true\nstream = false"),
    "loop": (1, 2, "loop = true"),
}


class Files:
    """Unit and graph files in a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "units").mkdir()
        for name, (inputs, outputs, flags) in UNITS.items():
            ports = [f'[input.input{n + 1}]\nname = "{"ab"[n] if inputs > 1 else "in"}"' for n in range(inputs)]
            ports += [f'[output.output{n + 1}]\nname = "{"xy"[n] if outputs > 1 else "out"}"' for n in range(outputs)]
            text = PY.format(name=name, flags=flags, ports="\n".join(ports))
            (folder / "units" / f"{name}.toml").write_text(text)

    def graph(self, name: str, dot: str, extra: str = "", place: str = "units", head: str = "") -> Path:
        """Writes a graph file; its DOT begins at line 4."""
        (self.folder / place).mkdir(exist_ok=True)
        path = self.folder / place / f"{name}.toml"
        path.write_text(
            f'[graph]\nformat = "graphviz"\n{head}\ngraphconf = """digraph {name} {{ {dot} }}"""\n'
            f'[flow]\nname = "{name}"\n{extra}\n'
        )
        return path

    def check(self, dot: str, extra: str = "") -> Graph:
        spec = load_graph(self.graph("main", dot, '[driver]\ndir = "../units"\n' + extra, "main"))
        registry = DriverRegistry(
            [Path(place) for place in spec.driver_dirs], builtin_dir=self.folder / "none", cache_file=None
        )
        registry.scan()
        return check_graph(spec, registry)

    def problems(self, dot: str, extra: str = "") -> list[str]:
        with pytest.raises(GraphError) as caught:
            self.check(dot, extra)
        return [str(problem).replace(f"{self.folder}/", "") for problem in caught.value.problems]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def edges(graph: Graph) -> set[str]:
    return {
        f"{node.name}:{port} -> {end.node}:{end.port}"
        for node in graph.nodes.values()
        for port, ends in node.targets.items()
        for end in ends
    }


SUB = "i [type=input]; o [type=output]; w [flowunit=work]; i -> w:in; w:out -> o"
OUTER = "s [flowunit=src]; g [flowunit=sub]; t [flowunit=sink]; s:out -> g:i; g:o -> t:in"


def test_a_graph_in_place_of_a_node(files: Files) -> None:
    files.graph("sub", SUB)
    graph = files.check(OUTER)
    assert list(graph.nodes) == ["s", "g/w", "t"]
    assert edges(graph) == {"s:out -> g/w:in", "g/w:out -> t:in"}
    assert graph.nodes["g/w"].where.file.endswith("units/sub.toml")
    assert (graph.nodes["g/w"].group, graph.nodes["s"].group) == (("g",), ())
    assert not graph.warnings


def test_the_same_graph_twice(files: Files) -> None:
    files.graph("sub", SUB)
    graph = files.check(OUTER.replace("g:o -> t", "h [flowunit=sub]; g:o -> h:i; h:o -> t"))
    assert edges(graph) == {"s:out -> g/w:in", "g/w:out -> h/w:in", "h/w:out -> t:in"}


def test_nested_to_any_depth(files: Files) -> None:
    files.graph("sub1", SUB)
    for depth in range(2, 17):
        files.graph(f"sub{depth}", SUB.replace("flowunit=work", f"flowunit=sub{depth - 1}").replace("w:in", "w:i").replace("w:out", "w:o"))  # fmt: skip
    graph = files.check(OUTER.replace("=sub", "=sub16"))
    inner = "g/" + "w/" * 15 + "w"
    assert edges(graph) == {f"s:out -> {inner}:in", f"{inner}:out -> t:in"}
    assert graph.nodes[inner].group == ("g", *["w"] * 15)
    files.graph("sub17", SUB.replace("flowunit=work", "flowunit=sub16").replace("w:in", "w:i").replace("w:out", "w:o"))
    (problem,) = files.problems(OUTER.replace("=sub", "=sub17"))
    assert problem.startswith(
        f"units/sub2.toml:4:64: node '{inner}': graphs are nested more than 16 deep: main -> sub17 -> "
    )


def test_recursion_is_refused_with_its_chain(files: Files) -> None:
    files.graph("sub", SUB.replace("flowunit=work", "flowunit=two").replace("w:in", "w:i").replace("w:out", "w:o"))
    files.graph("two", SUB.replace("flowunit=work", "flowunit=sub").replace("w:in", "w:i").replace("w:out", "w:o"))
    assert files.problems(OUTER) == [
        "units/two.toml:4:63: node 'g/w/w': graph sub contains itself: main -> sub -> two -> sub"
    ]


def test_a_graph_that_grows_without_limit(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelboxd.graph.inline.MAX_NODES", 1000)
    files.graph("sub0", SUB)
    for depth in range(1, 13):
        twice = f"i [type=input]; o [type=output]; a [flowunit=sub{depth - 1}]; b [flowunit=sub{depth - 1}]; i -> a:i; a:o -> b:i; b:o -> o"
        files.graph(f"sub{depth}", twice)
    (problem,) = files.problems(OUTER.replace("=sub", "=sub12"))
    assert problem.endswith(": with graph sub3 the whole has more than 1000 nodes")


# ---- how the ends are joined ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (  # an input that feeds several nodes, an output that feeds several
            "i [type=input]; o [type=output]; p [type=output]; v [flowunit=work]; w [flowunit=work]; i -> v:in; i -> w:in; v:out -> o; w:out -> p",
            "s [flowunit=src]; g [flowunit=sub]; j [flowunit=join]; t [flowunit=sink]; u [flowunit=sink]; s:out -> g:i; g:o -> j:a; g:p -> j:b; j:out -> t:in; g:o -> u:in",
            "s:out -> g/v:in; s:out -> g/w:in; g/v:out -> j:a; g/w:out -> j:b; j:out -> t:in; g/v:out -> u:in",
        ),
        (  # an input wired straight to an output, beside a node
            "i [type=input]; o [type=output]; p [type=output]; w [flowunit=work]; i -> w:in; w:out -> o; i -> p",
            "s [flowunit=src]; g [flowunit=sub]; j [flowunit=join]; t [flowunit=sink]; s:out -> g:i; g:o -> j:a; g:p -> j:b; j:out -> t:in",
            "s:out -> g/w:in; g/w:out -> j:a; s:out -> j:b; j:out -> t:in",
        ),
        (  # nothing but a wire, twice in a row
            "i [type=input]; o [type=output]; i -> o",
            "s [flowunit=src]; g [flowunit=sub]; h [flowunit=sub]; t [flowunit=sink]; s:out -> g:i; g:o -> h:i; h:o -> t:in",
            "s:out -> t:in",
        ),
        (  # branches that meet inside, and at the input of a graph
            "i [type=input]; o [type=output]; w [flowunit=work]; i -> w:in; w:out -> o",
            "s [flowunit=src]; b [flowunit=branch]; g [flowunit=sub]; t [flowunit=sink]; s:out -> b:in; b:x -> g:i; b:y -> g:i; g:o -> t:in",
            "s:out -> b:in; b:x -> g/w:in; b:y -> g/w:in; g/w:out -> t:in",
        ),
        (  # branches that meet at the output of a graph
            "i [type=input]; o [type=output]; b [flowunit=branch]; i -> b:in; b:x -> o; b:y -> o",
            "s [flowunit=src]; g [flowunit=sub]; t [flowunit=sink]; s:out -> g:i; g:o -> t:in",
            "s:out -> g/b:in; g/b:x -> t:in; g/b:y -> t:in",
        ),
        (  # a condition as a graph: branches that leave by two outputs
            "i [type=input]; yes [type=output]; no [type=output]; b [flowunit=branch]; i -> b:in; b:x -> yes; b:y -> no",
            "s [flowunit=src]; g [flowunit=sub]; w [flowunit=work]; t [flowunit=sink]; s:out -> g:i; g:yes -> w:in; w:out -> t:in; g:no -> t:in",
            "s:out -> g/b:in; g/b:x -> w:in; w:out -> t:in; g/b:y -> t:in",
        ),
        (  # an expand inside, its collapse outside
            "i [type=input]; o [type=output]; e [flowunit=expand]; i -> e:in; e:out -> o",
            "s [flowunit=src]; g [flowunit=sub]; c [flowunit=collapse]; t [flowunit=sink]; s:out -> g:i; g:o -> c:in; c:out -> t:in",
            "s:out -> g/e:in; g/e:out -> c:in; c:out -> t:in",
        ),
        (  # a loop, its body a graph
            "i [type=input]; o [type=output]; w [flowunit=work]; i -> w:in; w:out -> o",
            "s [flowunit=src]; l [flowunit=loop]; g [flowunit=sub]; t [flowunit=sink]; s:out -> l:in; l:x -> g:i; g:o -> l:in; l:y -> t:in",
            "s:out -> l:in; l:x -> g/w:in; g/w:out -> l:in; l:y -> t:in",
        ),
        (  # parts that nothing joins but the graph around them
            "i [type=input]; k [type=input]; o [type=output]; p [type=output]; v [flowunit=work]; w [flowunit=work]; i -> v:in; k -> w:in; v:out -> o; w:out -> p",
            "s [flowunit=src]; s2 [flowunit=src]; g [flowunit=sub]; t [flowunit=sink]; u [flowunit=sink]; s:out -> g:i; s2:out -> g:k; g:o -> t:in; g:p -> u:in",
            "s:out -> g/v:in; s2:out -> g/w:in; g/v:out -> t:in; g/w:out -> u:in",
        ),
        (  # a graph with outputs only: its source comes along
            "o [type=output]; s [flowunit=src]; s:out -> o",
            "g [flowunit=sub]; t [flowunit=sink]; g:o -> t:in",
            "g/s:out -> t:in",
        ),
        (  # outputs and inputs of the outer graph stay
            "i [type=input]; o [type=output]; w [flowunit=work]; i -> w:in; w:out -> o",
            "a [type=input]; g [flowunit=sub]; z [type=output]; a -> g:i; g:o -> z",
            "a:input -> g/w:in; g/w:out -> z:output",
        ),
    ],
)  # fmt: skip
def test_ends(files: Files, inner: str, outer: str, expected: str) -> None:
    files.graph("sub", inner)
    graph = files.check(outer)
    assert edges(graph) == set(expected.split("; "))
    make_plan(graph)


def test_wires_through_several_levels(files: Files) -> None:
    files.graph("wire", "i [type=input]; o [type=output]; i -> o")
    files.graph(
        "sub", "i [type=input]; o [type=output]; a [flowunit=wire]; b [flowunit=wire]; i -> a:i; a:o -> b:i; b:o -> o"
    )
    assert edges(files.check(OUTER)) == {"s:out -> t:in"}


def test_order_of_lanes(files: Files) -> None:
    files.graph("sub", SUB)
    dot = "s [flowunit=src]; b [flowunit=branch]; g [flowunit=sub]; w [flowunit=work]; t [flowunit=sink]; s:out -> b:in; b:y -> g:i; b:x -> w:in; g:o -> t:in; w:out -> t:in"
    assert [end.node for end in files.check(dot).nodes["t"].sources["in"]] == ["g/w", "w"]


# ---- arguments ------------------------------------------------------------------------------------------------

ARGS = """[args.size]
default = 64
type = "int"
[args.name]
desc = "what to say"
[args.batch_size]
default = "4"
"""
WITH_ARGS = SUB.replace("flowunit=work", 'flowunit=work, size="$size", name="$name", text="$size x $name of $5 for $nobody", batch_size="$batch_size", money="\\\\$size"')  # fmt: skip


def test_arguments(files: Files) -> None:
    files.graph("sub", WITH_ARGS, ARGS)
    node = files.check(OUTER.replace("=sub", '=sub, name=me, "w.more"=7, shape=box, label=x')).nodes["g/w"]
    assert node.options == {
        "size": "64", "name": "me", "text": "64 x me of $5 for $nobody", "more": "7", "money": "$size",
    }  # fmt: skip
    assert node.batch_size == 4
    node = files.check(OUTER.replace("=sub", '=sub, name="", size=-1, batch_size=2')).nodes["g/w"]
    assert (node.options["size"], node.options["name"], node.batch_size) == ("-1", "", 2)


def test_arguments_pass_through_levels(files: Files) -> None:
    files.graph("low", WITH_ARGS, ARGS)
    files.graph(
        "sub", 'i [type=input]; o [type=output]; m [flowunit=low, name="$who"]; i -> m:i; m:o -> o', "[args.who]"
    )
    graph = files.check(OUTER.replace("=sub", '=sub, who=you, "m.size"=5, "m.w.more"=8, "m.batch_size"=3'))
    node = graph.nodes["g/m/w"]
    assert (node.options["name"], node.options["size"], node.options["more"], node.batch_size) == ("you", "5", "8", 3)
    assert not graph.warnings


def test_arguments_of_the_file_itself(files: Files) -> None:
    dot = 's [flowunit=src]; w [flowunit=work, size="$size", other="$other"]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in'
    assert files.check(dot, ARGS).nodes["w"].options == {"size": "64", "other": "$other"}


def test_what_is_wrong_with_arguments(files: Files) -> None:
    files.graph("sub", WITH_ARGS.replace("$5", "$siz").replace('name="$name"', 'name="$nam"'), ARGS)
    assert files.problems(OUTER.replace("=sub", "=sub, size=big, nme=x")) == [
        "main/main.toml:4:49: node 'g': argument 'nam' of graph sub is missing (units/sub.toml:4:100 uses $nam, [args] has no 'nam'; did you mean 'name'?)",
        "main/main.toml:4:49: node 'g': argument 'name' of graph sub is missing (units/sub.toml:4:113 uses $name, [args.name] has no default; set name on the node)",
        "main/main.toml:4:71: node 'g': option size='big' is not allowed (a whole number)",
    ]
    files.graph("sub", SUB, ARGS)
    graph = files.check(OUTER.replace("=sub", "=sub, siz=1, queue_size=3, drop=oldest"))
    assert [str(warning).split(": ", 1)[1] for warning in graph.warnings] == [
        "node 'g': unit sub has no option 'siz', it is ignored (did you mean 'size'?)",
        "node 'g': queue_size has no meaning on a graph, it is ignored (set it on a node inside: \"w.queue_size\")",
        "node 'g': drop has no meaning here, it is ignored (it is for sources and type=input)",
    ]


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ('"v.size"=1', "node 'g': graph sub has no node 'v' (it has: i, o, w)"),
        ('"work.size"=1', "node 'g': graph sub has no node 'work' (it has: i, o, w)"),
        ('"i.queue_size"=1', "node 'g': node 'i' of graph sub has no option 'queue_size' (it has: none)"),
        ('"w.type"=input', "node 'g': node 'w' of graph sub has no option 'type' (it has: none)"),  # but any other one
    ],
)
def test_overrides_that_fit_nothing(files: Files, attribute: str, message: str) -> None:
    files.graph("sub", SUB)
    dot = OUTER.replace("=sub", f"=sub, {attribute}")
    assert [problem.split(": ", 1)[1] for problem in files.problems(dot)] == [message]


# ---- places ---------------------------------------------------------------------------------------------------


def test_a_graph_has_directories_of_its_own(files: Files) -> None:
    text = (files.folder / "units/work.toml").read_text().replace('"work"', '"hidden"').replace("work@", "hidden@")
    (files.folder / "more").mkdir()
    (files.folder / "more/hidden.toml").write_text(text)
    files.graph("sub", SUB.replace("flowunit=work", "flowunit=hidden"), '[driver]\ndir = ["../more"]')
    graph = files.check(OUTER)
    assert graph.nodes["g/w"].unit.name == "hidden"
    (problem,) = files.problems(OUTER.replace("flowunit=sink", "flowunit=hidden"))
    assert "node 't': create flowunit 'hidden' failed." in problem  # not out here


def test_settings_of_the_inner_graph(files: Files) -> None:
    dot = "queue_size=5; i [type=input]; o [type=output]; v [flowunit=work, queue_size=6]; w [flowunit=work]; i -> v:in; v:out -> w:in; w:out -> o"
    files.graph("sub", dot, head="batch_size = 3")
    graph = files.check("batch_size=7; queue_size=9; " + OUTER)
    found = {name: (node.batch_size, node.queue_sizes.get("in")) for name, node in graph.nodes.items()}
    assert found == {"s": (1, None), "g/v": (3, 6), "g/w": (3, 5), "t": (7, 9)}


def test_groups_are_shown(files: Files) -> None:
    files.graph("sub", SUB.replace("w [flowunit=work]", "subgraph cluster_deep { w [flowunit=work] }"))
    plan = make_plan(files.check(OUTER.replace("g [flowunit=sub]", "subgraph cluster_mid { g [flowunit=sub] }")))
    assert plan.graph.nodes["g/w"].group == ("mid", "g", "deep")
    assert "python x1  g/w   mid > g > deep  work 1.0.0" in plan_table(plan)
    assert plan_dot(plan).count("subgraph cluster_") == 3


# ---- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (
            SUB.replace("w:in", "w:inn"),
            OUTER,
            ["units/sub.toml:4:82: dst port is not exist, node: g/w port: inn (did you mean 'in'? input ports of work: in)"],
        ),
        (
            SUB.replace("flowunit=work", "flowunit=wrk"),
            OUTER,
            ["units/sub.toml:4:75: node 'g/w': create flowunit 'wrk' failed. can not find flowunit [type: any, name: wrk] (did you mean work? searched: units; check driver.dir)"],
        ),
        (
            SUB.replace("w:out -> o", "i -> o"),
            OUTER,
            ["units/sub.toml:4:63: node 'g/w' port 'out': out port is not connect. (flowunit 'work' config error, port not connect correctly; every output port needs an edge)"],
        ),
        (
            SUB + "; p [type=output]",
            OUTER + "; u [flowunit=sink]; g:p -> u:in",
            ["units/sub.toml:4:105: node 'g/p' port 'output': in port is not connect. (flowunit 'output' config error, port not connect correctly; every input port needs an edge)"],
        ),
        (
            SUB + "; k [type=input]",
            OUTER + "; s:out -> g:k",
            ["units/sub.toml:4:105: node 'g/k' port 'input': out port is not connect. (flowunit 'input' config error, port not connect correctly; every output port needs an edge)"],
        ),
        (
            SUB,
            OUTER.replace("g:i", "g:j"),
            ["main/main.toml:4:86: dst port is not exist, node: g port: j (input ports of sub: i)"],
        ),
        (
            SUB,
            OUTER.replace("g:o", "g"),
            ["main/main.toml:4:100: src port is missing, node: g (write g:PORT; output ports of sub: o)"],
        ),
        (
            SUB,
            OUTER.replace("; g:o -> t:in", "; s:out -> t:in"),
            ["main/main.toml:4:49: node 'g' port 'o': out port is not connect. (flowunit 'sub' config error, port not connect correctly; every output port needs an edge)"],
        ),
        (
            SUB + "; w:out -> i",
            OUTER,
            ["units/sub.toml:4:105: dst port is not exist, node: g/i (input ports of input: none; no edge can end here)"],
        ),
        (
            "i [type=input]; o [type=output]; i -> o",
            "s [flowunit=src]; g [flowunit=sub]; j [flowunit=join]; t [flowunit=sink]; s:out -> j:a; g:o -> g:i; g:o -> j:b; j:out -> t:in",
            ["main/main.toml:4:119: generate topology fail: the graph has a cycle: g:i -> g:i (an edge must not lead back to a node before it)"],
        ),
        (
            SUB,
            "s [flowunit=src]; g [flowunit=sub]; s:out -> g:i; g:o -> g:i",
            ["main/main.toml:4:81: node 'g/w' port 'in': One port links multi edges can not match at one port: s:out and g/w:out (an input takes one edge; only the branches of one condition may meet)"],
        ),
        (
            SUB,
            OUTER + '; "g/w" [flowunit=work]; s:out -> "g/w":in; "g/w":out -> t:in',
            [
                "main/main.toml:4:113: node 'g/w' is there twice: '/' parts the names of a graph and of its nodes",
                "main/main.toml:4:136: link is already exist: s:out -> g/w:in",
                "main/main.toml:4:155: link is already exist: g/w:out -> t:in",
            ],
        ),
        (  # levels are checked over the whole
            "i [type=input]; o [type=output]; e [flowunit=expand]; i -> e:in; e:out -> o",
            "s [flowunit=src]; g [flowunit=sub]; j [flowunit=join]; t [flowunit=sink]; s:out -> g:i; s:out -> j:a; g:o -> j:b; j:out -> t:in",
            ["main/main.toml:4:67: node:j has different level links, pls check the input links. (a <- s:out is at source s; b <- g/e:out <- s:out is at source s > expand g/e)"],
        ),
    ],
)  # fmt: skip
def test_refused(files: Files, inner: str, outer: str, expected: list[str]) -> None:
    files.graph("sub", inner)
    assert files.problems(outer) == expected


def test_a_graph_file_that_is_broken(files: Files) -> None:
    files.graph("sub", SUB + "; ->")
    (problem,) = files.problems(OUTER)
    assert "node 'g': create flowunit 'sub' failed." in problem
    assert "units/sub.toml:4:105: unexpected '->' in the graph" in problem


def test_a_graph_file_that_breaks_after_the_scan(files: Files) -> None:
    path = files.graph("sub", SUB)
    spec = load_graph(files.graph("main", OUTER, '[driver]\ndir = "../units"', "main"))
    registry = DriverRegistry([files.folder / "units"], builtin_dir=files.folder / "none", cache_file=None)
    registry.scan()
    path.unlink()
    with pytest.raises(GraphError) as caught:
        check_graph(spec, registry)
    assert [str(problem) for problem in caught.value.problems] == [
        f"node 'g': {path}: cannot be read: No such file or directory"
    ]


def test_inner_strict_is_honoured(files: Files) -> None:
    files.graph("sub", SUB + "; x [flowunit=work]", head="strict = false")
    assert "g/x" in files.check(OUTER).nodes
    files.graph("sub", SUB + "; x [flowunit=work]")
    assert [problem.split(": ", 1)[1] for problem in files.problems(OUTER)] == [
        "orphan node: 'g/x', use graph.strict=false to disable orphan check"
    ]


# ---- in the registry ----------------------------------------------------------------------------------------------


def test_the_unit_of_a_graph_file(files: Files) -> None:
    path = files.graph("sub", "b [type=input]; a [type=INPUT]; o [type=output]; b -> o; a -> o", ARGS)
    registry = DriverRegistry([files.folder / "units"], builtin_dir=files.folder / "none", cache_file=None)
    registry.scan()
    unit = registry.find("sub")
    assert (unit.kind, unit.path) == (UnitKind.GRAPH, str(path))
    assert [port.name for port in unit.inputs] == ["b", "a"]
    assert [port.name for port in unit.outputs] == ["o"]
    assert [(o.name, o.type, o.default, o.required, o.description) for o in unit.options] == [
        ("size", "int", "64", False, ""),
        ("name", "string", None, True, "what to say"),
        ("batch_size", "string", "4", False, ""),
    ]
    assert registry.find("sub", "cuda") is unit
    assert not registry.problems


def test_jobs_are_no_units(files: Files) -> None:
    files.graph("job", "s [flowunit=src]; t [flowunit=sink]; s:out -> t:in")
    files.graph("off", SUB, "enable = false")
    registry = DriverRegistry([files.folder / "units"], builtin_dir=files.folder / "none", cache_file=None)
    registry.scan()
    assert {unit.name for unit in registry.units} == set(UNITS)
    assert not registry.problems


def test_a_graph_does_not_hide_a_unit(files: Files) -> None:
    path = files.graph("work", SUB, place="a")
    registry = DriverRegistry(
        [files.folder / "a", files.folder / "units"], builtin_dir=files.folder / "none", cache_file=None
    )
    registry.scan()
    assert registry.find("work").kind is UnitKind.PYTHON
    assert [str(problem) for problem in registry.problems] == [
        f"unit 'work' 1.0.0 for cpu in {path} is hidden by {files.folder}/units/work.toml"
    ]
