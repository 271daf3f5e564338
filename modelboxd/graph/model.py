"""The graph as data, in two stages: GraphSpec is what the file says, Graph is what it means.

GraphSpec (loader.py, dot.py) holds text with places; nothing is looked up. Graph (check.py) has every node
bound to a unit, every port connected and every option merged, and is what the planner and the engine read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelbox.errors import ModelBoxError, Where
from modelbox.spec import FlowType, OptionSpec, UnitSpec
from modelboxd.graph.tensors import ModelDecl


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
    group: tuple[str, ...] = ()  # DOT clusters around it, outermost first


@dataclass(slots=True)
class EdgeSpec:
    src: str
    src_port: str | None
    dst: str
    dst_port: str | None
    where: Where
    attrs: dict[str, Attr] = field(default_factory=dict)
    # Where one end is written, if that is elsewhere: inside of a graph that was put in place of a node.
    src_where: Where | None = None
    dst_where: Where | None = None


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
    priority: int = 5  # of the job: [flow] priority, 1 (first) to 10
    session_timeout_s: int | None = None  # [flow] session_timeout, 0 = no limit; None: as the server says
    args: dict[str, OptionSpec] = field(default_factory=dict)  # [args]: names that attribute values use as $name
    warnings: list[ModelBoxError] = field(default_factory=list)
    model: ModelDecl | None = None  # [model]: its tensors, for inference protocols


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
    group: tuple[str, ...] = ()  # graphs and DOT clusters around it, outermost first; for the eye only
    life: dict[str, int | str] = field(default_factory=dict)  # Python units: what node and unit say (life.py)
    # Input port -> what feeds it, in the order of the file. Several: the branches of a condition that meet here, or
    # the two edges of a loop.
    sources: dict[str, list[Endpoint]] = field(default_factory=dict)
    targets: dict[str, list[Endpoint]] = field(default_factory=dict)  # output port -> what it feeds
    # Levels (docs/dataflow.md): how many there are around the inputs, behind their merging, and around the outputs.
    # The body of a loop is as deep as the loop.
    depth: int = 0
    out_depth: int = 0
    partners: list[str] = field(default_factory=list)  # expand: the collapse nodes that close it
    opener: str = ""  # collapse: the expand node that it closes
    loop_back: int = -1  # loop: number of the output port that leads back
    back_lane: int = -1  # loop: which of the two sources of its input comes from the body
    loop_limit: int = 1000  # loop: most rounds of one value
    drop: str = ""  # sources, type=input: what gives way when the queue is full: "" (it waits), "oldest", "newest"
    queue_bytes: int = 0  # most bytes that wait in front of the node, 0 = no limit
    max_queue_delay_us: int = 0  # how long a batch may wait to become full
    preferred_batch_sizes: tuple[int, ...] = ()  # ascending, at most batch_size; batches that go without waiting
    sees_errors: bool = False  # exception_visible of the node, else of its unit
    # Strict ports: what their type is, up to the root of the tree.
    strict_inputs: dict[str, list[str]] = field(default_factory=dict)
    strict_outputs: dict[str, list[str]] = field(default_factory=dict)
    match: bool = True  # type=input, type=output: joined with the others of the graph (input_type, output_type)

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
    priority: int = 5
    session_timeout_s: int | None = None
    model: ModelDecl | None = None


@dataclass(slots=True)
class Step:
    """What the scheduler runs as one thing: a fused segment of native nodes, or one other node."""

    index: int
    # "segment" (native NORMAL nodes), "native" (one native node that is not), "worker", "builtin", "input", "output"
    kind: str
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
