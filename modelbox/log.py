"""Log functions for units: debug, info, notice, warn, error, fatal.

Arguments are joined with ", ". In a worker process the lines travel to the daemon's log; elsewhere they go to
Python's logging under the name "modelbox.unit".
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from enum import IntEnum


class Level(IntEnum):
    """ModelBox's levels."""

    DEBUG = 0
    INFO = 1
    NOTICE = 2
    WARN = 3
    ERROR = 4
    FATAL = 5
    OFF = 6


_PYTHON = (logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL)
_logger = logging.getLogger("modelbox.unit")


def _to_logging(level: int, file: str, line: int, message: str) -> None:
    if _logger.isEnabledFor(_PYTHON[level]):
        record = _logger.makeRecord(_logger.name, _PYTHON[level], file, line, message, (), None)
        _logger.handle(record)


_sink: Callable[[int, str, int, str], None] = _to_logging
_level = Level.DEBUG


def set_sink(sink: Callable[[int, str, int, str], None]) -> None:
    """Sends lines to `sink(level, file, line, message)`."""
    global _sink
    _sink = sink


def set_log_level(level: Level | int) -> None:
    """Lines below `level` are dropped."""
    global _level
    _level = Level(level)


def _emit(level: Level, arguments: tuple[object, ...]) -> None:
    if level < _level:
        return
    frame = sys._getframe(2)
    _sink(level, frame.f_code.co_filename, frame.f_lineno, ", ".join(str(argument) for argument in arguments))


def debug(*arguments: object) -> None:
    _emit(Level.DEBUG, arguments)


def info(*arguments: object) -> None:
    _emit(Level.INFO, arguments)


def notice(*arguments: object) -> None:
    _emit(Level.NOTICE, arguments)


def warn(*arguments: object) -> None:
    _emit(Level.WARN, arguments)


def error(*arguments: object) -> None:
    _emit(Level.ERROR, arguments)


def fatal(*arguments: object) -> None:
    _emit(Level.FATAL, arguments)


class Log:
    """Holder of the level names, as in ModelBox (`modelbox.Log.Level.INFO`)."""

    Level = Level
