"""What a job makes of workers that crash, hang or are replaced: sessions fail or go on, and troubles() tells."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelbox.errors import UnitError
from modelboxd.engine.job import Job
from modelboxd.workers.pool import WorkerPool
from tests.integration.workers import LIMIT_S, write_unit
from tests.unit.engine.harness import Bench, Record
from tests.waiting import Gate, wait_for

UNIT = """
import os, signal, time
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def data_pre(self, context):
        context.set_private("seen", 0)
        return modelbox.Status()

    def process(self, context):
        for buffer in context.input("in"):
            word, _, rest = str(buffer).partition(" ")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "wait":
                open(rest, "rb", 0).read(1)
            if word == "count":
                context.set_private("seen", context.get_private("seen") + 1)
                word = str(context.get_private("seen"))
            context.output("out").push_back(word)
        return modelbox.Status()
"""


class Jobs:
    """Jobs of one Python node, on a bench with real workers."""

    def __init__(self, folder: Path) -> None:
        pools: list[WorkerPool] = []
        units: dict[str, Any] = {
            "normal": (write_unit(folder, "normal", UNIT), None),
            "stream": (write_unit(folder, "stream", UNIT, stream=True), None),
        }
        self.bench = Bench(units, make_workers=lambda _: pools[0])
        self.bench.io.start()
        pools.append(WorkerPool(self.bench.io, self.bench.pool))

    def run(self, unit: str, **life: object) -> Job:
        said = "".join(f', {name}="{value}"' for name, value in life.items())
        return self.bench.run(
            f"digraph g {{ s [flowunit=source]; w [flowunit={unit}{said}]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in }}"
        )


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    made.bench.close()
    made.bench.engine.close(LIMIT_S)
    made.bench.io.stop()
    gc.collect()
    assert made.bench.pool.stats().live_buffers == 0


def got(record: Record) -> list[str]:
    assert record.error() is None
    return record.got


@pytest.mark.parametrize("unit", ["normal", "stream"])
def test_buffers_fail_at_once_while_the_breaker_is_open(jobs: Jobs, unit: str) -> None:
    job = jobs.run(unit, max_restarts=2, restart_cooldown_s=1)
    assert job.troubles() == []
    for _ in range(2):
        (text,) = got(jobs.bench.send(job, "die"))
        assert text.startswith(f"!{unit}.WorkerLost: python worker ") and "was killed by SIGKILL" in text
    texts = got(jobs.bench.send(job, "a", "b"))
    assert len(texts) == 2
    assert all("node 'w' is out of service after 2 crashes in a row: python worker" in text for text in texts)
    ((node, reason),) = job.troubles()
    assert node == "w" and reason.startswith("its workers are given up after 2 crashes in a row; next try in ")
    assert [status.breaker for status in job.workers()] == ["open"]
    wait_for(lambda: not job.troubles())
    assert got(jobs.bench.send(job, "a", "b")) == ["a", "b"]
    wait_for(lambda: job.workers()[0].breaker == "closed")


def test_what_waits_for_a_worker_fails_when_the_breaker_opens(jobs: Jobs) -> None:
    job = jobs.run("normal", max_restarts=3, batch_size=1)
    records = [jobs.bench.send(job, "die") for _ in range(6)] + [jobs.bench.send(job, "a") for _ in range(20)]
    texts = [got(record)[0] for record in records]
    assert all(text.startswith("!normal.WorkerLost: ") or text == "a" for text in texts)
    assert "out of service" in texts[-1]


def test_a_hanging_call_of_a_cancelled_session_blocks_nobody_for_ever(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.run("normal", orphan_timeout_ms=200, batch_size=1)
    session, record = jobs.bench.open(job)
    never = Gate(tmp_path / "never")
    jobs.bench.send(job, f"wait {never.path}", session=session, record=record)
    wait_for(lambda: job.workers()[0].workers[0].outstanding)
    after = jobs.bench.send(job, "a")
    wait_for(lambda: job.workers()[0].workers[0].busy_s > 0.5)
    assert not after.ended.done()  # somebody waits for the call: it may take as long as it likes
    session.cancel(UnitError("enough"))
    assert after.error() is None
    assert after.got == ["a"] or "a call that nobody waits for" in after.got[0]  # it may have been there already
    assert got(jobs.bench.send(job, "b")) == ["b"]


def test_a_worker_that_dies_fails_its_streams_and_no_others(jobs: Jobs) -> None:
    job = jobs.run("stream", workers=2)
    first, second = jobs.bench.open(job), jobs.bench.open(job)
    for session, record in (first, second):
        jobs.bench.send(job, "count", end=False, session=session, record=record)
        wait_for(lambda record=record: record.got == ["1"])
    assert sorted(worker.streams for worker in job.workers()[0].workers) == [1, 1]
    jobs.bench.send(job, "die", end=False, session=first[0], record=first[1])
    wait_for(lambda: len(first[1].got) == 2)
    jobs.bench.send(job, "count", session=first[0], record=first[1])
    jobs.bench.send(job, "count", session=second[0], record=second[1])
    assert got(second[1]) == ["1", "2"]
    one, died, lost = got(first[1])
    assert one == "1" and "was killed by SIGKILL while it held 1 call" in died
    assert lost.endswith("the stream's state was lost with it")
    wait_for(lambda: job.workers()[0].state == "ready")
    assert got(jobs.bench.send(job, "count", "count")) == ["1", "2"]


@pytest.mark.parametrize("unit", ["normal", "stream"])
def test_recycling_under_load_loses_nothing(jobs: Jobs, unit: str) -> None:
    job = jobs.run(unit, max_requests=5, workers=2)
    words = ["count"] * 10 if unit == "stream" else ["x"] * 10
    want = [str(number) for number in range(1, 11)] if unit == "stream" else words
    sent = 0
    while job.workers()[0].recycled < 6:
        records = [jobs.bench.send(job, *words) for _ in range(20)]
        sent += len(records)
        assert [got(record) for record in records if got(record) != want] == []
        assert sent < 20000, "it is never recycled"
    wait_for(lambda: [worker.state.value for worker in job.workers()[0].workers] == ["ready", "ready"])
    status = job.workers()[0]
    assert (status.restarts, status.last_cause) == (0, "")
    assert all(os.path.exists(f"/proc/{worker.pid}") for worker in status.workers)
