"""Memory that workers keep for more work is given back when none comes; an idle worker then sleeps."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest

from modelboxd.workers import starter
from tests.integration.graphs import Graphs, write
from tests.integration.test_interpreters import bare
from tests.integration.workers import LIMIT_S, Caller, write_unit
from tests.waiting import wait_for

GROW = """
import _flowunit as modelbox
import numpy as np

class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(np.ones(int(str(buffer)), np.uint8))
        return modelbox.Status()
"""
MAKE = """
    def process(self, context):
        import numpy as np

        for buffer in context.input("in"):
            context.output("out").push_back(np.ones(int(str(buffer)), np.uint8))
        return modelbox.Status()
"""
PASS = """
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(buffer.numpy() + 1)
        return modelbox.Status()
"""
COUNT = """
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(str(int(buffer.numpy().sum())))
        return modelbox.Status()
"""


def shared(pid: int) -> int:
    """Arenas that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:modelbox")


@pytest.mark.parametrize("spin_us", [0, 10_000])
def test_an_idle_worker_gives_its_arenas_back_and_sleeps(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spin_us: int
) -> None:
    monkeypatch.setattr(starter, "IDLE_S", 0.5)
    group = caller.start(write_unit(tmp_path, "grow", GROW), spin_us=spin_us)
    (worker,) = group.workers

    def wake_ups() -> list[str]:
        threads = Path(f"/proc/{worker.pid}/task").glob("*/status")
        return [line for path in threads for line in path.read_text().splitlines() if "ctxt" in line]

    for _ in range(2):  # also after the second burst
        got = caller.call(group, *[str(15 << 20)] * 3)
        assert worker._peer.mapped()[0] >= 3 and shared(worker.pid) >= 3
        assert [buffer.get_bytes() for buffer in got] == [15 << 20] * 3
        del got
        gc.collect()
        wait_for(lambda: worker._peer.mapped() == (0, 0))
        caller.memory.trim()
        caller.pool.io.call(caller.pool.forget_gone)
        wait_for(lambda: shared(worker.pid) == 0)
    wait_for(lambda: not worker._watching and worker._release_timer is None)
    # Being told what is gone counts as work: it looks once more, and then never again.
    before: list[str] = []

    def is_quiet() -> bool:
        nonlocal before, since
        now = wake_ups()
        if now != before:
            before, since = now, time.monotonic()
        return time.monotonic() - since > 2.0

    since = time.monotonic()
    wait_for(is_quiet)
    assert int(str(caller.call(group, "7")[0].get_bytes())) == 7
    group.close(LIMIT_S)


def test_memory_that_others_map_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one worker makes is mapped by the daemon and by the workers behind it, in other interpreters too."""
    monkeypatch.setattr(starter, "IDLE_S", 0.5)
    python = bare(tmp_path / "venv", "numpy", "numpy.libs")
    write(tmp_path, "make", MAKE, base="stream = true")
    write(tmp_path, "further", PASS, base=f'stream = true\npython = "{python}"')
    write(tmp_path, "count", COUNT, base="stream = true")
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run(
            """s [flowunit=source]; m [flowunit=make]; f [flowunit=further]; c [flowunit=count]; t [flowunit=sink];
               s:out -> m:in; m:out -> f:in; f:out -> c:in; c:out -> t:in"""
        )
        before = shared(os.getpid())
        record = graphs.bench.send(job, str(20 << 20).ljust(100_000))  # too long to travel inside the message
        assert record.error() is None and record.got == [str(40 << 20)]
        workers = [step.group.workers[0] for step in job.steps if hasattr(step, "group")]
        assert len(workers) == 3
        del record
        gc.collect()
        wait_for(lambda: [worker._peer.mapped() for worker in workers] == [(0, 0)] * 3)
        wait_for(lambda: shared(os.getpid()) <= before + 1)
        wait_for(lambda: not any(pool._telling for pool in graphs.bench.engine._workers.values()))
        graphs.bench.io.call(graphs.bench.engine._trim)  # what Leftovers calls
        wait_for(lambda: [shared(worker.pid) for worker in workers] == [0] * 3)
        assert shared(os.getpid()) <= before
    finally:
        graphs.close()


def test_the_heap_is_given_back(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "IDLE_S", 0.5)
    # Blocks that malloc keeps: small ones, with one behind them that is not freed.
    code = GROW.replace(
        "            context.output",
        "            blocks = [np.ones(100_000, np.uint8) for _ in range(600)]\n"
        "            self.last = np.ones(100_000, np.uint8)\n"
        "            del blocks\n"
        "            context.output",
    )
    group = caller.start(write_unit(tmp_path, "grow", code))
    (worker,) = group.workers

    def private() -> int:
        rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty")) << 10

    caller.call(group, "1")
    full = private()
    assert full > 50 << 20
    wait_for(lambda: private() < full - (40 << 20))
    group.close(LIMIT_S)
