"""Logs: lines to a rotated file, the screen, or the journal. One line an event."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import sys
import time
from pathlib import Path

from modelbox._core import lib
from modelbox._core.memory import set_log_sink
from modelbox.errors import ConfigError
from modelboxd.settings import LogSettings

NOTICE = 25
JOURNAL = "/run/systemd/journal/socket"
_NAMES = {"WARNING": "WARN", "CRITICAL": "FATAL", "Level 25": "NOTICE"}
_LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": NOTICE,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "OFF": logging.CRITICAL + 10,
}
_FROM_CORE = (logging.DEBUG, logging.INFO, NOTICE, logging.WARNING, logging.ERROR)


class LineFormatter(logging.Formatter):
    """`[2026-01-31 12:00:00,123][INFO ][file.py:12] message`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = text.rstrip().replace("\r", "\\r").replace("\n", "\\n")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        name = _NAMES.get(record.levelname, record.levelname)
        return f"[{stamp},{int(record.msecs):03d}][{name:<5}][{record.filename[-17:]}:{record.lineno}] {text}"


class FileHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that never takes the server down: lines that cannot be written are counted and told later."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost
        super().emit(record)
        if lost and lost == self.lost:
            self.lost = 0
            text = f"{lost} log lines before this one could not be written"
            super().emit(logging.LogRecord("modelboxd.logs", logging.WARNING, __file__, 0, text, (), None))

    def handleError(self, record: logging.LogRecord) -> None:
        self.lost += 1


class JournalHandler(logging.Handler):
    """The journal's native protocol: one datagram of fields.

    Source: systemd, "Native Journal Protocol". A field with line breaks has its size before the value.
    """

    _PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))

    def __init__(self, address: str = JOURNAL) -> None:
        super().__init__()
        self._address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        fields = {
            "MESSAGE": text[:48000],
            "PRIORITY": str(next((level for least, level in self._PRIORITY if record.levelno >= least), 7)),
            "SYSLOG_IDENTIFIER": "modelbox",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
        }
        try:
            self._sock.sendto(b"".join(_field(key, value) for key, value in fields.items()), self._address)
        except OSError:
            self.lost += 1


def _field(key: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return key.encode() + b"=" + data + b"\n"
    return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def set_up(settings: LogSettings, *, verbose: bool = False) -> None:
    """Installs the handlers; `verbose` logs to the screen whatever the settings say. Raises ConfigError."""
    logging.addLevelName(NOTICE, "NOTICE")
    handlers: list[logging.Handler] = []
    if settings.target == "file" and not verbose:
        handlers.append(_file_handler(settings))
    elif settings.target == "journal":
        if not os.path.exists(JOURNAL):
            raise ConfigError(f'log.target = "journal", but there is no journal at {JOURNAL}', hint='use "file"')
        handlers.append(JournalHandler())
    if verbose or settings.screen or settings.target == "screen":
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        if not isinstance(handler, JournalHandler):
            handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(_LEVELS[settings.level])
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    lib.mb_log_set_level(next((n for n, level in enumerate(_FROM_CORE) if level >= _LEVELS[settings.level]), 5))
    core = logging.getLogger("modelbox.native")
    set_log_sink(lambda level, text: core.log(_FROM_CORE[min(max(level, 0), 4)], "%s", text))


def _file_handler(settings: LogSettings) -> FileHandler:
    path = Path(settings.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileHandler(path, maxBytes=settings.size, backupCount=settings.num, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"log.path: {path} cannot be written: {error.strerror}",
            hint="choose another log.path, or -V for the screen",
        ) from None
