"""The graph as data, in two stages: GraphSpec is what the file says, Graph is what it means.

GraphSpec (loader.py, dot.py) holds text with places; nothing is looked up. Graph (check.py) has every node
bound to a unit, every port connected and every option merged, and is what the planner and the engine read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelbox.errors import ModelBoxError, Where
from modelbox.spec import FlowType, UnitSpec


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute value as written (quotes removed) and where."""

    text: str
    where: Where

    def items(self) -> list[str]:
        """The value split at commas, trimmed, as the DOT dialect reads lists."""
        return [item.strip() for item in self.text.split(",")]


@dataclass(slots=True)
class NodeSpec:
    name: str
    attrs: dict[str, Attr]
    where: Where


@dataclass(slots=True)
class EdgeSpec:
    src: str
    src_port: str | None
    dst: str
    dst_port: str | None
    where: Where
    attrs: dict[str, Attr] = field(default_factory=dict)


@dataclass(slots=True)
class GraphSpec:
    """A graph file: the DOT part and the TOML settings around it."""

    name: str
    file: str
    nodes: dict[str, NodeSpec]
    edges: list[EdgeSpec]
    attrs: dict[str, Attr] = field(default_factory=dict)  # graph-level DOT attributes
    driver_dirs: list[str] = field(default_factory=list)  # absolute; relative ones are relative to the file
    skip_default: bool = False
    strict: bool = True
    settings: dict[str, int] = field(default_factory=dict)  # graph.* numbers: queue_size, batch_size, thread-num, ...
    flow_name: str = ""
    flow_desc: str = ""
    warnings: list[ModelBoxError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of an edge: a port of a node."""

    node: str
    port: str


@dataclass(slots=True)
class Node:
    """A unit placed in a graph, all questions settled."""

    name: str
    unit: UnitSpec
    where: Where
    options: dict[str, str]  # unit [config] overridden by node attributes; engine attributes left out
    batch_size: int
    queue_sizes: dict[str, int]  # per input port
    queue_size_external: int
    priority: int = 0  # topological rank; a higher one is nearer to a sink
    user_priority: int = 5  # node attribute priority, 1 (first) to 10
    device_id: str = ""
    sources: dict[str, list[Endpoint]] = field(default_factory=dict)  # input port -> what feeds it
    targets: dict[str, list[Endpoint]] = field(default_factory=dict)  # output port -> what it feeds

    @property
    def is_source(self) -> bool:
        return not self.unit.inputs

    @property
    def is_stream(self) -> bool:
        return self.unit.flow_type is FlowType.STREAM


@dataclass(slots=True)
class Graph:
    """A checked graph. `nodes` is in topological order, sources first."""

    name: str
    file: str
    nodes: dict[str, Node]
    settings: dict[str, int]
    flow_name: str
    flow_desc: str
    warnings: list[ModelBoxError]


@dataclass(slots=True)
class Step:
    """What the scheduler runs as one thing: a fused segment of native nodes, or one other node."""

    index: int
    kind: str  # "segment", "worker", "builtin"
    nodes: list[Node]  # in chain order; one unless kind is "segment"
    reason: str  # why it ends where it ends, for the table of --check

    @property
    def first(self) -> Node:
        return self.nodes[0]

    @property
    def last(self) -> Node:
        return self.nodes[-1]


@dataclass(slots=True)
class Plan:
    graph: Graph
    steps: list[Step]
