"""What native code in the daemon prints (libpng and others cannot be told not to) becomes log lines.

Descriptors 1 and 2 lead into a pipe that the I/O thread reads. Log lines for the screen, and Python's and the
core's words about a crash, go to the descriptor that was 2 before.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import sys
from typing import TextIO

from modelbox._core import lib
from modelboxd.loop import IoThread
from modelboxd.workers.output import Output


class _Printed(Output):
    """The pipe of this process's own descriptors, not of a worker's."""

    def __init__(self, io: IoThread) -> None:
        super().__init__("native code", io)
        # A printer is never made to wait: the thread that empties the pipe may be the one that prints.
        os.set_blocking(self.write_fd, False)
        self.read_fd = self._fd


class NativeOutput:
    """From construction to close(), descriptors 1 and 2 of this process end in the log."""

    def __init__(self, io: IoThread) -> None:
        self._io = io
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._before = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (1, 2)]
        self._output = _Printed(io)
        self._stderr = sys.stderr
        self._screen: TextIO | None = None
        if sys.stderr is sys.__stderr__:  # not the terminal of a start in the background
            self._screen = os.fdopen(self._before[1], "w", buffering=1, errors="backslashreplace", closefd=False)
            self._show_on(self._screen)
        for fd in (1, 2):
            os.dup2(self._output.write_fd, fd)
        faulthandler.disable()
        # Below faulthandler's, so that it runs after it: what was printed last is not lost in the pipe.
        lib.mb_save_last_words(self._output.read_fd, self._before[1])
        faulthandler.enable(self._before[1])
        io.call(self._output.started)

    def close(self) -> None:
        """What was printed last is logged, and the descriptors are as before."""
        faulthandler.disable()
        lib.mb_save_last_words(-1, -1)
        for fd, before in zip((1, 2), self._before, strict=True):
            os.dup2(before, fd)
        faulthandler.enable()

        async def end() -> None:
            self._output.ended()

        self._io.run(end())
        if self._screen is not None:
            self._show_on(self._stderr)
            self._screen.close()
        for before in self._before:
            os.close(before)

    @staticmethod
    def _show_on(stream: TextIO) -> None:
        sys.stderr = stream
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(stream)
