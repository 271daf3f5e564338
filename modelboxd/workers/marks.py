"""Finds what a worker has started, wherever it is now, by a mark that it has inherited.

A process that has left its worker's session and lost its parent is in no list of ours. But the kernel shows with which
environment a program was started (/proc/PID/environ), children inherit theirs, and ours has two marks: the master of a
worker (a random word) and the worker's number there. What has cleared its environment, or runs as another user, is not
found.

Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
from collections.abc import Iterator

from modelboxd.workers.title import place_of

log = logging.getLogger(__name__)

MASTER = "MODELBOX_PYTHON_MASTER"
WORKER = "MODELBOX_PYTHON_WORKER"
DIGITS = 20  # of a worker's number: forked processes show the memory in which it stands, so that it cannot grow
SWEEPS = 8  # what was forked while it was looked for is found by the next sweep
END_LIMIT_MS = 1000  # of a killed process


def for_master(word: str) -> dict[str, str]:
    """What the environment of a master has more, so that its workers can be marked."""
    # setproctitle would use the memory of the environment for titles, and the kernel would show these.
    return {MASTER: word, WORKER: "0" * DIGITS, "SPT_NOENV": "1"}


def mark_worker(number: int) -> None:
    """Marks this process, just forked from the master, and all that it will start."""
    value = f"{number:0{DIGITS}}"
    os.environ[WORKER] = value
    with contextlib.suppress(OSError):  # a sandbox may have no /proc
        start, end = place_of("env_start")  # for those that it forks and that start no program
        at = ctypes.string_at(start, end - start).find(f"{WORKER}=".encode()) if start else -1
        if at >= 0:
            ctypes.memmove(start + at + len(WORKER) + 1, value.encode(), DIGITS)


def read(pid: int, name: str) -> str:
    """A mark of a process; "" where it has none, or is gone, or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return ""
    mark = f"{name}=".encode()
    return next((word[len(mark) :].decode("ascii", "replace") for word in words if word.startswith(mark)), "")


def worker_of(pid: int) -> int:
    """The number of the worker that has started a process; 0: none has, as far as can be seen."""
    value = read(pid, WORKER)
    return int(value) if value.isdigit() else 0


def kill_all_of(word: str) -> int:
    """Kills every process of a master that is gone, and waits for their ends; how many there were."""
    killed = 0
    for _ in range(SWEEPS if word else 0):  # all others have the empty word
        fds = [fd for pid in _processes() if (fd := _kill_marked(pid, word)) >= 0]
        killed += len(fds)
        for fd in fds:
            end = select.poll()  # select() cannot wait for descriptors beyond 1023
            end.register(fd, select.POLLIN)
            end.poll(END_LIMIT_MS)
            os.close(fd)
        if not fds:
            break
    return killed


def _processes() -> Iterator[int]:
    with contextlib.suppress(OSError):  # a sandbox may have no /proc
        for name in os.listdir("/proc"):
            if name.isdigit():
                yield int(name)


def _kill_marked(pid: int, word: str) -> int:
    """Kills a process if it has this mark; a pidfd of it, -1 if it was not killed."""
    if read(pid, MASTER) != word:
        return -1
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # it is gone
        return -1
    try:
        if read(pid, MASTER) == word:  # else its number is another's by now
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return fd
    except OSError as error:  # gone, or another user's
        log.debug("process %d: %s", pid, error)
    os.close(fd)
    return -1
