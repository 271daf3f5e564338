"""Going into the background: a double fork whose first process waits until the server is ready, or has failed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys

EX_FAILED = 1
_starter = -1  # the pipe to the process that waits


def detach() -> None:
    """Goes on in the background, in a session of its own, with nothing open on 0, 1 and 2.

    The process that was started ends with the code that tell() gets, so that whoever started the server learns
    whether it runs. Until then sys.stderr, but no process started from here, still reaches the terminal.
    """
    global _starter
    sys.stdout.flush()
    sys.stderr.flush()
    read, _starter = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(_starter)
        os.waitpid(child, 0)
        told = os.read(read, 1)
        if not told:
            os.write(2, b"modelbox: the server was killed while it started\n")
        os._exit(told[0] if told else EX_FAILED)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(read)
    terminal = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, errors="backslashreplace")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def tell(code: int) -> None:
    """Tells the waiting process how the start went, once: 0 = ready, else the exit code."""
    global _starter
    if _starter < 0:
        return
    with contextlib.suppress(BrokenPipeError):  # it did not wait
        os.write(_starter, bytes([code]))
    os.close(_starter)
    _starter = -1
    terminal, sys.stderr = sys.stderr, sys.__stderr__
    if terminal is not sys.stderr:
        terminal.close()
