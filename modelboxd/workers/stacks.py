"""The stacks of a worker or python-master, asked for from outside: it writes them in signal handlers, whatever it does.

Each such process has a small file in memory of its own, so that it never waits for a reader. What is in it is believed
by nobody: it is text for people.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modelbox._core import lib

SIGNAL = signal.SIGQUIT
SIZE = 256 << 10  # bytes; what is more is lost
END = b"\nend of stacks\n"
LOOK_S = 0.01
F_ADD_SEALS, SEAL_SHRINK, SEAL_GROW = 1033, 2, 4  # linux/fcntl.h; the fcntl module lacks them in some builds
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


def report_to(fd: int) -> None:
    """From now on this process writes its stacks there when it gets SIGNAL: Python's first, then native ones."""
    faulthandler.register(SIGNAL, fd, all_threads=True)
    lib.mb_stacks_on_signal(SIGNAL, fd)  # calls the one before


class StackFile:
    """The file of one process, in the daemon. [any thread]"""

    def __init__(self) -> None:
        self.fd = os.memfd_create("stacks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        fcntl.fcntl(self.fd, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW)

    def clear(self) -> None:
        """Before the process is asked. The offset is shared with it."""
        used = len(self._read())
        os.pwrite(self.fd, bytes(used), 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def is_complete(self) -> bool:
        """Whether all has been written."""
        return self._read().endswith(END)

    def text(self) -> str:
        """What was written, so far."""
        return self._read().decode(errors="replace")

    def _read(self) -> bytes:
        return os.pread(self.fd, SIZE, 0).rstrip(b"\0")

    def close(self) -> None:
        """Once only."""
        os.close(self.fd)


@dataclass(frozen=True)
class Asked:
    """A process that can be asked."""

    name: str
    pid: int
    file: StackFile
    ask: Callable[[], None]  # sends SIGNAL


def collect(processes: Sequence[Asked], timeout_s: float) -> list[str]:
    """The stacks of processes, a line per thread. Takes `timeout_s` where one of them does not answer (it is
    stopped, or starts just now)."""
    for one in processes:
        with contextlib.suppress(OSError, ValueError):  # closed: it has ended meanwhile
            one.file.clear()
            one.ask()
    limit = time.monotonic() + timeout_s
    waiting = list(processes)
    while waiting and time.monotonic() < limit:
        time.sleep(LOOK_S)  # a file in memory tells nobody that it was written to
        waiting = [one for one in waiting if not _is_over(one)]
    lines: list[str] = []
    for one in processes:
        try:
            text = one.file.text()
        except OSError:
            text = ""
        lines += _lines(one, text, is_whole=one not in waiting)
    return lines


def _is_over(one: Asked) -> bool:
    try:
        return one.file.is_complete()
    except OSError:  # it has ended
        return True


def _lines(one: Asked, text: str, *, is_whole: bool) -> Iterator[str]:
    about = f"{one.name} (pid {one.pid})"
    if not is_whole:
        yield f"stacks of {about}: it did not answer in time (state {_state(one.pid)}); what follows may not be all"
    text = text.removesuffix(END.decode().lstrip())
    found_native = re.search(r"^thread \d", text, re.M)
    at = found_native.start() if found_native else len(text)
    python, native = text[:at], text[at:]
    for block in re.split(r"\n(?=Thread |Current thread )", "\n" + python):
        head, _, frames = block.strip().partition("\n")
        found = [f"{os.path.basename(m[1])}:{m[2]} {m[3]}" for m in _FRAME.finditer(frames)]
        if found:
            thread = "current thread" if head.startswith("Current") else head.partition(" (")[0].lower()
            yield f"python stack of {about} {thread}: {' > '.join(reversed(found))}"
    yield from native_lines(native, f"native stack of {about}")


def native_lines(text: str, about: str) -> Iterator[str]:
    """A line per thread of what mb_stacks_dump() wrote; frames are innermost first."""
    for block in re.split(r"^thread ", text, flags=re.M)[1:]:
        head, _, frames = block.partition(":\n")
        yield f"{about} thread {head}: {' < '.join(_short(line) for line in frames.splitlines())}"


def _short(frame: str) -> str:
    """`/usr/lib/libx.so.1(name+0x12)[0x7f..]` without folder and address."""
    return frame.rpartition("[")[0].rpartition("/")[2] or frame


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
