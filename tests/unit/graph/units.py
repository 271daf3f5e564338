"""A registry of a few units, and graphs made of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from modelbox.errors import GraphError, UnitNotFoundError
from modelbox.spec import FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import parse_graph
from modelboxd.graph.model import Graph

PYTHON, BUILTIN = UnitKind.PYTHON, UnitKind.BUILTIN


def unit(
    name: str, inputs: str = "in", outputs: str = "out", kind: UnitKind = UnitKind.NATIVE, **more: object
) -> UnitSpec:
    """A unit; a port may be written as name/type."""

    def ports(text: str) -> tuple[PortSpec, ...]:
        return tuple(PortSpec(*word.split("/")) for word in text.split())

    made = UnitSpec(name, "cpu", "1.0.0", name, kind, f"{name}.so", ports(inputs), ports(outputs))
    return replace(made, **more)  # type: ignore[arg-type]


UNITS = {
    item.name: item
    for item in (
        unit("src", "", "out", BUILTIN),
        unit("sink", "in", "", BUILTIN),
        unit("work"),
        unit("join", "a b"),
        unit("join3", "a b c"),
        unit("split", outputs="x y"),
        unit("py", kind=PYTHON, open_options=True, flow_type=FlowType.STREAM),
        unit("own", kind=PYTHON, open_options=True, config={"priority": "3", "level": "1", "name": "x"}),
        unit("opt", options=(
            OptionSpec("size", "int", "5"), OptionSpec("mode", values=("fast", "slow"), default="fast"),
            OptionSpec("ratio", "float"), OptionSpec("on", "bool"), OptionSpec("need", required=True),
        )),
        unit("image", "", "out/image", BUILTIN),
        unit("text_sink", "in/string", "", BUILTIN),
        unit("branch", outputs="yes no", condition=True),
        unit("triage", outputs="one two three", condition=True),
        unit("expand", expand=True),
        unit("collapse", collapse=True),
        unit("stream", flow_type=FlowType.STREAM),
        unit("onnx", kind=UnitKind.INFERENCE),
        unit("loop", outputs="again done", loop=True),
        unit("native_src", "", "out"),
        unit("py_expand", kind=PYTHON, open_options=True, flow_type=FlowType.STREAM, expand=True),
        unit("py_collapse", kind=PYTHON, open_options=True, flow_type=FlowType.STREAM, collapse=True),
        # What no unit can be.
        unit("bad_condition", condition=True),
        unit("bad_condition_source", "", "yes no", condition=True),
        unit("bad_loop", outputs="again done never", loop=True),
        unit("bad_loop_join", "a b", "again done", loop=True),
        unit("bad_collapse", outputs="", collapse=True),
        unit("bad_expand", "", expand=True),
        unit("bad_both", expand=True, collapse=True),
    )
}  # fmt: skip


class Registry:
    """Finds what is in UNITS, on cpu."""

    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        found = UNITS.get(name)
        if found is None or device not in ("", "cpu", "cuda") or version not in ("", found.version):
            raise UnitNotFoundError(f"create flowunit '{name}' failed.", hint="searched: nowhere")
        return replace(found, device=device or "cpu")


def build(dot: str, extra: str = "") -> Graph:
    """The checked graph of DOT statements; they begin at line 4 of the file."""
    text = f'[graph]\nformat = "graphviz"\n{extra}\ngraphconf = """digraph g {{ {dot} }}"""\n'
    return check_graph(parse_graph(text, "g.toml"), Registry())


def chain(text: str) -> str:
    """DOT of a graph in short: "src1 branch1:yes join1.a; branch1:no join1.b" are two paths.

    A word is a node, with `.PORT` for the input port behind it if not "in", and `:PORT` for the output port if
    not "out". The unit of a node is its name without the digits at its end.
    """
    nodes: dict[str, str] = {}
    edges: list[str] = []
    for path in text.split(";"):
        words = path.split()
        for src, dst in itertools.pairwise(words):
            edges.append(f"{_out(src)} -> {_in(dst)}")
        for word in words:
            name = _name(word)
            unit_name = name.rstrip("0123456789") or name
            kind = f"type={unit_name}" if unit_name in ("input", "output") else f"flowunit={unit_name}"
            nodes.setdefault(name, f"{name} [{kind}]")
    return "; ".join([*nodes.values(), *edges])


def _name(word: str) -> str:
    return word.split(":")[0].split(".")[0]


def _out(word: str) -> str:
    return f"{_name(word)}:{word.split(':')[1] if ':' in word else 'out'}"


def _in(word: str) -> str:
    return f"{_name(word)}:{word.split(':')[0].split('.')[1] if '.' in word else 'in'}"


def problems(dot: str, extra: str = "") -> list[str]:
    """Every complaint about DOT statements."""
    with pytest.raises(GraphError) as caught:
        build(dot, extra)
    return [str(problem) for problem in caught.value.problems]
