"""What SIGQUIT writes to the log: Python and native stacks of all threads, and what waits where. Nothing is stopped."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelbox._core import lib
from modelboxd.workers.stacks import native_lines

if TYPE_CHECKING:
    from modelboxd.engine.executor import Executor
    from modelboxd.engine.job import Job

log = logging.getLogger(__name__)

LOCK_WAIT_S = 1.0


def dump(jobs: Sequence[Job], executor: Executor, worker_stacks: Callable[[], list[str]]) -> None:
    """Logs it, one line an event. From a thread of its own: a lock may be what the server hangs on."""
    log.warning("SIGQUIT: stacks and queues follow")
    for line in lines(jobs, executor, worker_stacks):
        log.warning("%s", line)


def lines(jobs: Sequence[Job], executor: Executor, worker_stacks: Callable[[], list[str]]) -> Iterator[str]:
    """All of it. `worker_stacks()` may take seconds, so that it comes last."""
    yield from python_stacks()
    yield from native_stacks()
    yield from engine_lines(jobs, executor)
    yield from worker_stacks()


def python_stacks() -> Iterator[str]:
    """A line per thread of the interpreter: name, id as in /proc, and its frames, innermost last."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue
        thread = threads.get(ident)
        name, native = (thread.name, thread.native_id) if thread else ("?", ident)
        frames = " > ".join(
            f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)
        )
        yield f"python stack of thread {native} {name}: {frames}"


def native_stacks() -> Iterator[str]:
    """A line per thread of the process: id, name, and its frames, innermost first."""
    fd = os.memfd_create("stacks", os.MFD_CLOEXEC)
    try:
        if lib.mb_stacks_dump(fd) != 0:
            yield "native stacks: a library of this process uses the signal that asks threads for them"
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, errors="backslashreplace", closefd=False) as file:
            text = file.read()
    finally:
        os.close(fd)
    yield from native_lines(text, "native stack of")


def engine_lines(jobs: Sequence[Job], executor: Executor) -> Iterator[str]:
    """What waits for a thread, and per job and step what waits there and what runs."""
    yield f"engine: {executor.queued()} calls wait for one of {executor.threads} threads, {executor.ended} are over"
    for job in jobs:
        held = job.lock.acquire(timeout=LOCK_WAIT_S)
        if not held:
            yield f"job '{job.name}': its lock is held since {LOCK_WAIT_S:g} s; what follows may be torn"
        try:
            lines = [f"job '{job.name}': {job.state.value}, {len(job.sessions)} sessions, {job.bytes} bytes wait"]
            for step in job.steps:
                waiting = ", ".join(
                    f"{step.input_ports[port]} {count}/{limit}"
                    for port, count, limit in zip(step.lanes, step.counts, step.capacity, strict=True)
                )
                state = "blocked" if step.is_blocked() else "ready" if step.ready else "idle"
                lines.append(
                    f"job '{job.name}' node '{step.name}': {state}, {step.running} running, {len(step.feeds)} streams, "
                    f"waiting: {waiting or 'no inputs'}; {step.stats.runs} runs and {step.stats.errors} errors so far"
                )
        except RuntimeError:  # a container changed under our eyes
            lines = [f"job '{job.name}': its queues change too fast to be read without its lock"]
        finally:
            if held:
                job.lock.release()
        yield from lines
