"""What keeps a job in hand: entries that drop, bounded queues, time limits, cancelling, priorities, CPUs."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from modelbox.errors import BusyError, ConfigError, GraphError, TimedOutError, UnitError
from modelboxd.engine.executor import Executor
from modelboxd.engine.job import Job, JobSettings
from modelboxd.graph.loader import parse_graph
from modelboxd.jobs.runtime import pool_cpus
from modelboxd.settings import EngineSettings, Settings
from tests.unit.engine.harness import LIMIT_S, Bench, FakeClock, Gate, Record, spec, text_buffer, texts, unit

Unit = tuple[Any, Any]


def wait_for(job: Job, condition: Callable[[], bool]) -> None:
    with job.quiet:
        while not condition():
            job.quiet.wait(0.001)


class Rig:
    """A bench with a node that waits for a gate, and the usual kinds of units."""

    def __init__(self, settings: JobSettings | None = None, threads: int = 2) -> None:
        self.gate = Gate()
        self.clock = FakeClock()
        self.observe: Callable[[], None] = lambda: None
        units: dict[str, Unit] = {
            "slow": (spec("slow", stream=True), unit(self._slow)),
            "pass": (spec("pass"), unit(forward)),
            "join": (spec("join", ("a", "b")), unit(join)),
            "expand": (spec("expand", role="expand"), unit(threefold)),
            "collapse": (spec("collapse", role="collapse"), unit(together)),
            "loop": (spec("loop", ("in",), ("back", "out"), role="loop"), unit(rounds)),
            "winding": (spec("winding", ("in",), ("back", "out"), role="loop"), unit(self._winding)),
        }
        self.bench = Bench(units, threads=threads, clock=self.clock, settings=settings or JobSettings(LIMIT_S, LIMIT_S))

    def _slow(self, call: Any) -> None:
        self.gate.wait()
        self.observe()
        forward(call)

    def _winding(self, call: Any) -> None:
        for item in call.input("in"):
            more = str(item).startswith("first") and len(str(item)) < 205
            call.output("back" if more else "out").push_back(text_buffer(f"{item}+") if more else item)
        self.observe()

    def step(self, job: Job, name: str) -> Any:
        return next(step for step in job.steps if step.name == name)


def forward(call: Any) -> None:
    for item in call.input("in"):
        call.output("out").push_back(item)


def join(call: Any) -> None:
    for one, two in zip(call.input("a"), call.input("b"), strict=True):
        call.output("out").push_back(text_buffer(f"{one}{two}"))


def threefold(call: Any) -> None:
    for item in call.input("in"):
        for part in "xyz":
            call.output("out").push_back(text_buffer(f"{item}{part}"))


def together(call: Any) -> None:
    call.output("out").push_back(text_buffer("".join(texts(call.input("in")))))


def rounds(call: Any) -> None:
    for item in call.input("in"):
        text = str(item)
        call.output("back" if len(text) < 4 else "out").push_back(text_buffer(text + "+"))


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*args: Any, **more: Any) -> Rig:
        made.append(Rig(*args, **more))
        return made[-1]

    yield make
    for rig in made:
        rig.gate.open()
        rig.bench.close()


SLOW = "digraph g {{ s [flowunit=source{}]; u [flowunit=slow, queue_size=2]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in }}"


# ---- entries that drop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drop", "lost"), [("oldest", "345"), ("newest", "678")])
def test_a_dropped_request_hears_of_it_at_once(rigs: Callable[..., Rig], drop: str, lost: str) -> None:
    rig = rigs(threads=1)
    job = rig.bench.run(SLOW.format(f", queue_size_external=3, drop={drop}"))
    records = {"0": rig.bench.send(job, "0")}
    rig.gate.wait_reached()
    for name in "12345678":  # 1 and 2 wait at the node, then three at the source
        records[name] = rig.bench.send(job, name)
    source = rig.step(job, "s")
    assert (source.stats.dropped, source._waiting) == (3, 3)
    for name in lost:
        error = records[name].error()
        assert isinstance(error, BusyError)
        assert str(error) == "node 's': dropped, the graph is full"
        assert error.retry_after_s == 1.0
    rig.gate.open()
    assert [name for name in records if records[name].error() is None] == [n for n in "012345678" if n not in lost]
    assert source.stats.buffers_out == 6
    assert job.bytes == 0


@pytest.mark.parametrize(("drop", "kept"), [("oldest", "01278"), ("newest", "01234")])
def test_a_stream_goes_on_without_what_was_dropped(rigs: Callable[..., Rig], drop: str, kept: str) -> None:
    rig = rigs()
    job = rig.bench.run(SLOW.format(f", queue_size_external=2, drop={drop}"))
    session, record = rig.bench.open(job)
    for name in "012345678":
        rig.bench.send(job, name, end=False, session=session, record=record)
        if name == "0":
            rig.gate.wait_reached()
    source = rig.step(job, "s")
    assert source.stats.dropped == 4
    assert len(source._backlog) == 2
    rig.bench.send(job, session=session, record=record)
    rig.gate.open()
    assert (record.error(), "".join(record.got)) == (None, kept)


def test_an_empty_session_is_not_dropped(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    job = rig.bench.run(SLOW.format(", queue_size_external=1, drop=newest"))
    records = [rig.bench.send(job, str(number)) for number in range(4)]
    rig.gate.wait_reached()
    empty = rig.bench.send(job)
    rig.gate.open()
    assert empty.error() is None
    assert all(record.ended.done() or record.error() is None for record in records)


def test_dropped_values_of_matched_inputs_leave_holes(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    job = rig.bench.run(
        """digraph g { a [type=input, drop=oldest, queue_size_external=1]; b [type=input, queue_size_external=64]
        u [flowunit=slow, queue_size=1]; j [flowunit=join]; o [type=output]
        a -> u:in; u:out -> j:a; b -> j:b; j:out -> o }"""
    )
    got: list[str] = []
    ended = threading.Event()
    session = job.open(lambda _, outputs: got.extend(texts(outputs["o"])), lambda _: ended.set())
    for name in "01234":
        for port in "ab":
            job.send(session, port, [text_buffer(f"{port}{name}")])
        if name == "0":
            rig.gate.wait_reached()
    for port in "ab":
        job.send(session, port, [], end=True)
    rig.gate.open()
    assert ended.wait(LIMIT_S)
    assert session.error is None
    assert got == ["a0b0", "a1b1", "a4b4"]
    assert rig.step(job, "a").stats.dropped == 2


# ---- bounded queues ---------------------------------------------------------------------------------------------

GRAPHS = {
    "join": """p [flowunit=pass]; j [flowunit=join]; s:out -> p:in; s:out -> j:a; p:out -> j:b; j:out -> u:in""",
    "expand": """x [flowunit=expand]; p [flowunit=pass]; c [flowunit=collapse]
        s:out -> x:in; x:out -> p:in; p:out -> c:in; c:out -> u:in""",
    "loop": """l [flowunit=loop]; p [flowunit=pass]; s:out -> l:in; l:back -> p:in; p:out -> l:in; l:out -> u:in""",
}


@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize("threads", [1, 3])
def test_a_slow_sink_bounds_all_queues(rigs: Callable[..., Rig], graph: str, threads: int) -> None:
    rig = rigs(threads=threads)
    job = rig.bench.run(
        f"""digraph g {{ queue_size=4; s [flowunit=source]; u [flowunit=slow]; t [flowunit=sink]
        {GRAPHS[graph]}; u:out -> t:in }}"""
    )
    inside = [step for step in job.steps if step.name != "s"]
    for step in inside:
        step.slots_limit = 4
    most: list[int] = []

    def observe() -> None:
        with job.lock:
            most.append(max(max(*step.counts, step.held) for step in inside))

    rig.observe = observe
    sessions = [rig.bench.open(job) for _ in range(3)]
    for number in range(100):
        for session, record in sessions:
            rig.bench.send(job, f"{number}", end=number == 99, session=session, record=record)
    rig.gate.wait_reached()
    assert rig.step(job, "s")._waiting >= 200
    rig.gate.open()
    for _, record in sessions:
        assert record.error() is None
        assert len(record.got) == 100
    assert len(most) == 300
    # A queue of 4, and what comes at once when a call ends for which later ones had to wait: up to 4 parts of each
    # session, of 3 values behind an expand. It would be up to 900 values otherwise.
    assert max(most) <= 4 + 3 * 4 * 3 * 2
    assert (job.bytes, [step.bytes for step in job.steps]) == (0, [0] * len(job.steps))


def test_one_value_with_many_rounds_lets_only_so_many_pass(rigs: Callable[..., Rig]) -> None:
    rig = rigs(threads=3)
    job = rig.bench.run(
        f"""digraph g {{ queue_size=4; s [flowunit=source]; u [flowunit=sink]
        {GRAPHS["loop"].replace("=loop", "=winding")} }}"""
    )
    held: list[int] = []
    rig.observe = lambda: held.append(max(step.held for step in job.steps))
    session, record = rig.bench.open(job)
    names = ["first", *(f"{number}" for number in range(100))]
    for name in names:
        rig.bench.send(job, name, end=name == names[-1], session=session, record=record)
    assert record.error() is None
    assert [text.rstrip("+") for text in record.got] == names
    assert max(held) == 3  # all in the loop but the first


def test_queue_bytes(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    job = rig.bench.run(SLOW.format("").replace("queue_size=2", "queue_size=1000, queue_bytes=5000"))
    session, record = rig.bench.open(job)
    for number in range(50):
        rig.bench.send(job, "x" * 1000, end=number == 49, session=session, record=record)
    rig.gate.wait_reached()
    assert rig.step(job, "u").bytes <= 6000
    assert rig.step(job, "s")._waiting >= 43
    rig.gate.open()
    assert (record.error(), len(record.got)) == (None, 50)


@pytest.mark.parametrize("threads", [2, 4])
def test_memory_is_bounded_while_a_sink_is_held(rigs: Callable[..., Rig], threads: int) -> None:
    """A source that heeds has_room() fills all queues up to queue_bytes, and no more, while nothing leaves."""
    size, limit = 64 << 10, 1 << 20
    rig = rigs(threads=threads)
    job = rig.bench.run(
        f"""digraph g {{ queue_size=100000; queue_bytes={limit}; s [flowunit=source]; p [flowunit=pass, batch_size=1]
        u [flowunit=slow, batch_size=1]; t [flowunit=sink]; s:out -> p:in; p:out -> u:in; u:out -> t:in }}"""
    )
    before = rig.bench.pool.stats()
    entry, (session, record) = rig.bench.entry(job), rig.bench.open(job)
    sent = 0
    while sent < 4096:
        if not entry.has_room():
            wait_for(job, lambda: entry.has_room() or job.active <= 1)  # the call that is held
            if not entry.has_room():
                break
        rig.bench.send(job, "x" * size, end=False, session=session, record=record)
        sent += 1
    held = rig.bench.pool.stats()
    # Three queues: of the source, the node between and the slow one. Each may exceed its limit by the parts of one turn.
    assert sent * size <= held.used_bytes - before.used_bytes <= sent * (size + 4096)
    assert 3 * limit <= sent * size <= 3 * limit + 2 * 32 * size
    rig.gate.open()
    rig.bench.entry(job).send(session, "out", [], end=True)
    assert (record.error(), len(record.got)) == (None, sent)
    record.got.clear()


def test_the_queues_of_a_job_bound_the_run_ahead_of_a_join(rigs: Callable[..., Rig]) -> None:
    rig = rigs(JobSettings(LIMIT_S, LIMIT_S, max_queue_bytes=20_000))
    job = rig.bench.run(
        """digraph g { queue_size=2; s [flowunit=source]; x [flowunit=keep]; j [flowunit=join]; t [flowunit=sink]
        s:out -> x:in; s:out -> j:a; x:out -> j:b; j:out -> t:in }""".replace("flowunit=keep", "flowunit=slow")
    )
    other = rig.bench.send(job, "first")
    rig.gate.wait_reached()
    assert not other.ended.done()
    rig.gate.open()
    assert other.error() is None


def test_a_port_that_starves_another_fails_its_session_before_memory_is_full() -> None:
    """One port of a join gets nothing: the others' run-ahead ends at max_queue_bytes."""

    def swallow(call: Any) -> None:
        if str(next(iter(call.input("in")))).startswith("good"):
            forward(call)

    units: dict[str, Unit] = {
        "join": (spec("join", ("a", "b")), unit(join)),
        "swallow": (spec("swallow", stream=True), unit(swallow)),
    }
    bench = Bench(units, settings=JobSettings(LIMIT_S, LIMIT_S, max_queue_bytes=20_000))
    job = bench.run(
        """digraph g { queue_size=2; s [flowunit=source]; w [flowunit=swallow]; j [flowunit=join]; t [flowunit=sink]
        s:out -> w:in; s:out -> j:a; w:out -> j:b; j:out -> t:in }"""
    )
    session, record = bench.open(job)
    sent = 0
    while not record.ended.done() and sent < 1000:
        bench.send(job, "x" * 1000, end=False, session=session, record=record)
        sent += 1
    error = record.error()
    assert "node 'j' port 'a': " in str(error) and "max_queue_bytes = 20000" in str(error)
    assert bench.send(job, "good").error() is None
    assert job.bytes == 0
    bench.close()


