"""Logs: lines to a rotated file, the screen, or the journal. One line an event."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import logging.handlers
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from modelbox.errors import ConfigError
from modelboxd import systemd
from modelboxd.settings import LogSettings

log = logging.getLogger(__name__)

NOTICE = 25
MOVED_LOOK_S = 1.0  # how often the log file is looked for under its name, at most
JOURNAL = "/run/systemd/journal/socket"
F_ADD_SEALS, ALL_SEALS = 1033, 0xF  # linux/fcntl.h; the fcntl module lacks them in some builds
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


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tab
_ESCAPES = {"\n": "\\n", "\r": "\\r"}
# What a caller may add with `extra=`, as fields of the journal.
EXTRA_FIELDS = ("job", "node", "unit", "session", "task", "worker")
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every line that this thread logs inside has these fields (of EXTRA_FIELDS); those of a line itself win."""
    before = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(before)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which could fake lines or drive a terminal."""
    return _CONTROL.sub(lambda found: _ESCAPES.get(found[0]) or f"\\x{ord(found[0]):02x}", text)


class LineFormatter(logging.Formatter):
    """`[2026-01-31 12:00:00,123][INFO ][file.py:12] message`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = one_line(text.rstrip())
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        name = _NAMES.get(record.levelname, record.levelname)
        place = f"{record.filename[-17:]}:{record.lineno}" if record.lineno else record.filename  # 0: compiled
        return f"[{stamp},{int(record.msecs):03d}][{name:<5}][{place}] {text}"


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The line's fields (of EXTRA_FIELDS): its own, else those of about()."""
    outer = _about.get()
    found = {key: getattr(record, key, None) or outer.get(key) for key in EXTRA_FIELDS}
    return {key: str(value) for key, value in found.items() if value}


class JsonFormatter(LineFormatter):
    """One JSON object a line: time (UTC), level, message, file, line, traceback where there is one, and fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": _NAMES.get(record.levelname, record.levelname),
            "message": record.getMessage().rstrip(),
            "file": record.filename,
            "line": record.lineno,
            **fields_of(record),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        # Escapes of JSON keep it one line, and harmless on a terminal.
        return json.dumps(said)


class FileHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that never takes the server down: lines that cannot be written are counted and told later."""

    lost = 0
    made_folder = False
    _looked = 0.0  # when it was last seen whether the file is still the one of that name
    _rotate_above = 0  # after a rotation that failed: the size from which it is tried again

    def emit(self, record: logging.LogRecord) -> None:
        _emit_and_tell(self, super().emit, record)

    def handleError(self, record: logging.LogRecord) -> None:
        self.lost += 1

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        if abs(record.created - self._looked) >= MOVED_LOOK_S:
            self._looked = record.created
            if self._was_moved():
                self.reopen()
        if self.stream is not None and self._rotate_above and self.stream.tell() < self._rotate_above:
            return False
        return bool(super().shouldRollover(record))

    def _was_moved(self) -> bool:
        """Whether somebody else (logrotate) gave the file another name, or removed it."""
        if self.stream is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self.stream.fileno()), os.stat(self.baseFilename))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def reopen(self) -> None:
        """Goes on in a file of the configured name; in the old one where that cannot be opened."""
        with self.lock or nullcontext():
            try:
                fresh = self._open()
            except OSError:
                return
            old, self.stream = self.stream, fresh
            if old is not None:
                with suppress(OSError):  # what a full disk did not take
                    old.close()

    def doRollover(self) -> None:
        """Rotates; with num = 0 starts over. Where that is not allowed, the file just grows on."""
        try:
            if self.backupCount == 0 and self.stream is not None:
                self.stream.truncate(0)
            else:
                super().doRollover()
            self._rotate_above = 0
        except OSError:
            if self.stream is None:
                self.stream = self._open()
            self._rotate_above = self.stream.seek(0, os.SEEK_END) + self.maxBytes

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what a full disk did not take
            self.lost += 1


def _emit_and_tell(
    handler: FileHandler | JournalHandler, emit: Callable[[logging.LogRecord], None], record: logging.LogRecord
) -> None:
    """Emits; when that works again after losses, says how many lines were lost."""
    lost = handler.lost
    emit(record)
    if lost and lost == handler.lost:
        handler.lost = 0
        text = f"{lost} log lines before this one could not be written"
        emit(logging.LogRecord("modelboxd.logs", logging.WARNING, __file__, 0, text, (), None))


