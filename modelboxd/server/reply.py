"""The answer to one HTTP request, on its way from a reply unit (any thread) to the waiting handler."""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox.errors import (
    BusyError,
    ConfigError,
    InternalError,
    ModelBoxError,
    OutOfMemoryError,
    ShutdownError,
    TimedOutError,
    WorkerLostError,
)
from modelboxd.server.listener import SECURITY_HEADERS, error_response

if TYPE_CHECKING:
    from modelboxd.engine.unit import SessionView
    from modelboxd.loop import IoThread

Answer = tuple[int, dict[str, str], bytes]


class Reply:
    """One answer; the first one counts."""

    __slots__ = ("_future", "_io")

    def __init__(self, io: IoThread) -> None:
        self._io = io
        self._future: asyncio.Future[web.Response] = io.loop.create_future()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """A reply unit's answer. [any thread]"""
        if self._io.is_current():
            self._set(web.Response(status=status, headers=headers, body=body))
        else:
            self._io.call(lambda: self._set(web.Response(status=status, headers=headers, body=body)))

    def fail(self, status: int, code: str, message: str) -> None:
        """A JSON error. [any thread]"""
        headers = {"Retry-After": "1"} if status == 503 else None
        if self._io.is_current():
            self._set(error_response(status, message, code, headers))
        else:
            self._io.call(lambda: self._set(error_response(status, message, code, headers)))

    def ended(self, session: SessionView) -> None:
        """The session is over: whoever still waits learns why at once. [any thread]"""
        if self._future.done():
            return
        if session.error is None:
            self.fail(500, "NoReply", "the graph ended without a reply")
        else:
            error = session.error
            # What a bug of ours says is for the log, where it stands already.
            message = "internal error" if isinstance(error, InternalError) else error.message
            self.fail(http_status(error), type(error).__name__, message)

    def time_out(self, limit_ms: int) -> bool:
        """408; False when there is an answer already. [I/O thread]"""
        if self._future.done():
            return False
        self._set(error_response(408, f"no reply within {limit_ms} ms"))
        return True

    def _set(self, response: web.Response) -> None:
        if not self._future.done():
            self._future.set_result(response)

    def __await__(self) -> Any:
        return self._future.__await__()


def http_status(error: ModelBoxError) -> int:
    """The HTTP status of a session's error."""
    if isinstance(error, TimedOutError):
        return 504
    if isinstance(error, (BusyError, OutOfMemoryError, ShutdownError)):
        return 503
    if isinstance(error, WorkerLostError):
        return 502
    return 500


CONTENT_TYPES = {
    "txt": "text/plain; charset=utf-8",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "ico": "image/x-icon",
    "xml": "application/xml",
    "mpeg": "video/mpeg",
    "mp3": "audio/mpeg",
}


_MIME = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(;[\x20-\x7e]*)?", re.ASCII)


def base_headers(content_type: str) -> dict[str, str]:
    """Headers of a good answer; `content_type` is a word of the list above or a full MIME type.

    Raises ConfigError.
    """
    kind = CONTENT_TYPES.get(content_type.lower(), content_type)
    if not _MIME.fullmatch(kind):
        near = difflib.get_close_matches(content_type, CONTENT_TYPES, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"{', '.join(CONTENT_TYPES)}, or such as image/webp"
        raise ConfigError(f"content_type {content_type!r} is neither a known word nor a MIME type", hint=hint)
    return {**SECURITY_HEADERS, "Content-Type": kind}
