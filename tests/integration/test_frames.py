"""data_pre, data_post and stream meta of Python units: what counts where calls fail, and where streams are expanded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelbox.spec import UnitSpec
from modelboxd.workers.pool import WorkerPool
from tests.integration.workers import LIMIT_S, write_unit
from tests.unit.engine.harness import Bench
from tests.waiting import wait_for

HEAD = "import _flowunit as modelbox\nCODES = modelbox.Status.StatusCode\nclass Unit(modelbox.FlowUnit):\n"
COPY = """
    def process(self, context):
        for buffer in context.input("in"):
            text = str(buffer)
            context.output("out").push_back(text)
            if text == "raise":
                raise ValueError("no")
            if text == "fault":
                return CODES.STATUS_FAULT
            if text == "none":
                return None
        return modelbox.Status()
"""
TAIL = """
    def data_post(self, context):
        context.output("out").push_back("tail")
        return modelbox.Status()
"""
SHOW = """
    def process(self, context):
        for buffer in context.input("in"):
            meta = context.get_input_meta("in")
            context.output("out").push_back(f"{buffer}:{meta.get_private_string('key')}")
        return modelbox.Status()
"""

Run = Callable[..., tuple[list[str], str | None]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """run({unit: (body, changes of its UnitSpec)}, edges, values): what one session gives, and its error. Everything
    must be free afterwards."""
    benches: list[Bench] = []

    def start(units: dict[str, tuple[str, dict[str, Any]]], edges: str, *values: str, alone: bool = False) -> Any:
        pools: list[WorkerPool] = []
        bench = Bench(specs(tmp_path, units), make_workers=lambda _: pools[0])
        benches.append(bench)
        bench.io.start()
        pools.append(WorkerPool(bench.io, bench.pool))
        job = bench.run(f"digraph g {{ s [flowunit=source]; t [flowunit=sink]; {edges} }}")
        if alone:  # the first value has gone through before the others come
            session, record = bench.open(job)
            bench.send(job, values[0], end=False, session=session, record=record)
            wait_for(lambda: len(record.got) == 1)
            bench.send(job, *values[1:], session=session, record=record)
        else:
            record = bench.send(job, *values)
        error = record.error()
        with job.quiet:
            assert job.quiet.wait_for(lambda: not job.sessions, LIMIT_S), "something goes on after the session's end"
        return record.got, None if error is None else str(error)

    yield start
    for bench in benches:
        bench.close()
        bench.engine.close()
        bench.io.stop()
        gc.collect()
        assert bench.pool.stats().live_buffers == 0


def specs(folder: Path, units: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, tuple[UnitSpec, None]]:
    """Writes the units."""
    return {
        name: (replace(write_unit(folder, name, HEAD + body, stream="stream" in changes), **without(changes)), None)
        for name, (body, changes) in units.items()
    }


def without(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "stream"}


STREAM: dict[str, Any] = {"stream": True}
CHAIN = "u [flowunit=u]; s:out -> u:in; u:out -> t:in"
CLOSED = "x [flowunit=x]; c [flowunit=c]; s:out -> x:in; x:out -> c:in; c:out -> t:in"
GATHER = """
    def process(self, context):
        context.output("out").push_back("+".join(str(buffer) for buffer in context.input("in")))
        return modelbox.Status()
"""


def test_a_rule_that_is_broken_at_the_end_of_a_stream_is_told_once(run: Run) -> None:
    _, error = run({"u": (COPY, STREAM)}, CHAIN, "a", "none")
    assert error == "node 'u': process() returned NoneType, expected Status or StatusCode (is a return missing?)"


def test_a_stream_unit_without_outputs_fails_once(run: Run) -> None:
    body = COPY.replace('context.output("out").push_back(text)', "pass")
    _, error = run({"u": (body, {**STREAM, "outputs": ()})}, "u [flowunit=u]; s:out -> t:in; s:out -> u:in", "raise")
    assert error is not None and "ValueError: no" in error


@pytest.mark.parametrize("last", ["raise", "fault"])
def test_data_post_counts_behind_a_failed_call(run: Run, last: str) -> None:
    got, error = run({"u": (COPY + TAIL, STREAM)}, CHAIN, "a", last)
    assert error is None
    assert (got[0], got[1].split(":")[0], got[2:]) == ("a", "!u.ProcessError", ["tail"])


def test_a_failing_data_post_changes_nothing(run: Run) -> None:
    tail = TAIL.replace("return modelbox.Status()", 'raise ValueError("too late")')
    assert run({"u": (COPY + tail, STREAM)}, CHAIN, "a", "b") == (["a", "b"], None)


def test_data_post_may_stop_the_job(run: Run) -> None:
    _, error = run({"u": (COPY + TAIL.replace("modelbox.Status()", "CODES.STATUS_STOP"), STREAM)}, CHAIN, "a")
    assert error is not None and "stop" in error.lower()


def test_data_post_counts_not_behind_a_failed_data_pre(run: Run) -> None:
    head = """
    def data_pre(self, context):
        context.output("out").push_back("head")
        return CODES.STATUS_FAULT
