"""Names of processes for ps, top, gdb and py-spy: the whole title, and 15 characters of it for the kernel."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib.util import find_spec

ROOM = "." * 120  # an argument of the master that is there for its room: titles are written there
HAS_SETPROCTITLE = find_spec("setproctitle") is not None


def set_title(title: str, name: str) -> None:
    """Shows `title` as this process' command line, `name` as its main thread's."""
    if HAS_SETPROCTITLE:
        import setproctitle

        setproctitle.setproctitle(title)
    else:
        _write_over_arguments(title)
    with suppress(OSError), open("/proc/self/comm", "wb") as file:  # a sandbox may have no /proc
        file.write(name.encode("utf-8", "replace")[:15])


def place_of(name: str) -> tuple[int, int]:
    """Where a part of this process' first memory begins and ends: "arg_start" or "env_start", as proc(5) names them in
    /proc/PID/stat. Raises OSError."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # of all fields, from the third on
    first = {"arg_start": 48, "env_start": 50}[name] - 3
    return int(fields[first]), int(fields[first + 1])


def _write_over_arguments(title: str) -> None:
    """What ps shows is the memory of the arguments (proc(5), arg_start): they are written over."""
    with suppress(OSError):
        start, end = place_of("arg_start")
        size = end - start
        if size > 1:
            ctypes.memmove(start, title.encode("utf-8", "replace")[: size - 1].ljust(size, b"\0"), size)
