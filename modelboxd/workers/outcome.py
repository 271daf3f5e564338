"""What a unit's function has returned, as a result of a call.

Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

from typing import Any

from modelbox.status import Status, StatusCode
from modelboxd.workers import protocol

CONTINUE = StatusCode.STATUS_CONTINUE
SUCCESS = StatusCode.STATUS_SUCCESS
STOPPING = (StatusCode.STATUS_STOP, StatusCode.STATUS_SHUTDOWN)  # a unit wants its job to stop


class CallFailed(Exception):
    """One call of the unit failed; the text is for the user. `flags`: result flags."""

    def __init__(self, status: int, text: str, flags: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.flags = flags


def failure_of(result: Any, function: str = "process") -> CallFailed | None:
    """What a function returned, when that means a failure. Raises CallFailed for what is no status."""
    status = to_status(result, f"{function}()")
    if status.code() in (SUCCESS, CONTINUE):
        return None
    flags = protocol.STOPS if status.code() in STOPPING else 0
    return CallFailed(status.code(), status.errormsg() or returned(function, status), flags)


def returned(function: str, status: Status) -> str:
    """A status that a function has returned, in words."""
    text = f"{function}() returned {status.str_code()}"
    return f"{text}: {status.errormsg()}" if status.errormsg() else text


def to_status(result: Any, what: str) -> Status:
    """What a unit's function returned, as Status. Raises CallFailed for anything else."""
    if isinstance(result, Status):
        return result
    if isinstance(result, StatusCode):
        return Status(result)
    if isinstance(result, bool):
        return Status(result)
    raise CallFailed(
        StatusCode.STATUS_INVALID,
        f"{what} returned {type(result).__name__}, expected Status or StatusCode (is a return missing?)",
        protocol.RULE,
    )
