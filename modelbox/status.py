"""Status: the result of calls, compatible with ModelBox's Status (numbers, names, texts, comparisons)."""

from __future__ import annotations

from enum import IntEnum


class StatusCode(IntEnum):
    """Status numbers; the same as enum mb_status of the plugin ABI."""

    STATUS_SUCCESS = 0
    STATUS_FAULT = 1
    STATUS_NOTFOUND = 2
    STATUS_INVALID = 3
    STATUS_AGAIN = 4
    STATUS_BADCONF = 5
    STATUS_NOMEM = 6
    STATUS_RANGE = 7
    STATUS_EXIST = 8
    STATUS_INTERNAL = 9
    STATUS_BUSY = 10
    STATUS_PERMIT = 11
    STATUS_NOTSUPPORT = 12
    STATUS_NODATA = 13
    STATUS_NOSPACE = 14
    STATUS_NOBUFS = 15
    STATUS_OVERFLOW = 16
    STATUS_INPROGRESS = 17
    STATUS_ALREADY = 18
    STATUS_TIMEDOUT = 19
    STATUS_NOSTREAM = 20
    STATUS_RESET = 21
    STATUS_CONTINUE = 22
    STATUS_EDQUOT = 23
    STATUS_STOP = 24
    STATUS_SHUTDOWN = 25
    STATUS_EOF = 26
    STATUS_NOENT = 27
    STATUS_DEADLOCK = 28
    STATUS_NORESPONSE = 29
    STATUS_IO = 30


TEXTS: dict[StatusCode, str] = {
    StatusCode.STATUS_SUCCESS: "Success",
    StatusCode.STATUS_FAULT: "Fault",
    StatusCode.STATUS_NOTFOUND: "Not found",
    StatusCode.STATUS_INVALID: "Invalid argument",
    StatusCode.STATUS_AGAIN: "Try again",
    StatusCode.STATUS_BADCONF: "Bad config",
    StatusCode.STATUS_NOMEM: "Out of memory",
    StatusCode.STATUS_RANGE: "Out of range",
    StatusCode.STATUS_EXIST: "Already exists",
    StatusCode.STATUS_INTERNAL: "Internal error",
    StatusCode.STATUS_BUSY: "Device or resource busy",
    StatusCode.STATUS_PERMIT: "Operation not permitted",
    StatusCode.STATUS_NOTSUPPORT: "Not supported",
    StatusCode.STATUS_NODATA: "No data available",
    StatusCode.STATUS_NOSPACE: "No space left",
    StatusCode.STATUS_NOBUFS: "No buffer space available",
    StatusCode.STATUS_OVERFLOW: "Value too large for defined data type",
    StatusCode.STATUS_INPROGRESS: "Operation now in progress",
    StatusCode.STATUS_ALREADY: "Operation already in progress",
    StatusCode.STATUS_TIMEDOUT: "Operation timed out",
    StatusCode.STATUS_NOSTREAM: "Out of streams resources",
    StatusCode.STATUS_RESET: "Request reset",
    StatusCode.STATUS_CONTINUE: "Continue operation",
    StatusCode.STATUS_EDQUOT: "Quota exceeded",
    StatusCode.STATUS_STOP: "Stop operation",
    StatusCode.STATUS_SHUTDOWN: "Shutdown operation",
    StatusCode.STATUS_EOF: "End of file",
    StatusCode.STATUS_NOENT: "No such file or directory",
    StatusCode.STATUS_DEADLOCK: "Resource deadlock",
    StatusCode.STATUS_NORESPONSE: "No response",
    StatusCode.STATUS_IO: "Input/output error",
}


_Code = StatusCode


class Status:
    """A code, an optional message, and optionally the Status that caused it.

    `Status()` is success; `Status(code)`, `Status(False)` (= FAULT), `Status(code, message)` and
    `Status(inner, message)` as in ModelBox. Raises TypeError for a message that is no str.
    """

    StatusCode = StatusCode
    __slots__ = ("_code", "_inner", "_message")
    _code: _Code
    _message: str

    def __init__(self, status: _Code | Status | bool | int = _Code.STATUS_SUCCESS, message: str = "") -> None:
        if not isinstance(message, str):
            raise TypeError(f"the message of a Status must be a str, not {type(message).__name__}")
        self._inner: Status | None = None
        if isinstance(status, Status):
            self._code = status._code
            if message:
                self._inner = status
            else:
                self._inner, message = status._inner, status._message
        elif isinstance(status, bool):
            self._code = StatusCode.STATUS_SUCCESS if status else StatusCode.STATUS_FAULT
        else:
            self._code = StatusCode(status)
        self._message = message

    def code(self) -> _Code:
        """The status number."""
        return self._code

    def str_code(self) -> str:
        """The code's text, e.g. "Not found"."""
        return TEXTS[self._code]

    def errormsg(self) -> str:
        """This status' own message."""
        return self._message

    def set_errormsg(self, message: str) -> None:
        """Replaces the own message. Raises TypeError for what is no str."""
        if not isinstance(message, str):
            raise TypeError(f"the message of a Status must be a str, not {type(message).__name__}")
        self._message = message

    def wrap_errormsgs(self) -> str:
        """The code's text and all messages from the outermost to the innermost."""
        messages = []
        status: Status | None = self
        while status is not None:
            if status._message:
                messages.append(status._message)
            status = status._inner
        return ", ".join([self.str_code(), " -> ".join(messages)]) if messages else self.str_code()

    def unwrap(self) -> Status:
        """The status that caused this one; success when there is none."""
        return self._inner if self._inner is not None else Status()

    def __bool__(self) -> bool:
        return self._code is StatusCode.STATUS_SUCCESS

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Status):
            return self._code is other._code
        if isinstance(other, bool):
            return bool(self) is other
        if isinstance(other, StatusCode):
            return self._code is other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._code)

    def __str__(self) -> str:
        return f"code: {self.str_code()}, errmsg: {self._message}"

    def __repr__(self) -> str:
        return f"Status({self._code.name}, {self._message!r})"


for _code in StatusCode:  # ModelBox's enum values are reachable from the class as well
    setattr(Status, _code.name, _code)
