"""A random graph with its sessions, as plain data: written as DOT for the engine, as a Graph for the interpreter, as
JSON to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.property.script import Script
from tests.property.units import Form, reference_unit
from tests.reference.interpreter import Graph


@dataclass(frozen=True)
class CaseNode:
    name: str
    form: Form
    sources: tuple[tuple[str, ...], ...]  # per input port the edges, "node:port"
    op: str = "map"
    seed: int = 0
    batch: int = 1
    queue: int = 32
    back: int = 0  # of a loop: the number of the port that leads back
    loop_limit: int = 1000
    meta: int = 0  # whether the node sets stream meta, and reads it (script.SETS, READS)

    @property
    def script(self) -> Script:
        return Script(
            self.form.kind, self.op, self.seed, self.form.outputs, self.form.collapse_all, self.back, self.meta
        )


@dataclass(frozen=True)
class CaseExit:
    """A sink (a built-in unit that records), or a type=output node."""

    name: str
    sources: tuple[str, ...]
    output: bool = False
    match: bool = True


@dataclass(frozen=True)
class CaseSession:
    values: tuple[tuple[str, ...], ...]  # per door
    cut: int = 1  # how many values are sent at once
    cancel_after: int | None = None  # sends


@dataclass(frozen=True)
class Case:
    doors: tuple[str, ...]  # edges' beginnings: "source:out", or "a:input" of type=input nodes
    nodes: tuple[CaseNode, ...]
    exits: tuple[CaseExit, ...]
    sessions: tuple[CaseSession, ...]
    match_inputs: bool = True
    threads: int = 2

    @property
    def has_inputs(self) -> bool:
        return self.doors[0].endswith(":input")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        data = json.loads(text)
        nodes = [
            CaseNode(**{**node, "form": Form(**node["form"]), "sources": _tuples(node["sources"])})
            for node in data["nodes"]
        ]
        exits = [CaseExit(**{**exit, "sources": tuple(exit["sources"])}) for exit in data["exits"]]
        sessions = [CaseSession(**{**item, "values": _tuples(item["values"])}) for item in data["sessions"]]
        parts = {"nodes": tuple(nodes), "exits": tuple(exits), "sessions": tuple(sessions)}
        return Case(**{**data, **parts, "doors": tuple(data["doors"])})


def _tuples(lists: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(items) for items in lists)


def dot(case: Case) -> str:
    """The graph as its users write it (docs/graphs.md)."""
    lines = []
    for name in dict.fromkeys(door.partition(":")[0] for door in case.doors):
        if case.has_inputs:
            lines.append(f"{name} [type=input, input_type={'match' if case.match_inputs else 'unmatch'}]")
        else:
            lines.append(f"{name} [flowunit={name}]")
    for node in case.nodes:
        attributes = {
            "flowunit": node.form.name,
            "op": node.op,
            "seed": node.seed,
            "batch_size": node.batch,
            "queue_size": node.queue,
        }
        if node.form.kind == "loop":
            attributes |= {"back": node.back, "loop_limit": node.loop_limit}
        if node.meta:
            attributes["meta"] = node.meta
        if node.form.kind == "normal" and node.seed % 3 == 0:  # waiting for batches changes no result
            attributes["max_queue_delay_us"] = 300 if node.seed % 2 else 50_000
            if node.seed % 5 == 0 and node.batch > 1:
                attributes["preferred_batch_sizes"] = node.batch - 1
        lines.append(f"{node.name} [{', '.join(f'{key}={value}' for key, value in attributes.items())}]")
        for number, ends in enumerate(node.sources):
            lines += [f"{end} -> {node.name}:i{number}" for end in ends]
    for exit in case.exits:
        kind = f"type=output, output_type={'match' if exit.match else 'unmatch'}" if exit.output else "flowunit=sink"
        lines.append(f"{exit.name} [{kind}]")
        lines += [f"{end} -> {exit.name}:{'output' if exit.output else 'in'}" for end in exit.sources]
    return "digraph random {\n  " + ";\n  ".join(lines) + "\n}"


def reference_graph(case: Case, sink: Any) -> Graph:
    """The graph for the interpreter; `sink` is the unit of sinks."""
    graph = Graph()
    for name in dict.fromkeys(door.partition(":")[0] for door in case.doors):
        if case.has_inputs:
            graph.input(name, match=case.match_inputs)
        else:
            graph.source(name, [door.partition(":")[2] for door in case.doors if door.startswith(f"{name}:")])
    for node in case.nodes:
        sources = dict(zip(node.form.input_ports, node.sources, strict=True))
        graph.add(node.name, reference_unit(node.form, node.script), sources, loop_limit=node.loop_limit)
    for exit in case.exits:
        if exit.output:
            graph.output(exit.name, exit.sources, match=exit.match)
        else:
            graph.add(exit.name, sink, {"in": exit.sources})
    return graph


def reference_inputs(case: Case, session: CaseSession) -> dict[str, Sequence[str]]:
    named = zip(case.doors, session.values, strict=True)
    return {door.partition(":")[0] if case.has_inputs else door: values for door, values in named}
