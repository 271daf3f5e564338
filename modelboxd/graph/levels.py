"""Stream levels: what expand and condition open, collapse and merging close.

A stream stands at a level: that of its source, then one more for every expand and every condition branch that
it is inside of. Ports of one node are joined by index, which has a meaning only at one and the same level; so
what can never match is found here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelbox.errors import GraphError, ModelBoxError
from modelbox.spec import UnitKind
from modelboxd.graph.model import Endpoint, Node

SHOWN = 6  # parts of a path or level that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One level; the same one is always the same object. `branch` is the port of a condition."""

    kind: str  # "source", "expand" or "condition"
    node: str
    branch: str = ""
    outer: Level | None = None

    def __str__(self) -> str:
        parts: list[str] = []
        level: Level | None = self
        while level is not None and len(parts) < SHOWN:
            parts.append(f"{level.kind} {level.node}" + (f":{level.branch}" if level.branch else ""))
            level = level.outer
        return " > ".join([*(["..."] if level is not None else []), *reversed(parts)])


class Levels:
    """Walks over nodes in topological order; `problems` is what it found, `of` the level of each node's input."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.problems: list[ModelBoxError] = []
        self.of: dict[str, Level | None] = {}  # None: unknown, because something before it is wrong
        self._made: dict[tuple[Level | None, str, str], Level] = {}
        self._outputs: dict[Endpoint, Level | None] = {}
        for node in self.nodes.values():
            level = self.of[node.name] = self._input(node)
            for port in node.targets:
                self._outputs[Endpoint(node.name, port)] = None if level is None else self._output(node, level, port)
            if level is not None and node.unit.collapse:
                self._check_collapse(node, level)

    def _complain(self, node: Node, message: str, hint: str = "") -> None:
        self.problems.append(GraphError(message, where=node.where, hint=hint))

    def _level(self, kind: str, node: str, branch: str = "", outer: Level | None = None) -> Level:
        key = (outer, node, branch)
        if key not in self._made:
            self._made[key] = Level(kind, node, branch, outer)
        return self._made[key]

    # ---- into a node --------------------------------------------------------------------------------------

    def _input(self, node: Node) -> Level | None:
        ports = {port: self._port(node, port, ends) for port, ends in node.sources.items() if ends}
        if not ports:
            # All inputs of a graph belong to one session; other sources begin sessions of their own.
            return self._level("source", "input" if _is_input(node) else node.name)
        levels = list(ports.values())
        if None in levels:
            return None
        (first, level), *others = ports.items()
        for port, other in others:
            if level is not other and level is not None and other is not None:
                self._complain_of_join(node, (first, level), (port, other))
                return None
        return level

    def _port(self, node: Node, port: str, ends: list[Endpoint]) -> Level | None:
        """The level that arrives at a port; branches of one condition that meet here leave its level."""
        levels = [self._outputs[end] for end in ends]
        first = levels[0]
        if len(ends) == 1 or first is None or None in levels:
            return first if len(ends) == 1 else None
        same = {level.branch for level in levels if level is not None and _siblings(level, first)}
        if len(same) == len(ends):
            return first.outer
        names = " and ".join(f"{end.node}:{end.port}" for end in ends)
        inside = next((level for level in levels if level is not None and _open_expand(level)), None)
        if inside is not None:
            message = (
                f"node '{node.name}' port '{port}': path branches have unmatched expand node '{inside.node}': {names}"
            )
            self._complain(node, message, "collapse it before the branches meet")
            return None
        places = "; ".join(f"{end.node}:{end.port} is at {level}" for end, level in zip(ends, levels, strict=True))
        self._complain(
            node,
            f"node '{node.name}' port '{port}': One port links multi edges can not match at one port: {names}",
            f"only the branches of one condition may meet: {places}",
        )
        return None

    def _complain_of_join(self, node: Node, one: tuple[str, Level], two: tuple[str, Level]) -> None:
        (port, level), (other_port, other) = one, two
        hint = (
            f"{port} <- {self._path(node, port)} is at {level}; {other_port} <- {self._path(node, other_port)} is at "
            f"{other}"
        )
        if _siblings(level, other):
            message = (
                f"node '{node.name}' ports '{port}' and '{other_port}': match from multi ports at {level.node}, "
                f"{level.node} can not be if-else node"
            )
        else:
            message = f"node:{node.name} has different level links, pls check the input links."
        self._complain(node, message, hint)

    def _path(self, node: Node, port: str) -> str:
        """The way back from a port to the source, the nearest nodes of it."""
        parts: list[str] = []
        ends = node.sources[port]
        while ends and len(parts) < SHOWN:
            parts.append(f"{ends[0].node}:{ends[0].port}")
            ends = next(iter(self.nodes[ends[0].node].sources.values()), [])
        return " <- ".join(parts) + (" <- ..." if ends else "")

    # ---- out of a node -------------------------------------------------------------------------------------

    def _output(self, node: Node, level: Level, port: str) -> Level | None:
        unit = node.unit
        if unit.collapse:
            return level.outer if level.kind == "expand" else None
        if unit.expand:
            return self._level("expand", node.name, outer=level)
        if unit.condition:
            return self._level("condition", node.name, port, level)
        return level

    def _check_collapse(self, node: Node, level: Level) -> None:
        if level.kind == "expand":
            return
        hint = f"it is at {level}"
        if level.kind == "condition":
            hint += f"; the branches of {level.node} must meet before"
        self._complain(node, f"node '{node.name}': can't find a expand node for {node.name}", hint)


def _is_input(node: Node) -> bool:
    return node.unit.kind is UnitKind.VIRTUAL and node.unit.name == "input"


def _siblings(one: Level, two: Level) -> bool:
    """Whether both are branches of one condition."""
    return one.kind == two.kind == "condition" and one.node == two.node and one.outer is two.outer


def _open_expand(level: Level) -> bool:
    """Whether it is an expand inside a branch."""
    outer = level.outer
    return level.kind == "expand" and outer is not None and outer.kind == "condition"
