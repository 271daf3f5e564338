"""Python units: round trips by payload, buffers per second in batches, and CPU-bound units on all cores."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common import Bench, interleaved, percentile

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.buffer import Buffer
from modelboxd.cpus import cpu_count
from modelboxd.engine.feed import copy_list
from modelboxd.engine.worker import WorkerStep

ROUNDS = 5
Row = tuple[str, str, str, str, str]

UNITS = """
import _flowunit as modelbox
import numpy as np

class AddOne(modelbox.FlowUnit):
    def process(self, ctx):
        out = ctx.output("out")
        for buffer in ctx.input("in"):
            result = modelbox.BufferList()
            result.build([buffer.get_bytes()])
            np.add(buffer.numpy(), 1, out=np.array(result[0], copy=False))
            out.push_back(result[0])
        return modelbox.Status.StatusCode.STATUS_SUCCESS

class Pass(modelbox.FlowUnit):
    def process(self, ctx):
        out = ctx.output("out")
        for buffer in ctx.input("in"):
            out.push_back(buffer)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

def spin(count):
    total = 0
    for number in range(count):
        total += number * number & 7
    return total

class Spin(modelbox.FlowUnit):
    def process(self, ctx):
        out = ctx.output("out")
        for buffer in ctx.input("in"):
            spin(SPIN)
            out.push_back(buffer)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""
SPIN = 100_000  # turns of the loop for one value: some milliseconds
TOML = """[base]
name = "{name}"
type = "python"
device = "cpu"
version = "1.0.0"
description = "of the benchmarks"
entry = "units@{entry}"
stream = false
[input]
[input.input1]
name = "in"
[output]
[output.output1]
name = "out"
"""


@contextlib.contextmanager
def engine(entry: str, options: str = "") -> Iterator[Bench]:
    """source -> the Python unit -> sink"""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "units.py").write_text(UNITS.replace("SPIN", str(SPIN)))
        (Path(scratch) / "unit.toml").write_text(TOML.format(name="unit", entry=entry))
        dot = f"s [flowunit=feeder]; u [flowunit=unit{options}]; t [flowunit=drain, queue_size=100000]"
        bench = Bench(f"{dot}; s:out -> u:in; u:out -> t:in", [Path(scratch)])
        try:
            yield bench
        finally:
            bench.close()


@contextlib.contextmanager
def other_process(mode: str, *arguments: object, fds: tuple[int, ...] = ()) -> Iterator[socket.socket]:
    """A baseline's other process, and our end of a socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, mode, str(theirs.fileno()), *map(str, arguments)]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno(), *fds])
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.wait()


# ---- round trips --------------------------------------------------------------------------------------------


def ping_pong(sock_fd: int, fd: int, size: int) -> None:
    """The other process of the baseline: adds one from the first half of shared memory into the second."""
    sock = socket.socket(fileno=sock_fd)
    memory = np.frombuffer(mmap.mmap(fd, 2 * size), np.uint8)
    while sock.recv(8):
        np.add(memory[:size], 1, out=memory[size:])
        sock.send(b"x" * 8)


class Trips:
    """One round trip after the other, each begun where the daemon's sources are: on the I/O loop."""

    def __init__(self, bench: Bench, array: Any) -> None:
        self.bench, self.array = bench, array

    def run(self, count: int, warm: int) -> list[float]:
        """The times of `count` trips, in seconds."""
        self.times: list[float] = []
        self.left = count + warm
        self.over = threading.Event()
        self.bench.io.call(self._go)
        self.over.wait()
        return self.times[warm:]

    def _go(self) -> None:
        self.start = time.perf_counter()
        entry = self.bench.entry
        session = entry.open({"count": 0, "kept": None}, self._ended)
        entry.send(session, "out", [Buffer(None, self.array)], end=True)

    def _ended(self, session: Any) -> None:
        view = session.private.pop("kept").view()
        self.times.append(time.perf_counter() - self.start)
        assert view[-1] == 1
        del view
        self.left -= 1
        if self.left:
            self.bench.io.loop.call_soon(self._go)
        else:
            self.over.set()


def from_a_thread(bench: Bench, array: Any, count: int, warm: int) -> list[float]:
    """The same from a thread that waits for each: one more hand-over there, one back."""
    times = []
    for _ in range(count + warm):
        start = time.perf_counter()
        session, ended = bench.session()
        session.private["kept"] = None
        bench.entry.send(session, "out", [Buffer(None, array)], end=True)
        ended.wait()
        view = session.private["kept"].view()
        times.append(time.perf_counter() - start)
        assert view[-1] == 1
        del view, session
    return times[warm:]


def bare_trips(sock: socket.socket, memory: Any, array: Any, count: int) -> list[float]:
    times = []
    size = array.size
    for _ in range(count):
        start = time.perf_counter()
        memory[:size] = array
        sock.send(b"x" * 8)
        sock.recv(8)
        times.append(time.perf_counter() - start)
        assert memory[-1] == 1
    return times


SIZES = {"64 B": 64, "1 KiB": 1 << 10, "16 KiB": 16 << 10, "256 KiB": 256 << 10, "1 MB": 1 << 20, "16 MB": 16 << 20}