class JournalHandler(logging.Handler):
    """The journal's native protocol: one datagram of fields, or a sealed memfd where that is too large.

    Source: systemd, "Native Journal Protocol". A field with line breaks has its size before the value.
    Never blocks: what a journal that is stuck does not take is counted and told later.
    """

    _PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))

    def __init__(self, address: str = JOURNAL) -> None:
        super().__init__()
        self._address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        _emit_and_tell(self, self._send, record)

    def close(self) -> None:
        self._sock.close()
        super().close()

    def _send(self, record: logging.LogRecord) -> None:
        try:
            data = self._fields(record)
            try:
                self._sock.sendto(data, self._address)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_file(data)
        except Exception:  # nothing that is logged may take the server down
            self.lost += 1

    def _send_file(self, data: bytes) -> None:
        fd = os.memfd_create("journal-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
            self._sock.sendmsg([b""], ancillary, 0, self._address)
        finally:
            os.close(fd)

    def _fields(self, record: logging.LogRecord) -> bytes:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(next((level for least, level in self._PRIORITY if record.levelno >= least), 7)),
            "SYSLOG_IDENTIFIER": "modelbox",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        fields.update((f"MODELBOX_{key.upper()}", value) for key, value in fields_of(record).items())
        return b"".join(_field(key, value) for key, value in fields.items())


def _field(key: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return key.encode() + b"=" + data + b"\n"
    return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def installed() -> bool:
    """Whether set_up() has run, so that a line that is logged goes where the settings say."""
    return any(isinstance(one, JournalHandler) or isinstance(one.formatter, LineFormatter) for one in _handlers())


def on_screen() -> bool:
    """Whether log lines are on the screen."""
    return any(type(one) is logging.StreamHandler and isinstance(one.formatter, LineFormatter) for one in _handlers())


def report(text: str, **fields: str) -> None:
    """Tells the user of an error while the server starts: in the log, and on the terminal where that is not the log."""
    if installed():
        log.error("%s", text, stacklevel=2, extra=fields)
    if not on_screen():
        print(f"modelbox: {one_line(text)}", file=sys.stderr)


def hand_over(user: int, group: int) -> None:
    """Gives the log file, and a folder that was made for it, to the user that the server becomes, for rotation."""
    for handler in _handlers():
        if isinstance(handler, FileHandler) and handler.stream is not None:
            os.fchown(handler.stream.fileno(), user, group)
            if handler.made_folder:
                os.chown(Path(handler.baseFilename).parent, user, group)


def reopen() -> None:
    """Opens the log file anew, after it was moved."""
    for handler in _handlers():
        if isinstance(handler, FileHandler):
            handler.reopen()


def _target(settings: LogSettings) -> str:
    """log.target, with "auto" decided."""
    if settings.target != "auto":
        return settings.target
    journal = systemd.is_supervised() and os.path.exists(JOURNAL) and settings.path == LogSettings().path
    return "journal" if journal else "file"


def _handlers() -> list[logging.Handler]:
    return logging.getLogger().handlers


def set_level(name: str) -> None:
    """The least level that is logged from now on, one of settings.LEVELS; native code and units heed it too."""
    from modelbox._core import lib

    logging.getLogger().setLevel(_LEVELS[name])
    lib.mb_log_set_level(next((n for n, level in enumerate(_FROM_CORE) if level >= _LEVELS[name]), 5))


def level() -> str:
    """The level of now, as set_level() takes it."""
    current = logging.getLogger().level
    return next((name for name, number in _LEVELS.items() if number >= current), "OFF")


def set_up(settings: LogSettings, *, verbose: bool = False, background: bool = False) -> None:
    """Installs the handlers; `verbose` logs to the screen whatever the settings say, `background` never.

    Raises ConfigError.
    """
    from modelbox._core.memory import set_log_sink

    logging.addLevelName(NOTICE, "NOTICE")
    handlers: list[logging.Handler] = []
    target = _target(settings)
    if target == "file" and not verbose:
        handlers.append(_file_handler(settings))
    elif target == "journal":
        if not os.path.exists(JOURNAL):
            raise ConfigError(f'log.target = "journal", but there is no journal at {JOURNAL}', hint='use "file"')
        handlers.append(JournalHandler())
    if background and target == "screen":
        raise ConfigError('log.target = "screen" needs a server in the foreground', hint="-f or -V")
    if (verbose or settings.screen or target == "screen") and not background:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        if not isinstance(handler, JournalHandler):
            handler.setFormatter(JsonFormatter() if settings.format == "json" else LineFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    set_level(settings.level)
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    core = logging.getLogger("modelbox.native")
    set_log_sink(lambda level, text: core.log(_FROM_CORE[min(max(level, 0), 4)], "%s", text))


def _file_handler(settings: LogSettings) -> FileHandler:
    path = Path(settings.path)
    try:
        made_folder = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = FileHandler(
            path, maxBytes=settings.size, backupCount=settings.num, encoding="utf-8", errors="backslashreplace"
        )
        handler.made_folder = made_folder
        return handler
    except OSError as error:
        raise ConfigError(
            f"log.path: {path} cannot be written: {error.strerror}",
            hint="choose another log.path, or -V for the screen",
        ) from None