"""
    got, error = run({"u": (head + COPY + TAIL, STREAM)}, CHAIN, "a", "b")
    assert (got, error) == (["!u.DataPreError: data_pre() returned Fault"], None)


def test_data_pre_and_data_post_give_nothing_to_a_sub_stream(run: Run) -> None:
    head = TAIL.replace("data_post", "data_pre").replace("tail", "head")
    units = {"x": (head + COPY + TAIL, {**STREAM, "expand": True}), "c": (GATHER, {"collapse": True})}
    assert run(units, CLOSED, "a", "b") == (["a", "b"], None)


def test_data_post_of_an_expand_whose_events_are_lost(run: Run) -> None:
    lost = """
    def process(self, context):
        if context.event() is not None:
            return CODES.STATUS_FAULT
        context.output("out").push_back("v")
        context.send_event(modelbox.FlowUnitEvent())
        return modelbox.Status()
    def data_post(self, context):
        return CODES.STATUS_STOP
"""
    units = {"x": (lost, {**STREAM, "expand": True}), "c": (GATHER, {"collapse": True})}
    _, error = run(units, CLOSED, "a")
    assert error is not None and "stop" in error.lower()  # so it was called


def test_each_sub_stream_has_its_own_meta(run: Run) -> None:
    body = """
    def process(self, context):
        meta = modelbox.DataMeta()
        meta.set_private_string("key", str(context.input("in")[0]))
        context.set_output_meta("out", meta)
        context.output("out").push_back("v")
        return modelbox.Status()
"""
    edges = "x [flowunit=x]; u [flowunit=u]; c [flowunit=c]; s:out -> x:in; x:out -> u:in; u:out -> c:in; c:out -> t:in"
    units = {"x": (body, {"expand": True}), "u": (SHOW, STREAM), "c": (GATHER, {"collapse": True})}
    assert run(units, edges, "a", "b", "c") == (["v:a", "v:b", "v:c"], None)


@pytest.mark.parametrize("between", ["copy", "expand and collapse"])
def test_stream_meta_that_comes_behind_an_error(run: Run, between: str) -> None:
    refuse = """
    def process(self, context):
        buffer = modelbox.Buffer(context.input("in")[0])
        if str(buffer) == "bad":
            buffer.set_error("Bad.One", "bad")
        context.output("out").push_back(buffer)
        return modelbox.Status()
"""
    body = """
    def data_pre(self, context):
        meta = modelbox.DataMeta()
        meta.set_private_string("key", "k")
        context.set_output_meta("out", meta)
        return modelbox.Status()
"""
    units: dict[str, tuple[str, dict[str, Any]]] = {"r": (refuse, {}), "m": (body + COPY, STREAM), "v": (SHOW, STREAM)}
    edges = "r [flowunit=r]; m [flowunit=m]; v [flowunit=v]; s:out -> r:in; r:out -> m:in; v:out -> t:in; "
    if between == "copy":
        units["c"] = (COPY, {})
        edges += "c [flowunit=c]; m:out -> c:in; c:out -> v:in"
    else:
        units |= {"x": (COPY, {"expand": True}), "c": (GATHER, {"collapse": True})}
        edges += "x [flowunit=x]; c [flowunit=c]; m:out -> x:in; x:out -> c:in; c:out -> v:in"
    assert run(units, edges, "bad", "a", alone=True) == (["!Bad.One: bad", "a:k"], None)


def test_stream_meta_may_be_set_until_there_is_output(run: Run) -> None:
    body = """
    def process(self, context):
        text = str(context.input("in")[0])
        if text != "skip":
            meta = modelbox.DataMeta()
            meta.set_private_string("key", text)
            told = bool(context.set_output_meta("out", meta))
            context.output("out").push_back(f"{text} {told}")
        return modelbox.Status()
"""
    edges = "u [flowunit=u]; v [flowunit=v]; s:out -> u:in; u:out -> v:in; v:out -> t:in"
    got = run({"u": (body, STREAM), "v": (SHOW, STREAM)}, edges, "skip", "skip", "a", "b")
    assert got == (["a True:a", "b False:a"], None)


@pytest.mark.parametrize("reader", [{}, STREAM])
def test_a_normal_unit_sets_meta_of_the_stream(run: Run, reader: dict[str, Any]) -> None:
    body = """
    def process(self, context):
        meta = modelbox.DataMeta()
        meta.set_private_string("key", str(context.input("in")[0]))
        context.set_output_meta("out", meta)
        for buffer in context.input("in"):
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""
    edges = "u [flowunit=u]; v [flowunit=v]; s:out -> u:in; u:out -> v:in; v:out -> t:in"
    assert run({"u": (body, {}), "v": (SHOW, reader)}, edges, "a", "b") == (["a:a", "b:a"], None)
