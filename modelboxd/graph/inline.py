"""Graphs inside graphs: a node whose unit is a graph file is replaced by the nodes of that file.

All of it happens before anything is checked, on GraphSpec: what comes out is one flat graph in which a node is called
"outer/inner". The type=input and type=output nodes of the inner graph vanish; what they join is joined directly.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelbox.errors import GraphError, ModelBoxError, Where
from modelbox.spec import PortSpec, UnitKind, UnitSpec
from modelboxd.graph.attributes import DRAWING, ENGINE_ATTRS, INHERITED, INPUT, OUTPUT, PLACED, Attributes
from modelboxd.graph.finder import Finder
from modelboxd.graph.loader import load_graph
from modelboxd.graph.model import Attr, EdgeSpec, GraphSpec, NodeSpec

MAX_DEPTH = 16  # of graphs inside graphs
MAX_NODES = 100_000  # of the flat graph; a few files that use each other twice grow without limit
VERSION = "1.0.0"  # graph files have none
_ARGUMENT = re.compile(r"(\\?)\$(\w+)")


@dataclass(slots=True)
class Flat:
    """A graph without graphs inside."""

    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    edges: list[EdgeSpec] = field(default_factory=list)
    finders: dict[str, Finder] = field(default_factory=dict)  # node -> what finds its unit
    outer: dict[str, str] = field(default_factory=dict)  # node -> the node of the file that it is a part of
    loose: set[str] = field(default_factory=set)  # nodes of inner files with strict = false
    doubtful: set[str] = field(default_factory=set)  # nodes whose ports only seem open, since an edge was refused
    broken: bool = False  # so may those of all nodes: a graph could not be put in
    problems: list[ModelBoxError] = field(default_factory=list)
    warnings: list[ModelBoxError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a joined edge. `door`: not a node, but the type=input node `node` of the graph that is put in."""

    node: str
    port: str | None
    where: Where
    door: bool = False


@dataclass(slots=True)
class _Doors:
    """What the type=input nodes of a graph feed inside of it, and what feeds its type=output nodes."""

    inputs: dict[str, list[_End]] = field(default_factory=dict)
    outputs: dict[str, list[_End]] = field(default_factory=dict)


def graph_unit(spec: GraphSpec) -> UnitSpec | None:
    """A graph file as a unit; None when it has no name or neither type=input nor type=output nodes."""
    inputs, outputs = _doors_of(spec, "input"), _doors_of(spec, "output")
    if not spec.flow_name or not (inputs or outputs):
        return None
    return UnitSpec(
        name=spec.flow_name,
        device="cpu",
        version=VERSION,
        description=spec.flow_desc,
        kind=UnitKind.GRAPH,
        path=spec.file,
        inputs=tuple(PortSpec(name) for name in inputs),
        outputs=tuple(PortSpec(name) for name in outputs),
        options=tuple(spec.args.values()),
    )


def inline(spec: GraphSpec, finder: Finder) -> Flat:
    """The flat graph of a file. What is wrong is in its `problems`; nothing is raised."""
    flat = Flat(warnings=list(spec.warnings))
    defaults = {name: arg.default for name, arg in spec.args.items() if arg.default is not None}
    nodes = {
        name: replace(node, attrs={key: _substitute(attr, defaults)[0] for key, attr in node.attrs.items()})
        for name, node in spec.nodes.items()
    }
    chain = [(spec.flow_name or spec.name, os.path.realpath(spec.file))]
    _Level(flat, spec, nodes, finder, (), (), chain, {}).run()
    return flat


