"""Each state of a worker, each fault: what it held fails soon, the rest goes on, all is whole again, nothing leaks."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from modelbox._core.memory import Pool
from modelbox.errors import ModelBoxError, TimedOutError, UnitError, WorkerLostError
from modelbox.spec import UnitSpec
from modelboxd.loop import IoThread
from modelboxd.workers.pool import WorkerGroup, WorkerPool
from modelboxd.workers.protocol import WorkerResult
from tests.integration.faults import master
from tests.integration.faults.master import STATES
from tests.integration.workers import Caller, write_unit

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
    "SIGKILL", "SIGSEGV", "SIGSTOP", "exit 0", "os._exit(3)", "exception", "out of memory",
    "closed socket", "half a message", "garbage",
)  # fmt: skip
BUSY = ("reading", "computing", "writing")  # states in which a call is under way
# The call fails, the worker goes on.
GOES_ON = {("computing", "exception"), ("computing", "out of memory")}

Cell = tuple[str, str]


def cells() -> list[Cell]:
    return [(state, fault) for state in STATES for fault in FAULTS]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"in vain: {what}")
        threading.Event().wait(0.005)


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


def live_through(rig: Rig, group: WorkerGroup, state: str, goes_on: bool) -> str:
    """The fault and what follows, until the pool is whole again; what became of the held call."""
    old = list(group.workers)
    call = bring_about(rig, group, state)
    wait_until(lambda: rig.taken(state), f"no worker came to {state}")
    # In between: the other worker and the other node work.
    rig.check(rig.beside)
    rig.check_again(group)
    outcome = "-"
    if call is not None:
        error = call.result(LIMIT_S).error
        assert isinstance(error, (WorkerLostError, TimedOutError, UnitError)), error
        outcome = type(error).__name__
        del error
    if not goes_on:
        wait_until(lambda: any(not worker.alive for worker in old), "the worker is not missed")
        lost = next(worker for worker in old if not worker.alive)
        assert not lost.has_room()
        wait_until(lambda: not psutil.pid_exists(lost.pid), "its process lives on")
    wait_until(lambda: rig.whole(group), "the pool is not whole again")
    rig.check(group)
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
        outcome = live_through(rig, group, state, (state, fault) in GOES_ON)
    group.close(LIMIT_S)
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "processes are left")
    wait_until(lambda: held() == before, f"{before} before")
    gc.collect()
    wait_until(lambda: rig.memory.stats().live_buffers == live, "buffers are left")
    return outcome


def text_of(error: BaseException) -> str:
    return str(error) if isinstance(error, (AssertionError, ModelBoxError)) else f"{type(error).__name__}: {error}"


def quick(module: Any) -> None:
    """Waits of the daemon, shorter than users want them."""
    module.EXIT_WAIT_S = 0.2
