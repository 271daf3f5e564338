"""Stream levels: what expand, condition and loop open; what collapse, merging and the way back close.

A stream stands at a level: that of its source, then one more for every expand, every condition branch and every loop
body that it is inside of. Ports of one node are joined by index, which has a meaning only at one and the same level; so
what can never match is found here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from modelbox.errors import ConfigError, GraphError, ModelBoxError
from modelboxd.graph.attributes import INPUT, OUTPUT
from modelboxd.graph.model import Endpoint, Node

SHOWN = 6  # parts of a path or level that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One level; the same one is always the same object. `branch` is the port of a condition or loop."""

    kind: str  # "source", "type=input", "expand", "condition" or "loop"
    node: str
    branch: str
    outer: Level | None
    depth: int  # levels around it
    loop: Level | None  # the innermost loop that it is in, or is

    def __str__(self) -> str:
        parts: list[str] = []
        level: Level | None = self
        while level is not None and len(parts) < SHOWN:
            parts.append(f"{level.kind} {level.node}".rstrip() + (f":{level.branch}" if level.branch else ""))
            level = level.outer
        return " > ".join([*(["..."] if level is not None else []), *reversed(parts)])

    def root(self) -> Level:
        """The level of its source."""
        level = self
        while level.outer is not None:
            level = level.outer
        return level


