"""Each state of a worker, each fault: what it held fails soon, the rest goes on, all is whole again, nothing leaks."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from modelbox._core.memory import Pool
from modelbox.errors import ModelBoxError, TimedOutError, UnitError, WorkerLostError
from modelbox.spec import UnitSpec
from modelboxd.loop import IoThread
from modelboxd.workers.health import WorkerState
from modelboxd.workers.pool import WorkerGroup, WorkerPool
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from tests.integration.faults import master
from tests.integration.faults.master import MEMORY_LIMIT_MB, STATES
from tests.integration.workers import Caller, write_unit
from tests.waiting import wait_for

LIMIT_S = 15.0  # what "within a bounded time" means on a busy machine; no cell needs more than about 2 s
TIMEOUT_MS = 500
HEARTBEAT_MS = 1000
DATA = np.arange(20_000, dtype=np.uint8)  # too large to travel inside a message
COPY = """import _flowunit as modelbox
import numpy as np
class Unit(modelbox.FlowUnit):
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.output("out").push_back(modelbox.Buffer(self.get_bind_device(), np.array(buffer)))
        return modelbox.Status()
"""
FAULTS = (
    "SIGKILL", "SIGSEGV", "SIGSTOP", "exit 0", "os._exit(3)", "exception", "out of memory", "memory_limit_mb",
    "closed socket", "half a message", "garbage",
)  # fmt: skip
BUSY = ("reading", "computing", "writing")  # states in which a call is under way
# What the status says of a worker that had the fault, when others work in its place. Where the fault is felt in the
# code around the calls, an exception ends the process.
CAUSES = {
    "SIGKILL": "was killed by SIGKILL",
    "SIGSEGV": "was killed by SIGSEGV",
    "SIGSTOP": "did not answer within|was stopped by SIGSTOP",
    "exit 0": "ended with exit code 0",
    "os._exit(3)": "ended with exit code 3",
    "exception": "ended with exit code|did not open",
    "out of memory": "ended with exit code|did not open",
    "memory_limit_mb": "uses [0-9]+ MB, more than 1.5 times memory_limit_mb = 60,",
    "closed socket": "closed its connection",
    "half a message": "sent nonsense: a message of 12 bytes",
    "garbage": "sent nonsense: a message with an unknown header",
}
# The call fails, the worker goes on.
GOES_ON = {("computing", "exception"), ("computing", "out of memory")}

Cell = tuple[str, str]


def cells() -> list[Cell]:
    return [(state, fault) for state in STATES for fault in FAULTS]


def held() -> tuple[int, int, int, int]:
    """Descriptors, mappings of shared memory and threads of this process, and processes below it."""
    threads = sum(thread.name in ("mb-close", "mb-respawn") for thread in threading.enumerate())
    maps = Path("/proc/self/maps").read_text().count("/memfd:")
    return len(os.listdir("/proc/self/fd")), maps, threads, len(psutil.Process().children(recursive=True))


class Rig:
    """A pool with a node beside, on which no fault may be felt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.io = IoThread()
        self.io.start()
        self.memory = Pool(guard_all=True)
        self.pool = WorkerPool(self.io, self.memory)
        self.pool.master_module = master.MODULE
        self.caller = Caller(self.pool, self.memory)
        self.unit: UnitSpec = write_unit(folder, "copies", COPY)
        self.beside: WorkerGroup = self.caller.start(self.unit)
        self.check(self.beside)

    def close(self) -> None:
        self.beside.close(LIMIT_S)
        self.pool.close(LIMIT_S)
        self.io.stop()

    def check(self, group: WorkerGroup) -> None:
        """A good call."""
        (got,) = self.caller.call(group, DATA)
        assert np.array_equal(got.numpy(), DATA)

    def check_again(self, group: WorkerGroup) -> None:
        """A good call on a group of which a worker may be about to go, with the call that it has just got."""
        for last in (False, False, True):
            try:
                self.check(group)
                return
            except (WorkerLostError, TimedOutError):
                if last:
                    raise

    def call_each(self, group: WorkerGroup) -> None:
        """A call to every worker that takes one: memory is looked at while there is work."""
        answers: list[Future[list[WorkerResult]]] = []
        for worker in group.workers:
            if worker.has_room():
                answers.append(Future())
                call = WorkerCall(0, False, False, 1, "session", [self.caller.list_of(DATA)], [b""])
                worker.submit([call], answers[-1].set_result)
        for answer in answers:
            answer.result(LIMIT_S)

    def arm(self, state: str, fault: str) -> None:
        (self.folder / state).write_text(fault)

    def taken(self, state: str) -> bool:
        return not (self.folder / state).exists()

    def start(self, workers: int = 2, timeout_ms: int = TIMEOUT_MS) -> WorkerGroup:
        return self.caller.start(
            self.unit,
            {"faults": str(self.folder)},
            workers=workers,
            process_timeout_ms=timeout_ms,
            heartbeat_timeout_ms=HEARTBEAT_MS,
            memory_limit_mb=MEMORY_LIMIT_MB,
        )

    def whole(self, group: WorkerGroup, workers: int = 2) -> bool:
        return len(group.workers) == workers and all(worker.has_room() for worker in group.workers)


