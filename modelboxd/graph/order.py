"""Topological order of a graph, its cycles, and the loops in which a cycle is right.

The edge of a loop that comes back is left out of the order: a loop stands before its body, and the way back is found
as the edge that is still missing when the loop gets its place.
"""

from __future__ import annotations

from collections import deque

from modelbox.errors import GraphError, ModelBoxError
from modelboxd.graph.model import Endpoint, Node

LONG, HEAD, TAIL = 12, 6, 5  # of a cycle in a message: what is long, and how much of it is shown


class Order:
    """`names` in topological order, sources first; `bodies` of loops; Node.loop_back and back_lane are set."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.names: list[str] = []
        self.problems: list[ModelBoxError] = []
        self.bodies: dict[str, set[str]] = {}  # loop -> the nodes from which the way leads back to it
        self._loops = {name: _lanes(node) for name, node in nodes.items() if node.unit.loop}
        self._sort()
        if len(self.names) < len(nodes):
            self._complain_of_cycle(nodes.keys() - set(self.names))
            return
        self._ranks = {name: rank for rank, name in enumerate(self.names)}
        for name in self.names:
            if name in self._loops:
                self._close(nodes[name])

    def _complain(self, node: Node, message: str, hint: str) -> None:
        self.problems.append(GraphError(message, where=node.where, hint=hint, node=node.name))

    def _sort(self) -> None:
        waiting = {name: sum(map(len, node.sources.values())) for name, node in self.nodes.items()}
        waiting.update((name, min(1, len(lanes))) for name, lanes in self._loops.items())
        ready = deque(name for name, count in waiting.items() if not count)
        while ready:
            name = ready.popleft()
            self.names.append(name)
            for port, ends in self.nodes[name].targets.items():
                for end in ends:
                    waiting[end.node] -= 1
                    if waiting[end.node] == 0:
                        ready.append(end.node)
                        if end.node in self._loops:
                            lane = self._loops[end.node].index(Endpoint(name, port))
                            self.nodes[end.node].back_lane = 1 - lane

    # ---- loops ---------------------------------------------------------------------------------------------

    def _close(self, node: Node) -> None:
        """Finds the port of a loop that leads back, and its body."""
        lanes = self._loops[node.name]
        if len(node.sources) != 1 or len(node.targets) != 2:
            return  # no loop; that is told elsewhere
        if len(lanes) != 2:
            node.back_lane = -1
            text = f"node '{node.name}': loop node can only link 2 edges"
            shown = ", ".join(f"{end.node}:{end.port}" for end in lanes) or "none"
            hint = "one from outside and one back"
            if len(lanes) > 2:
                hint += "; branches of a condition must meet before they come back"
            self._complain(node, f"{text} at its input, it has {len(lanes)}: {shown}", hint)
            return
        back = lanes[node.back_lane]
        body, ports = self._way_back(node, back)
        if len(ports) != 1:
            ways = " or ".join(f"{end.node}:{end.port}" for end in lanes)
            if ports:
                message = f"both output ports of {node.name} lead back to it by {back.node}:{back.port}"
            else:
                message = f"no output port of {node.name} leads back to it, by {ways}"
            node.back_lane = -1
            self._complain(node, f"node '{node.name}': {message}", "one output port leads back, the other one out")
            return
        node.loop_back = list(node.targets).index(ports.pop())
        self.bodies[node.name] = body

    def _way_back(self, loop: Node, back: Endpoint) -> tuple[set[str], set[str]]:
        """The nodes between the loop and the edge that comes back, and the ports of the loop where that begins."""
        first = self._ranks[loop.name]
        body: set[str] = set()
        ports: set[str] = set()
        todo = [back]
        while todo:
            end = todo.pop()
            if end.node == loop.name:
                ports.add(end.port)
            elif end.node not in body and self._ranks[end.node] > first:
                body.add(end.node)
                node = self.nodes[end.node]
                inner = node.back_lane if node.unit.loop else -1
                for ends in node.sources.values():
                    todo += [source for lane, source in enumerate(ends) if lane != inner]
        return body, ports

    # ---- cycles --------------------------------------------------------------------------------------------

    def _complain_of_cycle(self, inside: set[str]) -> None:
        cycle = self._cycle(inside)
        shown = cycle if len(cycle) <= LONG else [*cycle[:HEAD], "...", *cycle[-TAIL:]]
        self._complain(
            self.nodes[cycle[0]],
            f"generate topology fail: the graph has a cycle: {' -> '.join(shown)}",
            "an edge must not lead back to a node before it",
        )

    def _cycle(self, inside: set[str]) -> list[str]:
        """One of the cycles among the nodes that have no place in the order, its first node last again."""
        name = next(name for name in self.nodes if name in inside)
        seen: dict[str, int] = {}
        path: list[str] = []
        while name not in seen:
            seen[name] = len(path)
            path.append(name)
            # Every node left over has a predecessor that is left over; walk backwards until one repeats.
            name = next(end.node for ends in self.nodes[name].sources.values() for end in ends if end.node in inside)
        loop = [*path[seen[name] :], name]
        loop.reverse()
        first = loop.index(min(loop, key={name: rank for rank, name in enumerate(self.nodes)}.__getitem__))
        return [*loop[first:-1], *loop[:first], loop[first]]


def _lanes(node: Node) -> list[Endpoint]:
    return [end for ends in node.sources.values() for end in ends]
