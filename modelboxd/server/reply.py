"""The answer to one HTTP request, on its way from a reply unit (any thread) to the waiting handler."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox.errors import BusyError, ModelBoxError, ShutdownError, TimedOutError, WorkerLostError
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
        if self._io.is_current():
            self._set(error_response(status, message, code))
        else:
            self._io.call(lambda: self._set(error_response(status, message, code)))

    def ended(self, session: SessionView) -> None:
        """The session is over: whoever still waits learns why at once. [any thread]"""
        if self._future.done():
            return
        if session.error is None:
            self.fail(500, "NoReply", "the graph ended without a reply")
        else:
            self.fail(http_status(session.error), type(session.error).__name__, session.error.message)

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
    if isinstance(error, (BusyError, ShutdownError)):
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


def base_headers(content_type: str) -> dict[str, str]:
    """Headers of a good answer; `content_type` is a word of the list above or a full MIME type."""
    kind = CONTENT_TYPES.get(content_type, content_type if "/" in content_type else "")
    return {**SECURITY_HEADERS, "Content-Type": kind or CONTENT_TYPES["txt"]}
