"""aiohttp's connection, for the requests that are lent to it (see connection.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from modelboxd.server.answer import Answer, error_answer
from modelboxd.server.head import LINE_MAX

log = logging.getLogger(__name__)

HEAD_TOO_LARGE = error_answer(
    431, f"the request line or a header is longer than {LINE_MAX} bytes, or there are too many headers", close=True
)
# aiohttp's connection says by these two that it waits for a request. Without them it keeps what it was lent.
TELLS_IDLE = {"_waiter", "_messages"} <= set(getattr(web.RequestHandler, "__slots__", ()))


class Handling(web.RequestHandler):
    """aiohttp's connection. What clients do wrong is their affair: 400 as JSON, a line for those who debug."""

    __slots__ = ("shaped",)
    shaped: Callable[[Answer], Answer]  # as the port's errors are

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 and not isinstance(exc, ConnectionError):  # before 3.9 it passes these on, too
            log.error("internal error while answering %s", request.remote, exc_info=exc)
        else:
            log.debug("no well-formed HTTP from %s: %s", request.remote, message)
        if isinstance(exc, LineTooLong) or "too many headers" in str(exc).lower():
            return self.shaped(HEAD_TOO_LARGE).response()
        text = "internal error" if status >= 500 else "the request is not well-formed HTTP"
        return self.shaped(error_answer(status, text, close=True)).response()

    def is_idle(self) -> bool:
        """Waits for a request, of which nothing or only a part of the head is there."""
        waiter = getattr(self, "_waiter", None)
        return waiter is not None and not waiter.done() and not self._messages

    def has_request(self) -> bool:
        """A head is there that was not looked at yet."""
        waiter = getattr(self, "_waiter", None)
        return bool(getattr(self, "_messages", None)) or (waiter is not None and waiter.done())
