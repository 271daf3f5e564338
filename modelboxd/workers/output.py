"""What a worker prints: stdout and stderr by a pipe into the log, line by line, with the last lines kept."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING

from modelboxd.workers import checks, trace

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger("modelboxd.unit")

LINE_LIMIT = 4096
TAIL_LINES = 40
LAST_LINES, LAST_WORDS = 3, 400  # of what a worker printed before its end: lines, characters
LAST_READS = 64  # after its end: a child of it may hold the pipe and print on


class Output:
    """The read end of one worker's output pipe. I/O thread, except for the constructor."""

    def __init__(self, name: str, io: IoThread) -> None:
        self._name = name
        job, _, rest = name.partition("/")
        self.about = (
            {"job": job, "node": rest.rpartition("#")[0], "worker": name} if rest else {}
        )  # of a worker "JOB/NODE#N"
        self._io = io
        self._fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self._part = b""
        self._pace = checks.Pace(checks.PRINTED_PER_S, checks.PRINTED_AT_ONCE)
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
        for _ in range(LAST_READS):
            if not self._read_some():
                break
        if self._part:
            self._line(self._part)
        self._io.loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def last_words(self) -> str:
        """The last lines printed, as one; of a crash that Python's fault handler describes, what and where."""
        return last_words(list(self._lines))

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
        read = self._read_some()
        pause_s = self._pace.take(read)
        if not read or pause_s:
            self._io.loop.remove_reader(self._fd)
        if pause_s:  # it prints without end, and waits at its next line
            self._io.loop.call_later(pause_s, self._listen)

    def _listen(self) -> None:
        if self._fd >= 0:
            self._io.loop.add_reader(self._fd, self._readable)

    def _read_some(self) -> int:
        """What it cost; 0 when there is nothing."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return 0
        if not data:
            return 0
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._part) > LINE_LIMIT:
            self._line(self._part)
            self._part = b""
        return len(data) + checks.LINE_COST * len(lines)

    def _line(self, line: bytes) -> None:
        text = line[:LINE_LIMIT].decode(errors="replace").rstrip()
        if text:
            self._lines.append(text)
            log.info("%s: %s", self._name, text, extra=self.about)


def last_words(lines: list[str]) -> str:
    """What the last lines that a worker printed tell of its end."""
    at = next((at for at, line in enumerate(lines) if line.startswith("Fatal Python error:")), None)
    if at is not None:
        frames = [line.strip() for line in lines[at:] if line.startswith("  File ")]
        own = [frame for frame in frames if trace.is_users(frame.removeprefix('File "'))]
        said = lines[at].removeprefix("Fatal Python error: ")
        return f"{said} ({(own or frames)[0]})"[:LAST_WORDS] if frames else said[:LAST_WORDS]
    return " | ".join(lines[-LAST_LINES:])[-LAST_WORDS:]