def round_trip() -> list[Row]:
    """Through a graph with one Python unit that adds one, against a bare shared-memory ping-pong."""
    rows: list[Row] = []
    for name, size in SIZES.items():
        count = 30 if size > 1 << 20 else 300
        array = np.zeros(size, np.uint8)
        fd = os.memfd_create("baseline")
        os.ftruncate(fd, 2 * size)
        memory = np.frombuffer(mmap.mmap(fd, 2 * size), np.uint8)
        measured: dict[str, list[float]] = {"io": [], "thread": [], "bare": []}
        with engine("AddOne") as bench, other_process("--ping-pong", fd, size, fds=(fd,)) as sock:
            trips = Trips(bench, array)
            for _ in range(ROUNDS):
                measured["io"] += trips.run(count, count // 4)
                measured["thread"] += from_a_thread(bench, array, count, count // 4)
                measured["bare"] += bare_trips(sock, memory, array, count)
        os.close(fd)
        for part, share in (("p50", 0.5), ("p99", 0.99)):
            ours, thread, bare = (percentile(measured[key], share) for key in ("io", "thread", "bare"))
            goal = "<= 1.20" if part == "p50" and size >= 1 << 20 else ""
            base = f"shared memory {bare * 1e3:.3f} ms"
            row = f"{name} to a Python unit and back, {part}"
            rows.append((row, f"{ours * 1e3:.3f} ms", base, f"{ours / bare:.2f}", goal))
            if part == "p50":
                row = f"{name}, the same from another thread"
                rows.append((row, f"{thread * 1e3:.3f} ms", base, f"{thread / bare:.2f}", ""))
    return rows


# ---- batches --------------------------------------------------------------------------------------------------

BATCH, SMALL = 32, 64
ENCODED = 40 + SMALL  # what a small buffer takes in a message


def echo(sock_fd: int) -> None:
    """The other process of the baseline: sends back what comes."""
    sock = socket.socket(fileno=sock_fd)
    while data := sock.recv(1 << 16):
        sock.send(data)


def cpu_s(pid: int) -> float:
    """CPU time of a process with one thread, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def batches() -> list[Row]:
    """A Python unit that passes on what it gets, batches of 32 small buffers, one worker, against a socket that
    carries the same bytes there and back, two messages under way."""
    count = 5000
    with engine("Pass", f", batch_size={BATCH}, queue_size={64 * BATCH}") as bench, other_process("--echo") as sock:
        source = new_list(BATCH)
        for _ in range(BATCH):
            core = Buffer(None, np.zeros(SMALL, np.uint8)).to_core(bench.pool)
            lib.mb_buffer_seal(core)
            lib.mb_list_push(source, lib.mb_buffer_ref(core))
        step = bench.job.steps[1]
        assert isinstance(step, WorkerStep)
        (worker,) = step.group.workers
        costs: list[float] = []  # CPU seconds of the worker per buffer

        def ours() -> float:
            session, ended = bench.session()
            begun, start = cpu_s(worker.pid), time.perf_counter()
            for _ in range(count):
                while not bench.entry.has_room() or step.counts[0] > 32 * BATCH:
                    time.sleep(0.0002)
                bench.entry.send_list(session, "out", copy_list(source))
            bench.entry.send_list(session, "out", new_list(0), end=True)
            ended.wait()
            assert session.private["count"] == count * BATCH
            costs.append((cpu_s(worker.pid) - begun) / (count * BATCH))
            return count * BATCH / (time.perf_counter() - start)

        def bare() -> float:
            message = bytes(BATCH * ENCODED)
            start = time.perf_counter()
            sock.send(message)
            for number in range(count):
                if number < count - 1:
                    sock.send(message)
                assert len(sock.recv(1 << 16)) == len(message)
            return count * BATCH / (time.perf_counter() - start)

        rates = interleaved(ROUNDS, ours, bare)
    return [
        (
            f"{SMALL} B buffers through one Python worker, batches of {BATCH}",
            f"{rates[0] / 1e3:.0f} k/s, {statistics.median(costs) * 1e6:.1f} us of its CPU each",
            f"socket {rates[1] / 1e3:.0f} k/s",
            f"{rates[0] / rates[1]:.2f}",
            ">= 200 k/s",
        )
    ]


# ---- all cores ---------------------------------------------------------------------------------------------------


def spin(sock_fd: int, count: int) -> None:
    """One process of the baseline: works `count` times when told, then says so."""
    names: dict[str, Any] = {}
    exec(UNITS[UNITS.index("def spin") : UNITS.index("class Spin")], names)
    sock = socket.socket(fileno=sock_fd)
    while sock.recv(8):
        for _ in range(count):
            names["spin"](SPIN)
        sock.send(b"x" * 8)


def cores() -> list[Row]:
    """4 CPU-bound Python units side by side, against one process per core that only works."""
    cpus, each = cpu_count(), 240
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(engine("Spin", ", workers=4, queue_size=1024"))
        socks = [stack.enter_context(other_process("--spin", each // cpus)) for _ in range(cpus)]
        source = new_list(each)
        for _ in range(each):
            core = Buffer(None, np.zeros(SMALL, np.uint8)).to_core(bench.pool)
            lib.mb_buffer_seal(core)
            lib.mb_list_push(source, lib.mb_buffer_ref(core))

        def ours() -> float:
            session, ended = bench.session()
            start = time.perf_counter()
            bench.entry.send_list(session, "out", copy_list(source), end=True)
            ended.wait()
            assert session.private["count"] == each
            return each / (time.perf_counter() - start)

        def bare() -> float:
            start = time.perf_counter()
            for sock in socks:
                sock.send(b"x" * 8)
            for sock in socks:
                sock.recv(8)
            return each // cpus * cpus / (time.perf_counter() - start)

        rates = interleaved(ROUNDS, ours, bare)
    return [
        (
            f"4 CPU-bound Python units on {cpus} cores",
            f"{rates[0]:.0f}/s",
            f"{cpus} bare processes {rates[1]:.0f}/s",
            f"{rates[0] / rates[1]:.2f}",
            ">= 0.95",
        )
    ]


MODES: dict[str, Callable[..., None]] = {"--ping-pong": ping_pong, "--echo": echo, "--spin": spin}

if __name__ == "__main__":
    MODES[sys.argv[1]](*map(int, sys.argv[2:]))
