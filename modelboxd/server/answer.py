"""Answers: their header fields as the bytes that are sent, and the JSON form of errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from aiohttp import web

SECURITY_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}
SERVER = "modelbox"  # no versions: they tell attackers what to try
FORBIDDEN = frozenset({"content-length", "transfer-encoding", "connection"})  # ours to say
_EMPTY = frozenset({204, 304})  # never have a body
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _Clock:
    """The `Date` of this second and the `Server`, as every answer has them. [I/O thread]"""

    __slots__ = ("_fields", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._fields = b""

    def fields(self) -> bytes:
        """Both lines, each begun by the line end of the one before."""
        second = int(time.time())
        if second != self._second:
            now = time.gmtime(second)
            clock = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
            date = f"{_DAYS[now.tm_wday]}, {now.tm_mday:02} {_MONTHS[now.tm_mon - 1]} {now.tm_year} {clock} GMT"
            self._fields = f"\r\nDate: {date}\r\nServer: {SERVER}".encode()
            self._second = second
        return self._fields


_clock = _Clock()


class Headers:
    """Header fields of answers, checked and put into bytes once for many answers."""

    __slots__ = ("_heads", "_lines", "_own", "fields")

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Raises ValueError for what would break out of its line, or says how long the answer is."""
        names = {name.lower() for name in fields}
        if names & FORBIDDEN:
            raise ValueError(f"header {min(names & FORBIDDEN)} cannot be chosen")
        if "content-type" not in names:
            fields = {**fields, "Content-Type": "application/octet-stream"}
        for name, value in fields.items():
            if any(end in name or end in value for end in "\r\n\0"):
                raise ValueError(f"header {name!r} would break out of its line")
        self.fields = dict(fields)
        self._lines = "".join(f"\r\n{name}: {value}" for name, value in fields.items()).encode()
        self._own = names & {"date", "server"}  # given: then they are not added
        self._heads: dict[int, bytes] = {}  # by status

    def message(self, status: int, body: Any, close: bool = False) -> bytes:
        """The whole answer for HTTP/1.1; `body` is bytes or has their buffer form, of one dimension. [I/O thread]"""
        head = self._heads.get(status) or self._head(status)
        fields = _clock.fields() if not self._own else self._fields()
        end = b"\r\nConnection: close\r\n\r\n" if close else b"\r\n\r\n"
        if status in _EMPTY:
            return b"".join((head, fields, end))
        return b"".join((head, b"%d" % len(body), fields, end, body))

    def _head(self, status: int) -> bytes:
        head = f"HTTP/1.1 {status} {_REASONS.get(status, '')}".encode() + self._lines
        if status not in _EMPTY:
            head += b"\r\nContent-Length: "
        self._heads[status] = head
        return head

    def _fields(self) -> bytes:
        lines = _clock.fields().split(b"\r\n")[1:]
        return b"".join(b"\r\n" + line for line in lines if line.partition(b":")[0].lower().decode() not in self._own)


class Answer(NamedTuple):
    """What is said to one request."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False  # the connection ends after it

    def response(self) -> web.Response:
        """The same for a handler of aiohttp."""
        response = web.Response(status=self.status, headers=self.headers.fields, body=self.body)
        response.headers.setdefault("Server", SERVER)
        if self.close:
            response.headers["Connection"] = "close"
            response.force_close()
        return response


class Sink(Protocol):
    """Whoever sends the answer to one request."""

    def put(self, status: int, headers: Headers, body: Any, close: bool) -> None:
        """Called at most once per request; `body` (bytes or their buffer form) is good for this call. [I/O thread]"""


JSON = "application/json; charset=utf-8"
_json = Headers({**SECURITY_HEADERS, "Content-Type": JSON})


def json_answer(status: int, value: Any, headers: dict[str, str] | None = None, *, close: bool = False) -> Answer:
    """A value as JSON."""
    fields = Headers({**SECURITY_HEADERS, **headers, "Content-Type": JSON}) if headers else _json
    return Answer(status, fields, json.dumps(value).encode(), close)


def error_answer(
    status: int, message: str, code: str = "", headers: dict[str, str] | None = None, *, close: bool = False
) -> Answer:
    """An error as JSON: {"error_code", "error_msg"}."""
    return json_answer(status, {"error_code": code or f"HTTP_{status}", "error_msg": message}, headers, close=close)
