"""How a node's workers are, as data for people and programs; and what /proc says about a process."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

FIRST_THREADS = 16  # thousands may follow
TICKS = os.sysconf("SC_CLK_TCK")


class WorkerState(StrEnum):
    STARTING = "starting"  # no process yet
    OPENING = "opening"  # imports and opens its unit
    READY = "ready"  # waits for work
    BUSY = "busy"
    STUCK = "stuck"  # stopped, silent, or killed and not gone yet
    RECYCLING = "recycling"  # finishes what it has; its successor has taken its place
    BACKING_OFF = "backing off"  # ended; a new one will be started
    BREAKER_OPEN = "breaker open"  # ended; none is started, see GroupStatus.retry_in_s
    ENDED = "ended"  # and not replaced: restart


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process, or the place of one."""

    number: int
    state: WorkerState
    pid: int = 0  # 0: no process
    restarts: int = 0  # of this place
    calls: int = 0  # answered by this process
    outstanding: int = 0  # calls sent to it and not answered
    streams: int = 0  # pinned to it
    busy_s: float = 0.0  # on the message that it works on
    where: str = ""  # the line of the unit that it was last seen at, where a call takes long
    memory_bytes: int = 0  # as memory_limit_mb counts it
    last_cause: str = ""  # why the one before it ended


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """The workers of one node."""

    node: str
    unit: str
    state: str  # "starting", "ready", "degraded": not all can work, "down": none can, "stopped"
    breaker: str  # "closed", "open", "half-open"
    restarts: int
    recycled: int
    crashes: int  # in a row
    retry_in_s: float  # breaker open: until the next trial
    last_cause: str
    workers: tuple[WorkerStatus, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        made = asdict(self)
        for worker in made["workers"]:
            worker["state"] = worker["state"].value
        return made


# ---- /proc ---------------------------------------------------------------------------------------------------------


def process_state(pid: int) -> tuple[str, float]:
    """The state letter of a process and the CPU seconds it has used; ("", 0.0) when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / TICKS


def thread_of(pid: int, name: str) -> int:
    """The thread of this name among the first that a process has started; 0: there is none."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as tasks:  # it has ended
        for task in itertools.islice(tasks, FIRST_THREADS):
            if Path(task.path, "comm").read_text().rstrip("\n") == name:
                return int(task.name)
    return 0


def waits_of(pid: int, threads: Iterable[int]) -> dict[int, float]:
    """Seconds that threads of a process were ready to run and had no CPU, so far; without those of which the kernel
    does not tell."""
    waits: dict[int, float] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel does not count
        for thread in threads:
            waits[thread] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    return waits


def memory_of(pid: int) -> int:
    """Bytes of memory that are the process' own: private pages and files, swapped ones too, but no shared memory, which
    is mostly buffers of the daemon. 0 when there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = {"RssAnon:": 0, "RssFile:": 0, "VmSwap:": 0}
    for line in lines:
        words = line.split()
        if words[0] in kilobytes:
            kilobytes[words[0]] = int(words[1])
    return sum(kilobytes.values()) << 10


def evidence(pid: int, cpu_before: float, seconds: float) -> str:
    """What a silent process seems to do, `seconds` after it had used `cpu_before`."""
    state, cpu = process_state(pid)
    if state in ("T", "t"):
        return "it is stopped" + (" by a debugger" if state == "t" else " by a signal")
    share = (cpu - cpu_before) / seconds if seconds > 0 else 0.0
    if share >= 0.5:
        return f"C code computes and keeps the interpreter locked ({share:.0%} of a CPU)"
    if state == "D":
        return "it waits for a device or file system"
    return "C code waits and keeps the interpreter locked" if state else "it is gone"


def how_it_ended(code: int, number: int) -> str:
    """The end of a process in words."""
    if not number:
        return f"ended with exit code {code}"
    known = number in {item.value for item in signal.Signals}
    return f"was killed by {signal.Signals(number).name}" if known else f"was killed by signal {number}"
