"""The exceptions of modelbox: one base class, one status code each, one sentence as the message.

A message names the thing, the value found and the value expected, and where (file, line, node, port), so
that its reader can act on it without a traceback. The status numbers are those of the plugin ABI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelbox.status import StatusCode


@dataclass(frozen=True)
class Where:
    """A place in a file that a user wrote; line and column count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        text = self.file
        if self.line:
            text += f":{self.line}"
            if self.column:
                text += f":{self.column}"
        return text


def said(error: BaseException) -> str:
    """Class and text of an exception, also of one whose text raises."""
    name = type(error).__name__
    try:
        return f"{name}: {error}".rstrip(": ")
    except BaseException as another:  # code of a unit
        return f"{name} (its text cannot be told: {type(another).__name__})"


class ModelBoxError(Exception):
    """Base of every error that modelbox raises on purpose. `str(error)` is one line for the user."""

    code: StatusCode = StatusCode.STATUS_FAULT

    def __init__(self, message: str, *, where: Where | None = None, hint: str = "", node: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.node = node  # the node of the graph that it is about, for logs; "" = none, or several

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(ModelBoxError, ValueError):
    """A configuration file, an option of a node or a command line is wrong."""

    code = StatusCode.STATUS_BADCONF


class GraphError(ModelBoxError, ValueError):
    """A graph cannot be built. `problems` holds every complaint, in file order; the message is the first. `warnings`
    may tell how it came to them: a key that is misspelt, a library that cannot be used."""

    code = StatusCode.STATUS_BADCONF

    def __init__(
        self,
        message: str,
        *,
        where: Where | None = None,
        hint: str = "",
        node: str = "",
        problems: tuple[ModelBoxError, ...] = (),
        warnings: tuple[ModelBoxError, ...] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint, node=node)
        self.problems: tuple[ModelBoxError, ...] = problems or (self,)
        self.warnings = warnings

    @classmethod
    def of(cls, problems: Sequence[ModelBoxError], warnings: Sequence[ModelBoxError] = ()) -> GraphError:
        """One error for all of `problems` (at least one), which reads as the first."""
        first = problems[0]
        return cls(
            first.message,
            where=first.where,
            hint=first.hint,
            node=first.node,
            problems=tuple(problems),
            warnings=tuple(warnings),
        )


class UnitNotFoundError(GraphError, LookupError):
    """No flow unit of this name, device and version."""

    code = StatusCode.STATUS_NOTFOUND


class DriverError(ModelBoxError):
    """A driver (library or unit TOML) cannot be used."""

    code = StatusCode.STATUS_INVALID


class UnitError(ModelBoxError):
    """A flow unit failed in open() or process(); the message names node and unit."""

    code = StatusCode.STATUS_FAULT


class WorkerLostError(UnitError):
    """The process that ran a Python unit died or was killed while it held work."""

    code = StatusCode.STATUS_RESET


class TimedOutError(ModelBoxError, TimeoutError):
    """A time limit passed."""

    code = StatusCode.STATUS_TIMEDOUT


class BusyError(ModelBoxError):
    """No room now; trying again later is right. `retry_after_s` says when, 0 = unknown."""

    code = StatusCode.STATUS_BUSY
    retry_after_s: float = 0.0


class ShutdownError(ModelBoxError):
    """The job or the server is stopping."""

    code = StatusCode.STATUS_SHUTDOWN


class OutOfMemoryError(ModelBoxError, MemoryError):
    """A limit on buffer memory was reached."""

    code = StatusCode.STATUS_NOMEM


class InternalError(ModelBoxError):
    """A bug of modelbox; worth a report."""

    code = StatusCode.STATUS_INTERNAL
