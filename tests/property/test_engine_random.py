"""Random graphs and inputs: the engine and the reference interpreter must agree."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelboxd.engine.unit import BuiltinUnit
from tests.reference.interpreter import Err, Kind, RefGraph, RefNode, SessionFailed, Value, run
from tests.unit.engine.harness import Bench, Record, spec, text_buffer

GRAPHS = int(os.environ.get("MODELBOX_RANDOM_GRAPHS", "300"))


def upper(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    return [[row[0].upper()]]


def fork(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    return [[row[0] + "l"], [row[0] + "r"]]


def join(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    return [["(" + row[0] + row[1] + ")"]]


def picky(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    """Refuses values that begin with b."""
    return [[Err("Picky.B", row[0])] if row[0].lower().startswith("b") else [row[0]]]


def number(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    """Depends on order: numbers what passes."""
    state["n"] = state.get("n", 0) + 1
    return [[f"{state['n']}:{row[0]}"]]


def thin(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    """Lets every second value through."""
    state["n"] = state.get("n", 0) + 1
    return [[row[0]] if state["n"] % 2 else []]


def double(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    return [[row[0], row[0] + "'"]]


def pair_stream(state: dict[str, int], row: Sequence[str]) -> list[list[Value]]:
    state["n"] = state.get("n", 0) + 1
    return [[f"<{row[0]}{row[1]}{state['n']}>"]]


KINDS = [
    Kind("k_upper", 1, 1, False, upper),
    Kind("k_fork", 1, 2, False, fork),
    Kind("k_join", 2, 1, False, join),
    Kind("k_picky", 1, 1, False, picky),
    Kind("k_number", 1, 1, True, number),
    Kind("k_thin", 1, 1, True, thin),
    Kind("k_double", 1, 1, True, double),
    Kind("k_pair", 2, 1, True, pair_stream),
]


def unit_class(kind: Kind) -> type[BuiltinUnit]:
    """The engine's form of a kind: whole batches at a time, stream state in the session."""

    class Made(BuiltinUnit):
        def process(self, call: Any) -> None:
            state = call.session.private.setdefault(self.node.name, {}) if kind.stream else {}
            for row in zip(*[call.input(f"i{port}") for port in range(kind.inputs)], strict=True):
                for port, values in enumerate(kind.step(state, [str(buffer) for buffer in row])):
                    for value in values:
                        buffer = text_buffer("" if isinstance(value, Err) else value)
                        if isinstance(value, Err):
                            buffer.set_error(value.code, value.message)
                        call.output(f"o{port}").push_back(buffer)

    return Made


class NamedSink(BuiltinUnit):
    inline = True

    def process(self, call: Any) -> None:
        got = call.session.private["sinks"].setdefault(self.node.name, [])
        for buffer in call.input("in"):
            got.append(Err(buffer.get_error_code(), buffer.get_error_msg()) if buffer.has_error() else str(buffer))


UNITS: dict[str, Any] = {
    kind.name: (
        spec(
            kind.name,
            tuple(f"i{port}" for port in range(kind.inputs)),
            tuple(f"o{port}" for port in range(kind.outputs)),
            stream=kind.stream,
            max_batch=64,
        ),
        unit_class(kind),
    )
    for kind in KINDS
}
UNITS["named_sink"] = (spec("named_sink", ("in",), (), stream=True, sees_errors=True, max_batch=64), NamedSink)


@st.composite
def graphs(draw: st.DrawFn) -> RefGraph:
    graph = RefGraph()
    outputs: list[tuple[str, int]] = [("source", 0)]
    for index in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(KINDS))
        sources = tuple(draw(st.sampled_from(outputs)) for _ in range(kind.inputs))
        node = RefNode(f"n{index}", kind, sources, draw(st.integers(1, 9)), draw(st.integers(1, 12)))
        graph.nodes.append(node)
        outputs += [(node.name, port) for port in range(kind.outputs)]
    return graph


def dot(graph: RefGraph) -> str:
    def port(source: tuple[str, int]) -> str:
        return "source:out" if source[0] == "source" else f"{source[0]}:o{source[1]}"

    lines = ["source [flowunit=source]"]
    for node in graph.nodes:
        lines.append(
            f"{node.name} [flowunit={node.kind.name}, batch_size={node.batch_size}, queue_size={node.queue_size}]"
        )
        lines += [f"{port(source)} -> {node.name}:i{number}" for number, source in enumerate(node.sources)]
    for sink in graph.sinks():
        name = f"t_{sink[0]}_{sink[1]}"
        lines += [f"{name} [flowunit=named_sink]", f"{port(sink)} -> {name}:in"]
    return "digraph g { " + "; ".join(lines) + " }"


values = st.lists(st.sampled_from(["a", "b", "c", "bb", "d"]), max_size=40)


@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(
    graph=graphs(),
    sessions=st.lists(values, min_size=1, max_size=5),
    cut=st.integers(1, 7),
    threads=st.sampled_from([1, 2, 16]),
)
def test_engine_agrees_with_the_reference(graph: RefGraph, sessions: list[list[str]], cut: int, threads: int) -> None:
    buffers: list[Any] = []
    bench = Bench(UNITS, threads=threads)
    try:
        job = bench.run(dot(graph))
        opened: list[tuple[Record, dict[str, list[Value]]]] = []
        for items in sessions:
            record = Record()
            sinks: dict[str, list[Value]] = {}
            session = bench.entry(job).open(
                {"sinks": sinks}, lambda ended, record=record: record.ended.set_result(ended.error)
            )
            for first in range(0, len(items), cut):
                buffers = [text_buffer(item) for item in items[first : first + cut]]
                bench.entry(job).send(session, "out", buffers)
            bench.entry(job).send(session, "out", [], end=True)
            opened.append((record, sinks))
        for items, (record, sinks) in zip(sessions, opened, strict=True):
            error = record.error()
            try:
                expected = run(graph, items)
            except SessionFailed:
                assert error is not None
                continue
            assert error is None
            assert {f"t_{name}_{port}": got for (name, port), got in expected.items() if got} == sinks
    finally:
        bench.close()
    assert not job.sessions and not any(step.feeds or step.gathers for step in job.steps)
    del job, session, opened, buffers
    gc.collect()
    assert bench.pool.stats().live_buffers == 0
