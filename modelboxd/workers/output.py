"""What a worker prints: stdout and stderr by a pipe into the log, line by line, with the last lines kept."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger("modelboxd.unit")

LINE_LIMIT = 4096
TAIL_LINES = 20


class Output:
    """The read end of one worker's output pipe. I/O thread, except for the constructor."""

    def __init__(self, name: str, io: IoThread) -> None:
        self._name = name
        job, _, rest = name.partition("/")
        self.about = {"job": job, "node": rest.rpartition("#")[0]} if rest else {}  # of a worker "JOB/NODE#N"
        self._io = io
        self._fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self._part = b""
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)

    def started(self) -> None:
        """The process holds the write end now."""
        self._close_write()
        self._io.loop.add_reader(self._fd, self._readable)

    def ended(self) -> None:
        """Reads what is left and closes."""
        self._close_write()
        if self._fd < 0:
            return
        while self._read_some():
            pass
        if self._part:
            self._line(self._part)
        self._io.loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def tail(self) -> str:
        """The last line printed."""
        return self._lines[-1] if self._lines else ""

    def unit_log(self, level: int, file: str, line: int, text: str) -> None:
        """A line from the unit's log functions."""
        if log.isEnabledFor(level):
            record = log.makeRecord(log.name, level, file, line, "%s: %s", (self._name, text), None)
            record.__dict__.update(self.about)
            log.handle(record)

    def _close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def _readable(self) -> None:
        if not self._read_some():
            self._io.loop.remove_reader(self._fd)

    def _read_some(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            return False
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._part) > LINE_LIMIT:
            self._line(self._part)
            self._part = b""
        return True

    def _line(self, line: bytes) -> None:
        text = line[:LINE_LIMIT].decode(errors="replace").rstrip()
        if text:
            self._lines.append(text)
            log.info("%s: %s", self._name, text, extra=self.about)