def test_a_task_is_told_that_the_graph_is_full(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    job = rig.bench.run(
        """digraph g { a [type=input, queue_size_external=3]; u [flowunit=slow, queue_size=1]; o [type=output]
        a -> u:in; u:out -> o }"""
    )
    got: list[str] = []
    ended = threading.Event()
    session = job.open(lambda _, outputs: got.extend(texts(outputs["o"])), lambda _: ended.set())
    sent = 0
    with pytest.raises(BusyError, match="input node 'a' of job 'test' is full"):
        for sent in range(20):
            job.send(session, "a", [text_buffer(str(sent))])
    assert sent <= 3 + 1 + 2
    job_step = rig.step(job, "a")
    assert job_step._waiting == 3
    rig.gate.open()
    job.send(session, "a", [], end=True)
    assert ended.wait(LIMIT_S)
    assert got == [str(number) for number in range(sent)]


# ---- time limits and cancelling -----------------------------------------------------------------------------------


def test_a_session_ends_at_its_limit_and_the_log_names_the_node(
    rigs: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(JobSettings(LIMIT_S, LIMIT_S, session_timeout_s=30))
    job = rig.bench.run(SLOW.format(""))
    late = rig.bench.send(job, "1", "2")
    rig.gate.wait_reached()
    rig.clock.advance(29)
    assert not late.ended.done()
    second = rig.bench.send(job, "3")
    assert rig.clock.timers() == 1
    rig.clock.advance(1)
    error = late.error()
    assert isinstance(error, TimedOutError)
    assert str(error) == "job 'test': not done within 30 s; a call runs at node 'u'"
    assert caplog.messages == [str(error)]
    rig.gate.open()
    assert second.error() is None
    rig.clock.advance(60)
    assert rig.clock.timers() == 0


def test_a_graph_has_its_own_limit_and_priority(rigs: Callable[..., Rig]) -> None:
    rig = rigs(JobSettings(LIMIT_S, LIMIT_S, session_timeout_s=30))
    job = rig.bench.run(SLOW.format(""), '[flow]\nsession_timeout = "1min"\npriority = 2\n')
    assert (job.settings.session_timeout_s, job.priority) == (60, 2)
    unlimited = rig.bench.run(SLOW.format(""), "[flow]\nsession_timeout = 0\n")
    assert (unlimited.settings.session_timeout_s, unlimited.priority) == (0, 5)
    rig.bench.send(unlimited, session=rig.bench.open(unlimited)[0], record=Record())
    assert rig.clock.timers() == 0


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("priority = 11", "t.toml:5: flow.priority = 11 is out of range (1 (first) to 10)"),
        ("priority = 0", "t.toml:5: flow.priority = 0 is out of range (1 (first) to 10)"),
        ("priority = true", "t.toml:5: flow.priority = True is no whole number"),
        (
            'session_timeout = "x"',
            "t.toml:5: flow.session_timeout = 'x' is no time (seconds, or such as \"5min\"; 0 is no limit)",
        ),
        (
            "session_timeout = true",
            't.toml:5: flow.session_timeout = True is no time (seconds, or such as "5min"; 0 is no limit)',
        ),
    ],
)
def test_wrong_keys_of_flow(line: str, text: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(
            f'[graph]\nformat = "graphviz"\ngraphconf = "digraph g {{ a [flowunit=b] }}"\n[flow]\n{line}\n', "t.toml"
        )
    assert str(caught.value) == text


CANCELLED = {
    "expand": """x [flowunit=expand]; c [flowunit=collapse]; s:out -> x:in; x:out -> u:in; u:out -> c:in; c:out -> t:in""",
    "collapse": """x [flowunit=expand]; c [flowunit=collapse]; s:out -> x:in; x:out -> c:in; c:out -> u:in; u:out -> t:in""",
    "loop": """l [flowunit=loop]; x [flowunit=expand]; p [flowunit=wait]; c [flowunit=collapse]
        s:out -> l:in; l:back -> x:in; x:out -> p:in; p:out -> c:in; c:out -> l:in; l:out -> t:in""",
}


@pytest.mark.parametrize("graph", list(CANCELLED))
def test_cancelling_frees_everything_that_no_call_holds(graph: str) -> None:
    gate = Gate()

    def wait(call: Any) -> None:
        gate.wait()
        forward(call)

    units: dict[str, Unit] = {
        "wait": (spec("wait"), unit(wait)),
        "slow": (spec("slow", stream=True), unit(wait)),
        "expand": (spec("expand", role="expand"), unit(threefold)),
        "collapse": (spec("collapse", role="collapse"), unit(together)),
        "loop": (spec("loop", ("in",), ("back", "out"), role="loop"), unit(rounds)),
    }
    bench = Bench(units)
    node = "" if graph == "loop" else "u [flowunit=slow, queue_size=2];"
    job = bench.run(f"digraph g {{ s [flowunit=source]; {node} t [flowunit=sink]; {CANCELLED[graph]} }}")
    session, record = bench.open(job)
    for number in range(40):
        bench.send(job, str(number), end=False, session=session, record=record)
    gate.wait_reached()
    session.cancel(UnitError("enough"))
    assert str(record.error()) == "enough"
    with job.lock:
        waiting = [sum(feed.avail) for step in job.steps for feed in step.feeds.values()]
        assert sum(waiting) == 0
        assert [len(step.gathers) for step in job.steps] == [0] * len(job.steps)
        assert [step.held for step in job.steps] == [0] * len(job.steps)
        assert all(step.counts == [0] * len(step.counts) for step in job.steps)
        assert job.bytes == 0
        assert all(feed.busy for step in job.steps for feed in step.feeds.values())
    gate.open()
    wait_for(job, lambda: not job.sessions)
    bench.close()
    del session
    gc.collect()
    assert bench.pool.stats().live_buffers == 0


# ---- priorities and CPUs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["job", "node"])
def test_what_has_a_smaller_priority_runs_first(by: str) -> None:
    gate = Gate()
    order: list[str] = []

    def work(call: Any) -> None:
        for item in call.input("in"):
            if str(item) == "block":
                gate.wait()
            else:
                order.append(str(item))
            call.output("out").push_back(item)

    bench = Bench({"work": (spec("work", max_batch=1), unit(work))}, threads=1)
    dot = "digraph g {{ s [flowunit=source]; u [flowunit=work{}]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in }}"
    jobs = {}
    for priority in (10, 5, 1):
        if by == "job":
            jobs[priority] = bench.run(dot.format(""), f"[flow]\npriority = {priority}\n")
        else:
            jobs[priority] = bench.run(dot.format(f", priority={priority}"))
    blocked = bench.send(jobs[5], "block")
    gate.wait_reached()
    records = [bench.send(job, str(priority)) for priority, job in jobs.items()]
    gate.open()
    assert [record.error() for record in (blocked, *records)] == [None] * 4
    assert order == ["1", "5", "10"]
    bench.close()


def test_the_pool_is_bound_to_its_cpus() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    settings = Settings(engine=replace(EngineSettings(), cpus=tuple(map(str, cpus[:2]))))
    executor = Executor(3, cpus=pool_cpus(settings))
    executor.start()
    bound: list[tuple[str, set[int]]] = []
    meeting = threading.Barrier(3)

    def tell() -> None:
        meeting.wait(LIMIT_S)
        bound.append((threading.current_thread().name, os.sched_getaffinity(threading.get_native_id())))

    for _ in range(3):
        executor.post((0, 0), tell)
    assert executor.stop(LIMIT_S)
    chosen = cpus[:2]
    assert sorted(bound) == [(f"mb-engine-{number}", {chosen[number % len(chosen)]}) for number in range(3)]
    assert sorted(os.sched_getaffinity(0)) == cpus


@pytest.mark.parametrize(
    ("cpus", "text"),
    [
        (("x",), "'x' is no CPU of this process"),
        (("-1",), "'-1' is no CPU of this process"),
        (("99999",), "'99999' is no CPU of this process"),
    ],
)
def test_wrong_cpus(cpus: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        pool_cpus(Settings(engine=replace(EngineSettings(), cpus=cpus)))
