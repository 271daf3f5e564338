"""Graphs as the reference interpreter reads them: units, nodes, edges, and the level of every edge.

Nothing here runs anything. An edge's beginning is written "node:port". Whoever breaks a rule of docs/dataflow.md
that can be seen without data gets a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    NORMAL = "normal"
    STREAM = "stream"
    CONDITION = "condition"
    EXPAND = "expand"
    COLLAPSE = "collapse"
    LOOP = "loop"


@dataclass(frozen=True)
class Unit:
    """A unit: its ports, its kind, and what it does as a function of one call (interpreter.Call)."""

    name: str
    kind: Kind
    process: Callable[[Any], object]
    inputs: tuple[str, ...] = ("in",)
    outputs: tuple[str, ...] = ("out",)
    begin: Callable[[Any], object] | None = None  # data_pre
    end: Callable[[Any], object] | None = None  # data_post
    sees_errors: bool = False  # exception_visible
    stream: bool = False  # an expand that is also stream = true
    collapse_all: bool = True

    @property
    def framed(self) -> bool:
        """Whether data_pre and data_post are called: once per stream, or per sub-stream of a collapse."""
        return self.kind in (Kind.STREAM, Kind.COLLAPSE) or (self.kind is Kind.EXPAND and self.stream)


End = tuple[str, str]  # node, output port
Level = tuple[tuple[str, ...], ...]  # ("source", NAME), then ("expand", NODE), ("branch", NODE, PORT), ("loop", NODE)


@dataclass(frozen=True)
class Node:
    name: str
    unit: Unit
    sources: Mapping[str, tuple[End, ...]]  # per input port; several: branches that meet (or a loop's way back)
    loop_limit: int = 1000


@dataclass(frozen=True)
class Door:
    """Where data enters: a source (its `unit` makes data out of external data), or a type=input node."""

    name: str
    outputs: tuple[str, ...]
    is_input: bool = False
    match: bool = True
    unit: Unit | None = None


@dataclass(frozen=True)
class Exit:
    """A type=output node."""

    name: str
    sources: tuple[End, ...]
    match: bool = True


@dataclass
class Graph:
    nodes: dict[str, Node] = field(default_factory=dict)
    doors: dict[str, Door] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)

    def source(self, name: str = "source", outputs: Sequence[str] = ("out",), unit: Unit | None = None) -> None:
        """A node without inputs. With a `unit`, each list of external data is one call of it."""
        self.doors[name] = Door(name, tuple(outputs), unit=unit)

    def input(self, name: str, *, match: bool = True) -> None:
        """A type=input node; edges from it begin at "NAME:input"."""
        self.doors[name] = Door(name, ("input",), is_input=True, match=match)

    def add(self, name: str, unit: Unit, sources: Mapping[str, str | Sequence[str]], *, loop_limit: int = 1000) -> None:
        """A node; `sources` says for each input port where its edges begin. They may name nodes still to come."""
        self.nodes[name] = Node(name, unit, {port: ends(text) for port, text in sources.items()}, loop_limit)

    def output(self, name: str, source: str | Sequence[str], *, match: bool = True) -> None:
        """A type=output node."""
        self.exits[name] = Exit(name, ends(source), match)


def ends(text: str | Sequence[str]) -> tuple[End, ...]:
    """The beginnings of edges, parsed; a node without a port means its only port "out"."""
    words = [text] if isinstance(text, str) else list(text)
    return tuple((word.partition(":")[0], word.partition(":")[2] or "out") for word in words)


class Layout:
    """In which order nodes are walked, what a loop leads through, and at which level every output stands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.targets: dict[End, list[str]] = {}
        for node in graph.nodes.values():
            if set(node.sources) != set(node.unit.inputs) or not all(node.sources.values()):
                raise ValueError(f"node '{node.name}': not every input port has an edge, or there is no such port")
            for source in (end for port in node.sources.values() for end in port):
                if source[0] not in graph.nodes and source[0] not in graph.doors:
                    raise ValueError(f"node '{node.name}': there is no node '{source[0]}'")
                self.targets.setdefault(source, []).append(node.name)
        self.back: dict[str, str] = {}  # loop node -> the port that leads back
        self.body: dict[str, list[str]] = {}  # loop node -> the nodes between, in order; not those of loops inside
        self._loops()
        inside = {name for body in self.body.values() for name in body}
        self.order = self._order([name for name in graph.nodes if name not in inside])
        self.body = {loop: self._order(body) for loop, body in self.body.items()}
        self.level: dict[End, Level] = {}
        self.input_level: dict[str, Level] = {}
        self._levels()

    # ---- loops and order ----------------------------------------------------------------------------------

    def _reach(self, end: End, stops: set[str]) -> set[str]:
        """All nodes behind an output, not going through any of `stops`."""
        found: set[str] = set()
        todo = list(self.targets.get(end, []))
        while todo:
            name = todo.pop()
            if name not in found and name not in stops:
                found.add(name)
                for port in self.graph.nodes[name].unit.outputs:
                    todo += self.targets.get((name, port), [])
        return found

    def _loops(self) -> None:
        """Finds the body of every loop, the outermost loops first: what goes round those is no way back of one inside."""
        waiting = [node for node in self.graph.nodes.values() if node.unit.kind is Kind.LOOP]
        bodies: dict[str, set[str]] = {}
        while waiting:
            found = {node.name: way for node in waiting if (way := self._way_back(node, set(bodies)))}
            if not found:
                raise ValueError(
                    f"node '{waiting[0].name}': a loop has two edges in, and one of its two outputs leads back"
                )
            for name, (self.back[name], bodies[name]) in found.items():
                for inner in bodies[name]:
                    unit = self.graph.nodes[inner].unit
                    ways = [self._reach((inner, output), set(bodies) - {name}) for output in unit.outputs]
                    if not any(name in way for way in ways):
                        raise ValueError(f"node '{inner}': must not stand in the body of loop '{name}'")
            waiting = [node for node in waiting if node.name not in found]
        for name, body in bodies.items():
            deeper = {node for inner in bodies if inner in body for node in bodies[inner]}
            self.body[name] = [node for node in self.graph.nodes if node in body - deeper]

    def _way_back(self, node: Node, around: set[str]) -> tuple[str, set[str]] | None:
        """The port that leads back, without going through the loops `around`, and all nodes on the way."""
        (port,) = node.sources
        sources = node.sources[port]
        back: list[tuple[str, set[str]]] = []
        for output in node.unit.outputs:
            inside = self._reach((node.name, output), {node.name, *around})
            if any(end == (node.name, output) or end[0] in inside for end in sources):
                back.append((output, inside))
        return back[0] if len(back) == 1 and len(sources) == len(node.unit.outputs) == 2 else None

    def _feeders(self, node: Node) -> list[End]:
        """All edges into a node, a loop's way back left out."""
        every = [end for port in node.sources.values() for end in port]
        return [end for end in every if end not in self.way_back(node.name)]

    def way_back(self, loop: str) -> list[End]:
        """The edge that comes back to a loop node; nothing for other nodes."""
        if loop not in self.back:
            return []
        (sources,) = self.graph.nodes[loop].sources.values()
        return [end for end in sources if end == (loop, self.back[loop]) or end[0] in self.body[loop]]

    def _order(self, names: Sequence[str]) -> list[str]:
        """`names` so that every node stands behind those that feed it."""
        placed: list[str] = []
        waiting = list(names)
        while waiting:
            ready = [
                name for name in waiting if not any(end[0] in waiting for end in self._feeders(self.graph.nodes[name]))
            ]
            if not ready:
                raise ValueError(f"nodes {waiting} stand in a cycle")
            placed += ready
            waiting = [name for name in waiting if name not in ready]
        return placed

    # ---- levels ---------------------------------------------------------------------------------------------

    def _levels(self) -> None:
        for door in self.graph.doors.values():
            for port in door.outputs:
                self.level[door.name, port] = (("source", "input" if door.is_input else door.name),)
        for name in self.order:
            self._node_level(name)
        matched = {self._merged(exit.sources, exit.name) for exit in self.graph.exits.values() if exit.match}
        if len(matched) > 1:
            raise ValueError("output nodes that match stand at different levels")
        for exit in self.graph.exits.values():
            self.input_level[exit.name] = self._merged(exit.sources, exit.name)

    def _node_level(self, name: str) -> None:
        node = self.graph.nodes[name]
        found = {self._merged([end for end in port if end in self.level], name) for port in node.sources.values()}
        if len(found) != 1:
            raise ValueError(f"node '{name}': its ports stand at different levels: {sorted(found)}")
        (level,) = found
        self.input_level[name] = level
        for port in node.unit.outputs:
            self.level[name, port] = self._output(node, port, level)
        for inner in self.body.get(name, []):
            self._node_level(inner)
        for end in self.way_back(name):
            if self.level[end] != self.level[name, self.back[name]]:
                raise ValueError(f"loop '{name}': its body ends at another level than it begins at")

    def _merged(self, sources: Sequence[End], name: str) -> Level:
        """The level of an input port: several edges are branches of one condition, and leave its level."""
        levels = [self.level[end] for end in sources]
        if len(levels) == 1:
            return levels[0]
        outer = levels[0][:-1]
        branches = {level[-1] for level in levels if level[-1][0] == "branch" and level[:-1] == outer}
        if len(branches) != len(levels) or len({branch[1] for branch in branches}) != 1:
            raise ValueError(f"node '{name}': only branches of one condition may meet, not {levels}")
        return outer

    def _output(self, node: Node, port: str, level: Level) -> Level:
        kind = node.unit.kind
        if kind is Kind.EXPAND:
            return (*level, ("expand", node.name))
        if kind is Kind.CONDITION:
            return (*level, ("branch", node.name, port))
        if kind is Kind.COLLAPSE:
            if level[-1][0] != "expand":
                raise ValueError(f"node '{node.name}': there is no expand that it could collapse")
            return level[:-1]
        if kind is Kind.LOOP and port == self.back[node.name]:
            return (*level, ("loop", node.name))
        return level


def depth(level: Level) -> int:
    """How many levels are around it; the body of a loop is none of its own."""
    return sum(step[0] in ("expand", "branch") for step in level)


def nesting(level: Level) -> int:
    """How many expands it stands in."""
    return sum(step[0] == "expand" for step in level)
