"""The answer to one HTTP request, on its way from a reply unit (any thread) to whoever sends it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Protocol

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
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers, Sink, error_answer

if TYPE_CHECKING:
    from modelboxd.engine.unit import SessionView
    from modelboxd.loop import IoThread


class Owner(Protocol):
    """The unit that took the request."""

    def finished(self, reply: Reply) -> None:
        """The request has its answer, or nobody waits for one. [I/O thread]"""


class Reply:
    """One answer; the first one counts."""

    __slots__ = ("_io", "_owner", "_sink", "deadline", "done", "session")

    def __init__(self, io: IoThread, owner: Owner, sink: Sink) -> None:
        self._io = io
        self._owner = owner
        self._sink: Sink | None = sink
        self.session: SessionView | None = None  # from when there is one
        self.deadline = 0.0  # of the loop's clock; the owner's to keep
        self.done = False

    def answer(self, status: int, headers: Headers, body: Any, close: bool = False) -> None:
        """The answer; `body` is bytes, or their buffer form, then good for this call only. [any thread]"""
        if self._io.is_current():
            self._put(status, headers, body, close)
        else:
            self._io.call(self._put, status, headers, bytes(body), close)

    def give(self, answer: Answer) -> None:
        """The same. [any thread]"""
        self.answer(*answer)

    def fail(self, status: int, code: str, message: str) -> None:
        """A JSON error. [any thread]"""
        self.give(failure(status, code, message))

    def ended(self, session: SessionView) -> None:
        """The session is over: whoever still waits learns why at once. [any thread]"""
        if self.done:
            return
        error = session.error
        if error is None:
            answer = failure(500, "NoReply", "the graph ended without a reply")
        else:
            # What a bug of ours says is for the log, where it stands already.
            message = "internal error" if isinstance(error, InternalError) else error.message
            answer = failure(http_status(error), type(error).__name__, message)
        # Not at once on the I/O thread either: an answer that another thread has given may be on its way there.
        self._io.call(self._put, *answer)

    def abort(self, answer: Answer, reason: ModelBoxError) -> None:
        """The answer, and the end of the work for it. [I/O thread]"""
        session = self.session
        self.give(answer)
        if session is not None:
            session.cancel(reason)

    def gone(self) -> None:
        """Nobody waits any more: without an answer yet the work ends. [I/O thread]"""
        if self.done:
            return
        session = self.session
        self._finish()
        if session is not None:
            session.cancel(ShutdownError("nobody waits for the answer any more"))

    def _put(self, status: int, headers: Headers, body: Any, close: bool) -> None:
        if not self.done:
            sink = self._sink
            self._finish()
            assert sink is not None
            sink.put(status, headers, body, close)

    def _finish(self) -> None:
        self.done = True
        self.session = self._sink = None  # they know this one
        self._owner.finished(self)


def failure(status: int, code: str, message: str) -> Answer:
    """A JSON error; one of a server that is full says when to come again."""
    return error_answer(status, message, code, {"Retry-After": "1"} if status == 503 else None)


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


def base_headers(content_type: str) -> Headers:
    """Headers of a good answer; `content_type` is a word of the list above or a full MIME type.

    Raises ConfigError.
    """
    kind = CONTENT_TYPES.get(content_type.lower(), content_type)
    if not _MIME.fullmatch(kind):
        near = difflib.get_close_matches(content_type, CONTENT_TYPES, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"{', '.join(CONTENT_TYPES)}, or such as image/webp"
        raise ConfigError(f"content_type {content_type!r} is neither a known word nor a MIME type", hint=hint)
    return Headers({**SECURITY_HEADERS, "Content-Type": kind})
