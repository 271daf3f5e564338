"""NORMAL and STREAM units through the engine: order, batches, several sessions, errors, back-pressure, stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from modelbox.errors import BusyError, ShutdownError, UnitError
from modelboxd.engine.job import JobSettings, JobState
from tests.unit.engine.harness import LIMIT_S, Bench, Gate, spec, text_buffer, unit

CHAIN = "digraph g { s [flowunit=source]; u [flowunit=upper]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in }"


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()


def test_one_session(benches: list[Bench]) -> None:
    bench = Bench({})
    benches.append(bench)
    record = bench.send(bench.run(CHAIN), "a", "b", "c")
    assert record.error() is None
    assert record.got == ["A", "B", "C"]


def test_empty_session_ends(benches: list[Bench]) -> None:
    bench = Bench({})
    benches.append(bench)
    record = bench.send(bench.run(CHAIN))
    assert record.error() is None
    assert record.got == []


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_order_is_restored_behind_concurrent_batches(benches: list[Bench], threads: int) -> None:
    barrier_hits = threading.Lock()
    seen: list[int] = []

    def work(call: Any) -> None:
        items = list(call.input("in"))
        with barrier_hits:
            seen.append(len(items))
        for item in items:
            call.output("out").push_back(text_buffer(str(item)))

    bench = Bench({"work": (spec("work"), unit(work))}, threads=threads)
    benches.append(bench)
    job = bench.run(
        "digraph g { s [flowunit=source]; u [flowunit=work, batch_size=3]; t [flowunit=sink]; s:out->u:in; u:out->t:in }"
    )
    records = []
    for number in range(50):
        session, record = bench.open(job)
        for first in range(0, 20, 5):
            items = [f"{number}.{index}" for index in range(first, first + 5)]
            bench.send(job, *items, end=first == 15, session=session, record=record)
        records.append(record)
    for number, record in enumerate(records):
        assert record.error() is None
        assert record.got == [f"{number}.{index}" for index in range(20)]
    assert max(seen) <= 3


def test_batches_mix_sessions(benches: list[Bench]) -> None:
    gate = Gate()
    sizes: list[int] = []

    def work(call: Any) -> None:
        items = list(call.input("in"))
        sizes.append(len(items))
        if str(items[0]) == "first":
            gate.wait()
        for item in items:
            call.output("out").push_back(item)

    bench = Bench({"work": (spec("work"), unit(work))}, threads=1)
    benches.append(bench)
    job = bench.run(
        "digraph g { s [flowunit=source]; u [flowunit=work, batch_size=8]; t [flowunit=sink]; s:out->u:in; u:out->t:in }"
    )
    records = [bench.send(job, "first")]
    gate.wait_reached()
    records += [bench.send(job, str(number)) for number in range(8)]
    gate.open()
    assert [record.error() for record in records] == [None] * 9
    assert sizes == [1, 8]


def test_join_by_index(benches: list[Bench]) -> None:
    def join(call: Any) -> None:
        for one, two in zip(call.input("a"), call.input("b"), strict=True):
            call.output("out").push_back(text_buffer(f"{one}{two}"))

    bench = Bench({"join": (spec("join", ("a", "b")), unit(join))})
    benches.append(bench)
    job = bench.run(
        """digraph g { s [flowunit=source]; u [flowunit=upper]; j [flowunit=join]; t [flowunit=sink];
        s:out -> u:in; s:out -> j:a; u:out -> j:b; j:out -> t:in }"""
    )
    records = [bench.send(job, *[f"x{number}" for number in range(200)]) for _ in range(3)]
    for record in records:
        assert record.error() is None
        assert record.got == [f"x{number}X{number}" for number in range(200)]


def test_join_mismatch_fails_the_session_only(benches: list[Bench]) -> None:
    def drop_last(call: Any) -> None:
        for item in call.input("in"):
            if str(item) != "drop":
                call.output("out").push_back(item)

    def join(call: Any) -> None:
        for one, two in zip(call.input("a"), call.input("b"), strict=True):
            call.output("out").push_back(text_buffer(f"{one}{two}"))

    bench = Bench(
        {
            "join": (spec("join", ("a", "b")), unit(join)),
            "drop": (spec("drop", stream=True), unit(drop_last)),
        }
    )
    benches.append(bench)
    job = bench.run(
        """digraph g { s [flowunit=source]; u [flowunit=drop]; j [flowunit=join]; t [flowunit=sink];
        s:out -> u:in; s:out -> j:a; u:out -> j:b; j:out -> t:in }"""
    )
    bad = bench.send(job, "1", "drop", "2")
    error = bad.error()
    assert error is not None and "node 'j': port a missmatch" in str(error)
    good = bench.send(job, "1", "2")
    assert good.error() is None
    assert good.got == ["11", "22"]


def test_error_buffers_pass_by_and_keep_their_place(benches: list[Bench]) -> None:
    def some_fail(call: Any) -> None:
        for item in call.input("in"):
            made = text_buffer(str(item))
            if str(item) == "bad":
                made.set_error("Some.Bad", "no good")
            call.output("out").push_back(made)

    for stream in (False, True):
        bench = Bench({"some": (spec("some"), unit(some_fail)), "after": (spec("after", stream=stream), unit(echo))})
        benches.append(bench)
        job = bench.run(
            """digraph g { s [flowunit=source]; u [flowunit=some]; v [flowunit=after]; t [flowunit=sink];
            s:out -> u:in; u:out -> v:in; v:out -> t:in }"""
        )
        record = bench.send(job, "1", "bad", "2", "bad", "bad", "3")
        assert record.error() is None
        bad = "!Some.Bad: no good"
        assert record.got == ["1", bad, "2", bad, bad, "3"]


def echo(call: Any) -> None:
    for item in call.input("in"):
        call.output("out").push_back(item)


def test_failing_process_makes_error_buffers(benches: list[Bench]) -> None:
    def fail(call: Any) -> None:
        raise UnitError("it broke")

    bench = Bench({"fail": (spec("fail"), unit(fail))})
    benches.append(bench)
    job = bench.run("digraph g { s [flowunit=source]; u [flowunit=fail]; t [flowunit=sink]; s:out->u:in; u:out->t:in }")
    record = bench.send(job, "1", "2")
    assert record.error() is None
    assert record.got == ["!fail.ProcessError: it broke"] * 2


def test_wrong_output_count_fails_the_session(benches: list[Bench]) -> None:
    def short(call: Any) -> None:
        items = list(call.input("in"))
        for item in items[1:]:
            call.output("out").push_back(item)

    bench = Bench({"short": (spec("short"), unit(short))})
    benches.append(bench)
    job = bench.run(
        "digraph g { s [flowunit=source]; u [flowunit=short]; t [flowunit=sink]; s:out->u:in; u:out->t:in }"
    )
    error = bench.send(job, "1", "2").error()
    assert str(error) == "node 'u' port 'out': input buffer count 2 should equal output buffer count 1"


def test_back_pressure_reaches_the_source(benches: list[Bench]) -> None:
    gate = Gate()

    def hold(call: Any) -> None:
        gate.wait()
        echo(call)

    bench = Bench({"hold": (spec("hold"), unit(hold))}, threads=1)
    benches.append(bench)
    job = bench.run(
        """digraph g { s [flowunit=source, queue_size_external=4]; u [flowunit=hold, queue_size=2, batch_size=1];
        t [flowunit=sink]; s:out->u:in; u:out->t:in }"""
    )
    records = [bench.send(job, "x")]
    gate.wait_reached()
    records += [bench.send(job, "x") for _ in range(6)]  # 2 in the queue, 4 at the entry
    with pytest.raises(BusyError, match="node 's': 4 buffers wait already"):
        bench.open(job)
    gate.open()
    for record in records:
        assert record.error() is None
        assert record.got == ["x"]
    assert bench.send(job, "y").error() is None


def test_cancel_drops_what_waits(benches: list[Bench]) -> None:
    gate = Gate()
    ran: list[str] = []

    def hold(call: Any) -> None:
        for item in call.input("in"):
            ran.append(str(item))
            gate.wait()
            call.output("out").push_back(item)

    bench = Bench({"hold": (spec("hold", stream=True), unit(hold))}, threads=1)
    benches.append(bench)
    job = bench.run("digraph g { s [flowunit=source]; u [flowunit=hold]; t [flowunit=sink]; s:out->u:in; u:out->t:in }")
    session, record = bench.open(job)
    bench.send(job, "1", "2", "3", session=session, record=record)
    gate.wait_reached()
    session.cancel(UnitError("client gone"))
    assert str(record.error()) == "client gone"
    gate.open()
    other = bench.send(job, "4")
    assert other.error() is None
    assert ran == ["1", "4"]
    assert record.got == []


def test_stop_drains(benches: list[Bench]) -> None:
    gate = Gate()

    def hold(call: Any) -> None:
        gate.wait()
        echo(call)

    bench = Bench({"hold": (spec("hold"), unit(hold))})
    benches.append(bench)
    job = bench.run("digraph g { s [flowunit=source]; u [flowunit=hold]; t [flowunit=sink]; s:out->u:in; u:out->t:in }")
    record = bench.send(job, "1")
    gate.wait_reached()
    stopper = threading.Thread(target=job.stop)
    stopper.start()
    gate.open()
    stopper.join(LIMIT_S)
    assert record.error() is None
    assert record.got == ["1"]
    with pytest.raises(ShutdownError):
        bench.open(job)


@pytest.mark.parametrize("when", ["before", "after"])
def test_stop_does_not_drain_what_nobody_waits_for(benches: list[Bench], when: str) -> None:
    gate = Gate()

    def hold(call: Any) -> None:
        gate.wait()
        echo(call)

    bench = Bench(
        {"hold": (spec("hold"), unit(hold))}, settings=JobSettings(drain_timeout_s=3600, close_timeout_s=0.05)
    )
    benches.append(bench)
    job = bench.run("digraph g { s [flowunit=source]; u [flowunit=hold]; t [flowunit=sink]; s:out->u:in; u:out->t:in }")
    session, record = bench.open(job)
    bench.send(job, "1", session=session, record=record)
    gate.wait_reached()
    lost: list[int] = []
    stopper = threading.Thread(target=lambda: lost.append(job.stop()))
    if when == "before":
        job.fail_session(session, UnitError("the client has its answer"))
    stopper.start()
    while job.state is JobState.RUNNING:
        threading.Event().wait(0.001)
    if when == "after":
        job.fail_session(session, UnitError("the client has its answer"))
    stopper.join(LIMIT_S)
    assert lost == [0]
    assert isinstance(record.error(), UnitError)
    gate.open()


def test_stop_cuts_off_after_the_deadline(benches: list[Bench]) -> None:
    gate = Gate()

    def hold(call: Any) -> None:
        gate.wait()
        echo(call)

    bench = Bench(
        {"hold": (spec("hold"), unit(hold))}, settings=JobSettings(drain_timeout_s=0.05, close_timeout_s=LIMIT_S)
    )
    benches.append(bench)
    job = bench.run("digraph g { s [flowunit=source]; u [flowunit=hold]; t [flowunit=sink]; s:out->u:in; u:out->t:in }")
    record = bench.send(job, "1")
    gate.wait_reached()
    lost: list[int] = []
    stopper = threading.Thread(target=lambda: lost.append(job.stop()))
    stopper.start()
    assert isinstance(record.error(), ShutdownError)
    gate.open()
    stopper.join(LIMIT_S)
    assert lost == [1]


def test_all_memory_is_back(benches: list[Bench]) -> None:
    bench = Bench({})
    job = bench.run(CHAIN)
    for _ in range(20):
        assert bench.send(job, *["data" * 100] * 10).error() is None
    bench.close()
    job.sessions.clear()
    import gc

    gc.collect()
    assert bench.pool.stats().live_buffers == 0
    assert not any(step.feeds or step.gathers for step in job.steps)


def test_meta_of_consumers_is_apart(benches: list[Bench]) -> None:
    def mark(call: Any) -> None:
        for item in call.input("in"):
            item.set("who", "marked")
            call.output("out").push_back(item)

    def join(call: Any) -> None:
        for one, two in zip(call.input("a"), call.input("b"), strict=True):
            seen = [("who" in item.meta_dict()) for item in (one, two)]
            call.output("out").push_back(text_buffer(str(seen)))

    bench = Bench({"mark": (spec("mark"), unit(mark)), "join": (spec("join", ("a", "b")), unit(join))})
    benches.append(bench)
    job = bench.run(
        """digraph g { s [flowunit=source]; u [flowunit=mark]; j [flowunit=join]; t [flowunit=sink];
        s:out -> u:in; s:out -> j:a; u:out -> j:b; j:out -> t:in }"""
    )
    record = bench.send(job, "x")
    assert record.error() is None
    assert record.got == ["[False, True]"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_under_way_does_not_hold_up_another_session(benches: list[Bench], stream: bool) -> None:
    gate = Gate()

    def work(call: Any) -> None:
        for item in call.input("in"):
            if str(item) == "slow":
                gate.wait()
            call.output("out").push_back(item)

    bench = Bench({"work": (spec("work", stream=stream), unit(work))}, threads=2)
    benches.append(bench)
    job = bench.run(CHAIN.replace("upper", "work"))
    slow = bench.send(job, "slow")
    gate.wait_reached()
    quick = bench.send(job, "quick")
    assert quick.error() is None
    assert quick.got == ["quick"]
    gate.open()
    assert slow.error() is None