class _Level:
    """One graph file in its place."""

    def __init__(
        self,
        flat: Flat,
        spec: GraphSpec,
        nodes: dict[str, NodeSpec],
        finder: Finder,
        place: tuple[str, ...],
        group: tuple[str, ...],
        chain: list[tuple[str, str]],
        loaded: dict[str, GraphSpec],
    ) -> None:
        """`nodes` with their arguments filled in; `place`: the nodes that this graph stands for, outermost first;
        `chain`: names and paths of the graphs around, this one last; `loaded`: graph files by path."""
        self.flat = flat
        self.spec = spec
        self.nodes = nodes
        self.finder = finder
        self.place = place
        self.prefix = "".join(f"{name}/" for name in place)
        self.group = group
        self.chain = chain
        self.loaded = loaded
        self.graphs: dict[str, UnitSpec] = {}
        self.inside: dict[str, _Doors] = {}
        self.failed: set[str] = set()  # graphs that could not be put in
        self.doors = _Doors()
        self.into: dict[str, list[EdgeSpec]] = defaultdict(list)
        for edge in spec.edges:
            self.into[edge.dst].append(edge)

    def _complain(self, node: str, message: str, where: Where, hint: str = "") -> None:
        self.flat.problems.append(GraphError(message, where=where, hint=hint, node=node))

    def run(self) -> None:
        """Adds the nodes and edges to the flat graph, and fills `doors`."""
        if self.prefix:
            self.doors.inputs = {name: [] for name in _doors_of(self.spec, "input")}
            self.doors.outputs = {name: [] for name in _doors_of(self.spec, "output")}
        for node in self.nodes.values():
            if node.name in self.doors.inputs or node.name in self.doors.outputs:
                continue
            unit = self.finder.unit(node.attrs) if _kind(node) == "flowunit" else None
            if unit is not None and unit.kind is UnitKind.GRAPH:
                self.graphs[node.name] = unit
                self._put_in(node, unit)
            else:
                self._add(node)
        for edge in [edge for edge in self.spec.edges if self._ends_exist(edge)]:
            self._join(edge)
        for name in self.graphs:
            if name not in self.failed:
                self._check_ports(name)
        self._check_doors()

    def _add(self, node: NodeSpec) -> None:
        name = self.prefix + node.name
        if name in self.flat.nodes:
            self._complain(
                name, f"node '{name}' is there twice: '/' parts the names of a graph and of its nodes", node.where
            )
        attrs = node.attrs
        if self.prefix:
            attrs = {key: self.spec.attrs[key] for key in INHERITED if key in self.spec.attrs} | attrs
            for key, value in self.spec.settings.items():
                if key not in attrs and key in ("queue_size", "batch_size", "queue_size_external"):
                    attrs = attrs | {key: Attr(str(value), Where(self.spec.file))}
            self.flat.outer[name] = self.place[0]
            self.flat.finders[name] = self.finder
            if not self.spec.strict:
                self.flat.loose.add(name)
        self.flat.nodes[name] = NodeSpec(name, attrs, node.where, self.group + node.group)

    # ---- a graph in place of a node ------------------------------------------------------------------------

    def _put_in(self, node: NodeSpec, unit: UnitSpec) -> None:
        name = self.prefix + node.name
        path = os.path.realpath(unit.path)
        names = [*(name for name, _ in self.chain), unit.name]
        reason = ""
        if any(path == other for _, other in self.chain):
            reason = f"graph {unit.name} contains itself: {' -> '.join(names)}"
        elif len(self.chain) > MAX_DEPTH:
            reason = f"graphs are nested more than {MAX_DEPTH} deep: {' -> '.join(names)}"
        elif len(self.flat.nodes) > MAX_NODES and not self.flat.broken:
            reason = f"with graph {unit.name} the whole has more than {MAX_NODES} nodes"
        if reason:
            self._complain(name, f"node '{name}': {reason}", node.where)
        spec = self._load(name, unit.path) if not reason and len(self.flat.nodes) <= MAX_NODES else None
        if spec is None:
            self.flat.broken = True
            self.failed.add(node.name)
            return
        finder = self.finder.extended(spec.driver_dirs)
        nodes = self._with_arguments(name, node, unit, spec)
        self._override(name, node, unit, nodes, finder)
        level = _Level(
            self.flat,
            spec,
            nodes,
            finder,
            (*self.place, node.name),
            (*self.group, *node.group, node.name),
            [*self.chain, (unit.name, path)],
            self.loaded,
        )
        level.run()
        self.inside[node.name] = level.doors

    def _load(self, name: str, path: str) -> GraphSpec | None:
        spec = self.loaded.get(path)
        if spec is None:
            try:
                spec = self.loaded[path] = load_graph(Path(path))
            except GraphError as error:
                self.flat.problems += [
                    GraphError(f"node '{name}': {problem.message}", where=problem.where, hint=problem.hint, node=name)
                    for problem in error.problems
                ]
                return None
            self.flat.warnings += spec.warnings
        return spec

    def _with_arguments(self, name: str, node: NodeSpec, unit: UnitSpec, spec: GraphSpec) -> dict[str, NodeSpec]:
        """The nodes of the inner graph, $name replaced by what the node says, or by its default."""
        given = {key: arg.default for key, arg in spec.args.items() if arg.default is not None}
        attributes = Attributes(
            replace(self.spec, attrs={}), replace(node, name=name), unit, self.flat.problems, self.flat.warnings
        )
        for key, attr in node.attrs.items():
            if key in spec.args:
                attributes.check_value(spec.args[key], attr)
                given[key] = attr.text
            elif "." in key or key in ("type", "flowunit", "device", "version", "label") or key in DRAWING:
                continue
            elif key in ENGINE_ATTRS or key.startswith("queue_size_"):
                inside = next((inner.name for inner in spec.nodes.values() if _kind(inner) == "flowunit"), "node")
                hint = f'set it on a node inside: "{inside}.{key}"'
                attributes.warn(f"{key} has no meaning on a graph, it is ignored", attr.where, hint)
            else:
                attributes.warn_of_option(key, attr)
        nodes: dict[str, NodeSpec] = {}
        missing: dict[str, Where] = {}
        for inner in spec.nodes.values():
            attrs: dict[str, Attr] = {}
            for key, attr in inner.attrs.items():
                attrs[key], unknown = _substitute(attr, given, spec.args.keys())
                for argument in unknown:
                    missing.setdefault(argument, attr.where)
            nodes[inner.name] = replace(inner, attrs=attrs)
        for argument, where in missing.items():
            if argument in spec.args:
                hint = f"{where} uses ${argument}, [args.{argument}] has no default; set {argument} on the node"
            else:
                near = difflib.get_close_matches(argument, spec.args, 1)
                hint = f"{where} uses ${argument}, [args] has no '{argument}'" + (
                    f"; did you mean '{near[0]}'?" if near else ""
                )
            self._complain(
                name, f"node '{name}': argument '{argument}' of graph {unit.name} is missing", node.where, hint
            )
        return nodes

    def _override(self, name: str, node: NodeSpec, unit: UnitSpec, nodes: dict[str, NodeSpec], finder: Finder) -> None:
        """Options of nodes inside that the node sets: "inner.option" = value."""
        for key, attr in node.attrs.items():
            if "." not in key:
                continue
            inner = max((other for other in nodes if key.startswith(f"{other}.")), key=len, default=None)
            if inner is None:
                word = key.split(".")[0]
                near = difflib.get_close_matches(word, nodes, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(nodes)}"
                self._complain(name, f"node '{name}': graph {unit.name} has no node '{word}'", attr.where, hint)
                continue
            option = key[len(inner) + 1 :]
            known = self._known_options(nodes[inner], finder)
            if option == "type" or (known is not None and option not in known and "." not in option):
                near = difflib.get_close_matches(option, known or (), 1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(sorted(known or ())) or 'none'}"
                self._complain(
                    name,
                    f"node '{name}': node '{inner}' of graph {unit.name} has no option '{option}'",
                    attr.where,
                    hint,
                )
                continue
            nodes[inner] = replace(nodes[inner], attrs=nodes[inner].attrs | {option: attr})

    def _known_options(self, node: NodeSpec, finder: Finder) -> Iterable[str] | None:
        """The names that can be set on a node inside; None when any can, or its unit is not found."""
        if _kind(node) != "flowunit":
            return ()  # it vanishes
        unit = finder.unit(node.attrs)
        if unit is None or unit.open_options:
            return None
        options = {option.name for option in unit.options} | unit.config.keys()
        if unit.kind is UnitKind.GRAPH:
            return options
        placed = {key for key, (fits, _) in PLACED.items() if fits(unit)}
        sizes = {f"queue_size_{port.name}" for port in unit.inputs}
        return options | (ENGINE_ATTRS - {"type", "label"}) | placed | sizes

    # ---- edges ---------------------------------------------------------------------------------------------

    def _ends_exist(self, edge: EdgeSpec) -> bool:
        """Whether the ports of graphs and of vanishing nodes are right; what is wrong with others is told later."""
        good = True
        for side, name, port in (("src", edge.src, edge.src_port), ("dst", edge.dst, edge.dst_port)):
            unit = self.graphs.get(name)
            if name in self.doors.inputs:
                unit = INPUT
            elif name in self.doors.outputs:
                unit = OUTPUT
            if unit is None:
                continue
            ports = unit.outputs if side == "src" else unit.inputs
            if (unit is INPUT or unit is OUTPUT) and ports:
                continue
            if not any(item.name == port for item in ports):
                message, hint = missing_port(self.prefix + name, unit, port, side)
                self._complain(self.prefix + name, message, edge.where, hint)
                good = False
        if not good:
            self.flat.broken = True
            self.failed |= {edge.src, edge.dst} & self.graphs.keys()
        return good

    def _sources(self, name: str, port: str | None, where: Where, seen: tuple[str, ...] = ()) -> list[_End]:
        """What stands behind an output port: nodes, or doors of this graph."""
        if name in self.doors.inputs:
            return [_End(name, None, where, door=True)]
        if name not in self.graphs:
            return [_End(self.prefix + name, port, where)]
        if name not in self.inside:
            return []
        ends: list[_End] = []
        for end in self.inside[name].outputs[port or ""]:
            if not end.door:
                ends.append(end)
                continue
            # An input that is wired straight to an output: go on with what feeds it.
            door = f"{self.prefix}{name}:{end.node}"
            if door in seen:
                cycle = [*reversed(seen[seen.index(door) :]), seen[-1]]
                text = f"generate topology fail: the graph has a cycle: {' -> '.join(cycle)}"
                self._complain(self.prefix + name, text, where, "an edge must not lead back to a node before it")
                self.flat.broken = True
                continue
            for edge in self.into[name]:
                if edge.dst_port == end.node:
                    ends += self._sources(edge.src, edge.src_port, edge.where, (*seen, door))
        return ends

    def _targets(self, name: str, port: str | None, where: Where) -> list[_End]:
        """What stands behind an input port: nodes, or a door of this graph."""
        if name in self.doors.outputs:
            return [_End(name, None, where, door=True)]
        if name not in self.graphs:
            return [_End(self.prefix + name, port, where)]
        return self.inside[name].inputs[port or ""] if name in self.inside else []

    def _join(self, edge: EdgeSpec) -> None:
        targets = self._targets(edge.dst, edge.dst_port, edge.where)
        if not targets:
            return
        for src in self._sources(edge.src, edge.src_port, edge.where):
            for dst in targets:
                if dst.door:
                    self.doors.outputs[dst.node].append(src)
                elif src.door:
                    self.doors.inputs[src.node].append(dst)
                else:
                    self.flat.edges.append(
                        EdgeSpec(src.node, src.port, dst.node, dst.port, edge.where, edge.attrs, src.where, dst.where)
                    )

    def _check_ports(self, name: str) -> None:
        """Every port of a graph needs an edge, like those of any node."""
        unit, node = self.graphs[name], self.nodes[name]
        used = {("input", edge.dst_port) for edge in self.spec.edges if edge.dst == name}
        used |= {("output", edge.src_port) for edge in self.spec.edges if edge.src == name}
        for kind, ports in (("input", unit.inputs), ("output", unit.outputs)):
            for port in ports:
                if (kind, port.name) not in used:
                    self._complain(
                        self.prefix + name, *unconnected(self.prefix + name, unit, port.name, kind, node.where)
                    )
                    doors = self.inside[name].inputs if kind == "input" else self.inside[name].outputs
                    self.flat.doubtful |= {end.node for end in doors[port.name] if not end.door}

    def _check_doors(self) -> None:
        """An input or output of the graph that joins nothing inside."""
        if self.flat.broken:
            return
        through = {end.node for ends in self.doors.outputs.values() for end in ends if end.door}
        for name, ends in (self.doors.inputs | self.doors.outputs).items():
            if ends or name in through:
                continue
            self.flat.broken = True
            kind, unit = ("output", INPUT) if name in self.doors.inputs else ("input", OUTPUT)
            self._complain(
                self.prefix + name, *unconnected(self.prefix + name, unit, unit.name, kind, self.nodes[name].where)
            )


