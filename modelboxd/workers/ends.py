"""How worker processes end, and those that units fork from them.

Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback

from modelbox import log as unit_log
from modelboxd.workers.trace import describe, users_traceback

ASKING = (signal.SIGTERM, signal.SIGINT)


def print_last_words(error: BaseException) -> None:
    """Says why this process cannot go on, where the daemon looks for it: as the last line of its output."""
    try:
        if isinstance(error, OSError) and error.errno in (errno.EBADF, errno.ENOTSOCK):
            text = "the connection to the server is closed here: the unit has closed descriptors that are not its own"
        else:
            text = "\n".join([*traceback.format_tb(error.__traceback__), describe(error)])
    except BaseException:
        text = "the unit has changed functions of Python itself, such as those of builtins, which the worker needs"
    with contextlib.suppress(OSError):  # the unit has closed it
        os.write(2, f"{text}\n".encode("utf-8", "replace"))


def end_process(code: int) -> None:
    """Ends it without the exit functions of the unit's libraries, which may wait for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # the unit has put something else there, or closed it
            stream.flush()
    os._exit(code)


def nothing(*_: object) -> None:
    """What a worker does about SIGTERM and SIGINT: the daemon decides when it ends. A handler, since programs that the
    unit starts would inherit that they are ignored."""


def ignore() -> None:
    """Has the signals that ask for an end do nothing here, and what they do by default in programs that it starts."""
    for number in ASKING:
        signal.signal(number, nothing)
        signal.siginterrupt(number, False)


def heed() -> None:
    """Undoes ignore(), where the unit has set nothing of its own."""
    for number in ASKING:
        if signal.getsignal(number) is nothing:
            signal.signal(number, signal.SIG_DFL)


def leave(error: BaseException | None) -> None:
    """Ends a process that the unit has forked and that has come back from process(), by a return or an exception."""
    code = 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        print_log(unit_log.Level.ERROR, "", 0, "\n".join([*users_traceback(error), "in a process that was forked"]))
    else:
        print_log(unit_log.Level.ERROR, "", 0, "a forked process has come back from process(): it ends (use os._exit)")
    end_process(code & 0xFF)


def print_log(level: int, file: str, line: int, text: str) -> None:
    """A line of the log functions, where there is no connection to the server."""
    with contextlib.suppress(OSError):  # the unit has closed it
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