def bring_about(rig: Rig, group: WorkerGroup, state: str) -> Future[WorkerResult] | None:
    """Leads a worker into the state; returns the call that it then holds."""
    victim = group.workers[0]
    if state in ("starting", "opening"):
        os.kill(victim.pid, signal.SIGKILL)  # its successor comes there
    elif state == "idle":
        os.kill(victim.pid, signal.SIGUSR1)
    else:
        call = rig.caller.submit(group, DATA)
        if state in BUSY:
            return call
        assert call.result(LIMIT_S).error is None  # what it has lent is given back in a moment
    return None


def check_told(group: WorkerGroup, lost: Worker) -> None:
    """What health and statistics are made of, while a worker is lost and another one works."""
    status = group.status()
    assert status.breaker == "closed" and status.state in ("ready", "degraded"), status
    working = [worker.pid for worker in status.workers if worker.state in (WorkerState.READY, WorkerState.BUSY)]
    assert lost.pid not in working, status
    assert (status.state == "ready") == (len(working) == len(group.workers)), status
    assert group.trouble() == ""


def live_through(rig: Rig, group: WorkerGroup, state: str, fault: str) -> str:
    """The fault and what follows, until the pool is whole again; what became of the held call."""
    goes_on = (state, fault) in GOES_ON
    old = list(group.workers)
    call = bring_about(rig, group, state)
    wait_for(lambda: rig.taken(state), f"no worker came to {state}")
    # In between: the other worker and the other node work.
    rig.check(rig.beside)
    rig.check_again(group)
    outcome = "-"
    if call is not None:
        error = call.result(LIMIT_S).error
        good = error is None and fault == "memory_limit_mb"  # it may end before its memory is looked at
        assert good or isinstance(error, (WorkerLostError, TimedOutError, UnitError)), error
        outcome = type(error).__name__
        del error
    restarts = 0 if goes_on else 2 if state in ("starting", "opening") else 1
    if fault == "memory_limit_mb":
        wait_for(lambda: rig.call_each(group) or group.restarts + group.recycled == restarts, "it is not noticed")
        if group.recycled:  # it was weighed when it was over the limit, but not yet by half of it
            restarts -= 1
    if not goes_on:
        wait_for(lambda: any(not worker.alive for worker in old), "the worker is not missed")
        lost = next(worker for worker in old if not worker.alive)
        assert not lost.has_room()
        check_told(group, lost)
        wait_for(lambda: not psutil.pid_exists(lost.pid), "its process lives on")
    wait_for(lambda: rig.whole(group), "the pool is not whole again")
    rig.check(group)
    status = group.status()
    assert (status.state, status.breaker, status.restarts) == ("ready", "closed", restarts), status
    assert [worker.pid for worker in status.workers].count(0) == 0, status
    if not goes_on and not group.recycled:
        assert re.search(CAUSES[fault], status.last_cause), status
    return outcome


def run_cell(rig: Rig, state: str, fault: str) -> str:
    """What became of the held call, in a few words. Raises AssertionError."""
    gc.collect()
    before, live = held(), rig.memory.stats().live_buffers
    group = rig.start()
    pids = [worker.pid for worker in group.workers]
    rig.arm(state, fault)
    if state == "stopping":
        group.close(1.0)
        assert rig.taken(state)
        rig.check(rig.beside)
        outcome = "-"
    else:
        outcome = live_through(rig, group, state, fault)
    group.close(LIMIT_S)
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), "processes are left")
    wait_for(lambda: held() == before, f"{before} before")
    gc.collect()
    wait_for(lambda: rig.memory.stats().live_buffers == live, "buffers are left")
    return outcome


def text_of(error: BaseException) -> str:
    return str(error) if isinstance(error, (AssertionError, ModelBoxError)) else f"{type(error).__name__}: {error}"


def quick(module: Any) -> None:
    """Waits of the daemon, shorter than users want them."""
    module.EXIT_WAIT_S = 0.2
