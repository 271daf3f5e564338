"""The reference interpreter: what a graph means, computed the slow and plain way.

One session at a time, one node after the other in topological order, whole streams as Python lists. No queues,
no batches, no threads. The engine must deliver the same values in the same order at every sink, or fail the
session where this says that it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Err:
    """An error in the place of a value."""

    code: str
    message: str


Value = str | Err
Stream = list[Value]


class SessionFailed(Exception):
    """The session ends with an error instead of results."""


@dataclass(frozen=True)
class Kind:
    """A unit: `step(state, inputs) -> one list of outputs per port`, called once per index.

    NORMAL units have no state and give exactly one value per port. STREAM units get the same state dict for the
    whole stream of a session and may give any number; `finish(state)` is called once after the last value of a
    stream that had any.
    """

    name: str
    inputs: int
    outputs: int
    stream: bool
    step: Callable[[dict[str, int], Sequence[str]], list[list[Value]]]
    finish: Callable[[dict[str, int]], list[list[Value]]] | None = None


@dataclass(frozen=True)
class RefNode:
    """A unit in a graph; `sources[i]` = (node name, output port) that feeds input port i."""

    name: str
    kind: Kind
    sources: tuple[tuple[str, int], ...]
    batch_size: int = 1
    queue_size: int = 32


@dataclass
class RefGraph:
    """Nodes in topological order. The node "source" is given; every output that nobody reads is a sink."""

    nodes: list[RefNode] = field(default_factory=list)

    def sinks(self) -> list[tuple[str, int]]:
        """Outputs without a reader, in node order."""
        read = {source for node in self.nodes for source in node.sources}
        outputs = [("source", 0)] + [(node.name, port) for node in self.nodes for port in range(node.kind.outputs)]
        return [output for output in outputs if output not in read]


def run(graph: RefGraph, values: Sequence[Value]) -> dict[tuple[str, int], Stream]:
    """The values at every sink for one session; raises SessionFailed."""
    streams: dict[tuple[str, int], Stream] = {("source", 0): list(values)}
    for node in graph.nodes:
        inputs = [streams[source] for source in node.sources]
        if len({len(stream) for stream in inputs}) > 1:
            raise SessionFailed(f"{node.name}: inputs of different length")
        for port, stream in enumerate(run_node(node.kind, inputs)):
            streams[node.name, port] = stream
    return {sink: streams[sink] for sink in graph.sinks()}


def run_node(kind: Kind, inputs: list[Stream]) -> list[Stream]:
    """One node over whole streams of equal length. An error at an index passes the unit by, to every output."""
    outputs: list[Stream] = [[] for _ in range(kind.outputs)]
    state: dict[str, int] = {}
    for row in zip(*inputs, strict=True):
        error = next((value for value in row if isinstance(value, Err)), None)
        results = [[error]] * kind.outputs if error else kind.step(state, [str(value) for value in row])
        for stream, result in zip(outputs, results, strict=True):
            stream.extend(result)
    if kind.finish is not None and inputs[0]:
        for stream, result in zip(outputs, kind.finish(state), strict=True):
            stream.extend(result)
    return outputs