class Levels:
    """Walks over nodes in topological order and fills in what Node says of levels.

    `problems` is what it found, `of` the level of each node's input, behind merging.
    """

    def __init__(self, nodes: Mapping[str, Node], bodies: Mapping[str, Set[str]]) -> None:
        """`nodes` in topological order; `bodies`: loop -> the nodes of its body (order.py)."""
        self.nodes = nodes
        self.problems: list[ModelBoxError] = []
        self.warnings: list[ModelBoxError] = []
        self.of: dict[str, Level | None] = {}  # None: unknown, because something before it is wrong
        self._bodies = bodies
        self._made: dict[tuple[Level | None, str, str, str], Level] = {}
        self._outputs: dict[Endpoint, Level | None] = {}
        for node in nodes.values():
            level = self.of[node.name] = self._input(node)
            for port in node.targets:
                self._outputs[Endpoint(node.name, port)] = None if level is None else self._output(node, level, port)
            if level is not None:
                self._settle(node, level)
        for node in nodes.values():
            if node.unit.loop:
                self._check_way_back(node)
        self._check_outputs_of_graph([node for node in nodes.values() if node.unit is OUTPUT])

    def _complain(self, node: Node, message: str, hint: str = "") -> None:
        self.problems.append(GraphError(message, where=node.where, hint=hint, node=node.name))

    def _level(self, kind: str, node: str, branch: str = "", outer: Level | None = None) -> Level:
        key = (outer, kind, node, branch)
        level = self._made.get(key)
        if level is None:
            # The body of a loop has the positions of what is around it: an error born there is no deeper.
            depth = 0 if outer is None else outer.depth + (kind != "loop")
            level = Level(kind, node, branch, outer, depth, None if outer is None else outer.loop)
            if kind == "loop":
                object.__setattr__(level, "loop", level)
            self._made[key] = level
        return level

    # ---- into a node --------------------------------------------------------------------------------------

    def _input(self, node: Node) -> Level | None:
        ports = {port: self._port(node, port, _forward(node, ends)) for port, ends in node.sources.items() if ends}
        if not ports:
            # All inputs of a graph belong to one session; other sources begin sessions of their own.
            return self._level("type=input", "") if node.unit is INPUT else self._level("source", node.name)
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
        ends = _forward(node, node.sources[port])
        while ends and len(parts) < SHOWN:
            parts.append(f"{ends[0].node}:{ends[0].port}")
            before = self.nodes[ends[0].node]
            ends = _forward(before, next(iter(before.sources.values()), []))
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
        if unit.loop and port == list(node.targets)[node.loop_back]:
            return self._level("loop", node.name, port, level)
        return level

    def _settle(self, node: Node, level: Level) -> None:
        """Tells the node what its level is, and looks at what is allowed there."""
        unit = node.unit
        node.depth = node.out_depth = level.depth
        if unit.expand or unit.condition:
            node.out_depth += 1
        if unit.collapse and level.kind == "expand":
            node.out_depth -= 1
            node.opener = level.node
            self.nodes[level.node].partners.append(node.name)
        elif unit.collapse:
            hint = f"it is at {level}"
            if level.kind == "condition":
                hint += f"; the branches of {level.node} must meet before"
            self._complain(node, f"node '{node.name}': can't find a expand node for {node.name}", hint)
        if level.loop is not None:
            self._check_in_loop(node, level.loop.node)

    # ---- loops ---------------------------------------------------------------------------------------------

    def _check_in_loop(self, node: Node, loop: str) -> None:
        """In the body of a loop, everything leads back, and values come in no order."""
        body = self._bodies[loop]
        before = {end.node for ends in node.sources.values() for end in ends}
        if node.name not in body and before <= body | {loop}:
            self._complain(
                node,
                f"node '{node.name}': is in the body of loop '{loop}', but no way leads back from it",
                f"what leaves {loop} to go round must come back to it; what is to go on leaves by its other port",
            )
        if node.is_stream and not node.unit.collapse:
            self._complain(
                node,
                f"node '{node.name}': stream unit {node.unit.name} is in the body of loop '{loop}', "
                "where values come in no order",
                f"only normal units can be there (stream = false); see {node.unit.path}",
            )

    def _check_way_back(self, node: Node) -> None:
        """The edge that comes back to a loop must come from the level that the loop has opened."""
        level = self.of[node.name]
        ((port, lanes),) = node.sources.items()
        back = lanes[node.back_lane]
        found = self._outputs[back]
        if level is None or found is None:
            return
        wanted = self._output(node, level, list(node.targets)[node.loop_back])
        if found is wanted:
            return
        text = f"node '{node.name}' port '{port}':"
        if found.kind == "expand":
            message = f"{text} the body of the loop has unmatched expand node '{found.node}': {back.node}:{back.port}"
            hint = "collapse it before the way leads back"
        elif found.kind == "condition":
            message = f"{text} only one branch of '{found.node}' leads back to the loop: {back.node}:{back.port}"
            hint = f"the branches of {found.node} must meet before"
        else:
            message = f"{text} the way back begins inside of loop '{found.node}': {back.node}:{back.port}"
            hint = f"it must begin behind {found.node}"
        self._complain(node, message, f"{hint}; it is at {found}")

    # ---- outputs of the graph ------------------------------------------------------------------------------

    def _check_outputs_of_graph(self, outputs: list[Node]) -> None:
        """Outputs that match are joined like the ports of one node. What other sources send there is dropped."""
        first: tuple[Node, Level] | None = None
        for node in outputs:
            level = self.of[node.name]
            if level is None or level.loop is not None:
                continue
            root = level.root()
            if root.kind == "source":
                message = f"node '{node.name}': what source '{root.node}' sends is dropped at type=output"
                hint = "outputs of a graph hand out what came in by its type=input nodes"
                self.warnings.append(ConfigError(message, where=node.where, hint=hint, node=node.name))
            elif node.match and first is None:
                first = node, level
            elif node.match and first is not None and first[1] is not level:
                other, other_level = first
                port = next(iter(node.sources))
                self._complain(
                    node,
                    f"node:{node.name} has different level links, pls check the input links.",
                    f"{other.name} <- {self._path(other, port)} is at {other_level}; {node.name} <- "
                    f"{self._path(node, port)} is at {level}; output_type=unmatch hands them out apart",
                )


def _forward(node: Node, ends: list[Endpoint]) -> list[Endpoint]:
    """What feeds a port, without the edge that comes back to a loop."""
    return [ends[1 - node.back_lane]] if node.unit.loop and len(ends) == 2 else ends


def _siblings(one: Level, two: Level) -> bool:
    """Whether both are branches of one condition."""
    return one.kind == two.kind == "condition" and one.node == two.node and one.outer is two.outer


def _open_expand(level: Level) -> bool:
    """Whether it is an expand inside a branch."""
    outer = level.outer
    return level.kind == "expand" and outer is not None and outer.kind == "condition"