def missing_port(node: str, unit: UnitSpec, port: str | None, side: str) -> tuple[str, str]:
    """The complaint, and its hint, about an edge whose port ("src" or "dst") a unit does not have."""
    ports = [item.name for item in (unit.outputs if side == "src" else unit.inputs)]
    kind = "output" if side == "src" else "input"
    have = f"{kind} ports of {unit.name}: {', '.join(ports) or 'none'}"
    if not ports:
        return (
            f"{side} port is not exist, node: {node}",
            f"{have}; no edge can {'begin' if side == 'src' else 'end'} here",
        )
    if port is None:
        return f"{side} port is missing, node: {node}", f"write {node}:PORT; {have}"
    near = difflib.get_close_matches(port, ports, 1)
    return (
        f"{side} port is not exist, node: {node} port: {port}",
        f"did you mean '{near[0]}'? {have}" if near else have,
    )


def unconnected(node: str, unit: UnitSpec, port: str, kind: str, where: Where) -> tuple[str, Where, str]:
    """The complaint about an "input" or "output" port without an edge, its place and its hint."""
    return (
        f"node '{node}' port '{port}': {'in' if kind == 'input' else 'out'} port is not connect.",
        where,
        f"flowunit '{unit.name}' config error, port not connect correctly; every {kind} port needs an edge",
    )


def _kind(node: NodeSpec) -> str:
    return node.attrs["type"].text.lower() if "type" in node.attrs else "flowunit"


def _doors_of(spec: GraphSpec, kind: str) -> list[str]:
    return [node.name for node in spec.nodes.values() if _kind(node) == kind]


def _substitute(attr: Attr, given: dict[str, str], declared: Iterable[str] = ()) -> tuple[Attr, list[str]]:
    """The attribute with $name replaced by what is given, and the names for which nothing is.

    A value that is nothing but $name is an argument; inside of a longer text, only a name that is declared is one.
    """
    if "$" not in attr.text:
        return attr, []
    missing: list[str] = []
    whole = _ARGUMENT.fullmatch(attr.text)

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:] if match[2] in given or match[2] in declared or whole else match[0]
        if match[2] in given:
            return given[match[2]]
        if whole or match[2] in declared:
            missing.append(match[2])
        return match[0]

    return Attr(_ARGUMENT.sub(value, attr.text), attr.where), missing
