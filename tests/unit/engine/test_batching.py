"""Batches that wait to become fuller: how long, for whom, and when they do not. Time is a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelbox.errors import UnitError
from modelboxd.engine.job import Job
from tests.unit.engine.harness import Bench, FakeClock, Gate, Record, spec, text_buffer, unit

DELAY_S = 0.005


BEHIND = """digraph g {{ s [flowunit=source]; f [flowunit=first]; u [flowunit=work, {}]; t [flowunit=sink]
    s:out -> f:in; f:out -> u:in; u:out -> t:in }}"""


class Batches:
    """A job whose node `u` waits for batches; a value "gate..." waits at the node before it until the gate opens, a
    value "lose..." is lost there."""

    def __init__(self, dot: str, attributes: str) -> None:
        self.clock = FakeClock()
        self.sizes: list[int] = []
        self.gate = Gate()
        self.bench = Bench(
            {"work": (spec("work"), unit(self._work)), "first": (spec("first", stream=True), unit(self._first))},
            clock=self.clock,
        )
        self.job: Job = self.bench.run(dot.format(attributes))
        self.step = next(step for step in self.job.steps if step.name == "u")

    def _work(self, call: Any) -> None:
        items = list(call.input("in"))
        self.sizes.append(len(items))
        for item in items:
            call.output("out").push_back(item)

    def _first(self, call: Any) -> None:
        for item in call.input("in"):
            if str(item).startswith("gate"):
                self.gate.wait()
            if str(item).startswith("fail"):
                raise UnitError("as told")
            if not str(item).startswith("lose"):
                call.output("out").push_back(item)

    def send(self, *items: str, end: bool = True, session: Any = None, record: Record | None = None) -> Record:
        return self.bench.send(self.job, *items, end=end, session=session, record=record)

    def wait_held(self, count: int) -> None:
        """Until `count` values wait at the node and nothing else runs."""
        self.wait_for(lambda: self.step.counts[0] == count and self.step in self.job.held and not self.job.active)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.job.quiet:
            while not condition():
                self.job.quiet.wait(0.001)


@pytest.fixture
def batches(request: pytest.FixtureRequest) -> Iterator[Batches]:
    param = request.param
    made = Batches(BEHIND, param) if isinstance(param, str) else Batches(*param)
    yield made
    made.gate.open()
    made.bench.close()


def waiting(more: str = "") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "batches", [f"batch_size=4, max_queue_delay_us={int(DELAY_S * 1e6)}{more}"], indirect=True
    )


@waiting()
def test_a_session_that_is_alone_does_not_wait(batches: Batches) -> None:
    assert batches.send("a").error() is None
    session, record = batches.bench.open(batches.job)
    batches.send("b", end=False, session=session, record=record)
    batches.send(session=session, record=record)
    assert (record.error(), record.got) == (None, ["b"])
    assert batches.sizes == [1, 1]
    assert batches.clock.timers() == 0


@waiting()
def test_a_batch_waits_for_another_session_until_its_delay_is_over(batches: Batches) -> None:
    other, other_record = batches.bench.open(batches.job)
    record = batches.send("a")
    batches.wait_held(1)
    batches.clock.advance(DELAY_S / 2)
    assert (batches.sizes, batches.clock.timers()) == ([], 1)
    batches.clock.advance(DELAY_S / 2)
    assert (record.error(), record.got, batches.sizes) == (None, ["a"], [1])
    batches.send(session=other, record=other_record)
    assert other_record.error() is None


@waiting()
def test_the_delay_counts_from_the_oldest_value(batches: Batches) -> None:
    session, record = batches.bench.open(batches.job)
    first = batches.send("a")
    batches.wait_held(1)
    batches.clock.advance(DELAY_S * 0.75)
    second = batches.send("b")
    batches.wait_held(2)
    assert batches.clock.timers() == 1
    batches.clock.advance(DELAY_S * 0.25)
    assert (first.error(), second.error(), batches.sizes) == (None, None, [2])
    batches.send(session=session, record=record)


@waiting()
def test_a_full_batch_goes_at_once_and_the_rest_waits_on(batches: Batches) -> None:
    session, record = batches.bench.open(batches.job)
    first = batches.send("a", "b", "c")
    batches.wait_held(3)
    second = batches.send("d", "e")
    assert first.error() is None
    batches.wait_held(1)
    assert batches.sizes == [4]
    batches.clock.advance(DELAY_S)
    assert (second.error(), second.got, batches.sizes) == (None, ["d", "e"], [4, 1])
    batches.send(session=session, record=record)


@waiting()
def test_it_goes_as_soon_as_all_that_is_under_way_is_here(batches: Batches) -> None:
    late = batches.send("gate")
    batches.gate.wait_reached()
    early = batches.send("a")
    batches.wait_for(lambda: batches.step in batches.job.held)
    batches.gate.open()
    assert (early.error(), late.error(), batches.sizes) == (None, None, [2])


@pytest.mark.parametrize("item", ["lose", "fail"])
@waiting()
def test_it_goes_when_what_it_waits_for_is_lost(batches: Batches, item: str) -> None:
    other, other_record = batches.bench.open(batches.job)
    record = batches.send("a")
    batches.wait_held(1)
    if item.startswith("fail"):
        other.cancel(UnitError("enough"))
        assert isinstance(other_record.error(), UnitError)
    else:
        batches.send("lose", session=other, record=other_record)
        assert other_record.error() is None
    assert (record.error(), record.got, batches.sizes) == (None, ["a"], [1])


@waiting()
def test_the_end_of_a_stream_does_not_wait(batches: Batches) -> None:
    third, third_record = batches.bench.open(batches.job)
    session, record = batches.bench.open(batches.job)
    batches.send("1", "2", "3", "4", end=False, session=session, record=record)
    batches.wait_for(lambda: len(record.got) == 4)
    held = batches.send("a")
    batches.wait_held(1)
    batches.send(session=session, record=record)
    assert (record.error(), record.got) == (None, ["1", "2", "3", "4"])
    batches.wait_held(1)
    batches.send(session=third, record=third_record)
    assert held.error() is None


DIRECT = "digraph g {{ s [flowunit=source]; u [flowunit=work, {}]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in }}"


@pytest.mark.parametrize(
    "batches", [(DIRECT, 'batch_size=8, max_queue_delay_us=1000, preferred_batch_sizes="2, 5"')], indirect=True
)
def test_preferred_sizes_go_at_once(batches: Batches) -> None:
    session, record = batches.bench.open(batches.job)
    assert batches.send(*"1234567").error() is None
    assert sorted(batches.sizes) == [2, 5]
    one = batches.send("a")
    batches.wait_held(1)
    more = batches.send(*"bcdefg")
    assert (one.error(), more.error(), more.got) == (None, None, list("bcdefg"))
    assert sorted(batches.sizes) == [2, 2, 5, 5]
    batches.send(session=session, record=record)


@pytest.mark.parametrize("batches", [(DIRECT, 'batch_size=8, preferred_batch_sizes="4"')], indirect=True)
def test_preferred_sizes_without_a_delay(batches: Batches) -> None:
    record = batches.send(*"123456")
    assert (record.error(), record.got) == (None, list("123456"))
    assert sorted(batches.sizes) == [2, 4]


@pytest.mark.parametrize("batches", ["batch_size=64, queue_size=4, max_queue_delay_us=60000000"], indirect=True)
def test_a_full_queue_does_not_wait_for_a_batch_that_cannot_come(batches: Batches) -> None:
    session, record = batches.bench.open(batches.job)
    sent = batches.send(*[str(number) for number in range(40)])
    batches.wait_for(lambda: sum(batches.sizes) >= 37 and not batches.job.active)
    assert max(batches.sizes) < 8
    batches.send(session=session, record=record)
    assert sent.error() is None
    assert sum(batches.sizes) == 40


def test_a_stuck_job_does_not_wait_for_a_batch() -> None:
    clock = FakeClock()

    def join(call: Any) -> None:
        for one, two in zip(call.input("a"), call.input("b"), strict=True):
            call.output("out").push_back(text_buffer(f"{one}{two}"))

    bench = Bench({"join": (spec("join", ("a", "b")), unit(join))}, clock=clock)
    job = bench.run(
        """digraph g { s [flowunit=source]; u [flowunit=upper, batch_size=16, max_queue_delay_us=60000000];
        j [flowunit=join, queue_size=4]; t [flowunit=sink]; s:out -> u:in; s:out -> j:a; u:out -> j:b; j:out -> t:in }"""
    )
    other, other_record = bench.open(job)
    session, record = bench.open(job)
    for number in range(20):
        bench.send(job, f"x{number}", session=session, record=record, end=number == 19)
    with job.quiet:
        while len(record.got) < 16:
            job.quiet.wait(0.001)
    bench.send(job, session=other, record=other_record)
    assert (other_record.error(), record.error()) == (None, None)
    assert record.got == [f"x{number}X{number}" for number in range(20)]
    bench.close()


def test_a_batch_that_waited_goes_on_where_only_it_can_make_room() -> None:
    """The collapse gives nothing before it has the whole sub-stream, and its queue is full before that."""
    clock, gate = FakeClock(), Gate()

    def letters(call: Any) -> None:
        for letter in str(call.input("in")[0]):
            call.output("out").push_back(text_buffer(letter))

    def hold(call: Any) -> None:
        gate.wait()
        for item in call.input("in"):
            call.output("out").push_back(item)

    def together(call: Any) -> None:
        call.output("out").push_back(text_buffer("".join(str(item) for item in call.input("in"))))

    bench = Bench(
        {
            "letters": (spec("letters", role="expand"), unit(letters)),
            "hold": (spec("hold"), unit(hold)),
            "together": (spec("together", role="collapse"), unit(together)),
        },
        clock=clock,
    )
    job = bench.run(
        """digraph g { s [flowunit=source]; e [flowunit=letters]; u [flowunit=hold, batch_size=2, max_queue_delay_us=5000]
        c [flowunit=together, queue_size=2]; t [flowunit=sink]; s:out -> e:in; e:out -> u:in; u:out -> c:in; c:out -> t:in }"""
    )
    other, other_record = bench.open(job)
    record = bench.send(job, "abc")
    steps = {step.name: step for step in job.steps}
    gate.wait_reached()
    with job.quiet:
        while steps["u"] not in job.held:  # the third letter waits for a fourth, while there is room behind it
            job.quiet.wait(0.001)
    gate.open()
    with job.quiet:
        while job.active or steps["c"].counts[0] != 2:
            job.quiet.wait(0.001)
    clock.advance(DELAY_S)
    assert (record.error(), record.got) == (None, ["abc"])
    bench.send(job, session=other, record=other_record)
    assert other_record.error() is None
    bench.close()
