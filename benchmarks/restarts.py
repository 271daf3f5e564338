"""`python benchmarks/restarts.py COUNT`: a worker killed and replaced so many times, with a call that it holds.

The daemon's part runs in this process. Memory, descriptors, mappings, threads and processes of it and of the
python-master are printed; fails when something grows after the first fifth.
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from growth import grown

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from modelbox._core.memory import Pool  # noqa: E402
from modelboxd.loop import IoThread  # noqa: E402
from modelboxd.workers import supervision  # noqa: E402
from modelboxd.workers.pool import WorkerPool  # noqa: E402
from tests.integration.workers import Caller, write_unit  # noqa: E402

ECHO = """import _flowunit as modelbox
import numpy as np
class Unit(modelbox.FlowUnit):
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.output("out").push_back(modelbox.Buffer(self.get_bind_device(), np.array(buffer)))
        return modelbox.Status()
"""
LIMIT_S = 60.0
NAMES = ("daemon RSS MB", "master RSS MB", "descriptors", "master's descriptors", "mappings", "threads", "processes")
GROWTH = (8.0, 4.0, 4, 1, 2, 1, 0)  # over the watched restarts

Row = tuple[float, ...]


def sample(master: psutil.Process) -> Row:
    own = psutil.Process()
    gc.collect()
    return (
        own.memory_info().rss / 1e6,
        master.memory_info().rss / 1e6,
        own.num_fds(),
        master.num_fds(),
        Path("/proc/self/maps").read_text().count("/memfd:"),
        own.num_threads(),
        len(own.children(recursive=True)),
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"in vain: {what}")
        threading.Event().wait(0.002)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    supervision.FIRST_DELAY_S = supervision.LAST_DELAY_S = 0.0  # what is measured here is not the waiting
    io = IoThread()
    io.start()
    memory = Pool()
    pool = WorkerPool(io, memory)
    caller = Caller(pool, memory)
    rows: list[Row] = []
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        group = caller.start(write_unit(Path(folder), "echoes", ECHO))
        assert pool._master is not None
        master = psutil.Process(pool._master.pid)
        data = np.arange(20_000, dtype=np.uint8)
        start = time.monotonic()
        print("".join(f"{name:>22}" for name in ("restarts", *NAMES)), flush=True)
        every = max(options.count // 50, 1)
        for number in range(options.count):
            worker = group.workers[0]
            assert np.array_equal(caller.call(group, data)[0].numpy(), data)
            worker.kill(signal.SIGSTOP)
            # Not by group.pick(): once the daemon hears that it is stopped it gets nothing more, and is killed and
            # replaced for that after heartbeat_timeout_ms.
            held = caller.submit_to(worker, data)
            worker.kill(signal.SIGKILL)
            lost += held.result(LIMIT_S).error is not None
            del held
            wait_until(lambda gone=worker: group.workers[0] is not gone and group.workers[0].has_room(), "a new worker")
            if number % every == 0:
                rows.append(sample(master))
                if len(rows) % 5 == 1:
                    print(f"{number + 1:22d}" + "".join(f"{value:22.1f}" for value in rows[-1]), flush=True)
        seconds = time.monotonic() - start
        group.close(LIMIT_S)
    live = memory.stats().live_buffers
    pool.close(LIMIT_S)
    io.stop()
    print(f"{options.count} restarts in {seconds:.0f} s, {lost} held calls failed, {live} buffers left")
    problems = [f"{live} buffers left"] if live else []
    if lost != options.count:
        problems.append(f"{options.count - lost} held calls did not fail")
    problems += grown(rows, list(zip(NAMES, GROWTH, strict=True)))
    print("FAILED: " + "; ".join(problems) if problems else "passed: nothing grew")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
