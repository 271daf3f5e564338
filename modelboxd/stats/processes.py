"""The processes of the service, as the kernel counts them."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass

import psutil

_TITLE = re.compile(r"modelbox: (?P<role>python-master|python-worker)(?: (?P<job>[^/]+)/(?P<node>.+)#(?P<number>\d+))?")
SOON_S = 0.5  # two readings that are closer do not say how busy a process is


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process at one moment."""

    pid: int
    role: str  # "daemon", "python-master", "python-worker", or "other": what a unit has started
    name: str
    job: str
    node: str
    cpu_seconds: float  # user and system, since its start
    cpu_percent: float  # of one CPU, since the reading before; at first since its start
    rss: int  # bytes; what top calls RES
    shared: int  # bytes of it that others have too: files and shared memory; what top calls SHR
    shmem: int  # bytes of that which are shared memory, such as buffers
    threads: int
    descriptors: int
    started: float  # seconds since 1970


class Processes:
    """The daemon and all that comes from it. [any thread]"""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: dict[tuple[int, float], tuple[float, float, float]] = {}  # when, CPU seconds, percent

    def read(self) -> list[ProcessView]:
        """The daemon first. Processes that end meanwhile are left out."""
        own = psutil.Process()
        with self._lock:
            views = [view for process in (own, *own.children(recursive=True)) if (view := self._view(process))]
            there = {(view.pid, view.started) for view in views}
            self._before = {key: value for key, value in self._before.items() if key in there}
        return views

    def _view(self, process: psutil.Process) -> ProcessView | None:
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                times = process.cpu_times()
                cpu = times.user + times.system
                memory = process.memory_info()
                role, name, job, node = _names(process)
                started = process.create_time()
                return ProcessView(
                    process.pid, role, name, job, node, round(cpu, 2), self._percent(process.pid, started, cpu),
                    memory.rss, memory.shared, _shmem(process.pid), process.num_threads(), process.num_fds(), started,
                )  # fmt: skip
        except (psutil.Error, OSError):
            return None  # it has ended, or has become somebody else's

    def _percent(self, pid: int, started: float, cpu: float) -> float:
        now = time.time()
        when, spent, percent = self._before.get((pid, started), (started, 0.0, 0.0))
        if now - when >= SOON_S:
            percent = round(100 * (cpu - spent) / (now - when), 1)
            self._before[pid, started] = now, cpu, percent
        return percent


def _names(process: psutil.Process) -> tuple[str, str, str, str]:
    """Role, name, job and node."""
    if process.pid == os.getpid():
        return "daemon", "modelbox", "", ""
    title = " ".join(process.cmdline())
    match = _TITLE.match(title)
    if match is None:
        return "other", process.name(), "", ""
    name = f"{match['job']}/{match['node']}#{match['number']}" if match["job"] else match["role"]
    return match["role"], name, match["job"] or "", match["node"] or ""


def _shmem(pid: int) -> int:
    """Bytes of shared memory in a process' resident set."""
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"RssShmem:"):
                return int(line.split()[1]) * 1024
    return 0
