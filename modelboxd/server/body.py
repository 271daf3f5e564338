"""Bodies of requests: read by a handler of aiohttp within limits of size and time, and bounded over all connections."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from modelboxd.server.answer import Answer, error_answer

FULL = error_answer(
    503, "too much is being received at once, try again later", headers={"Retry-After": "1"}, close=True
)


class Bodies:
    """Counts the bytes of bodies that are coming in, which is what clients can make the server hold. [I/O thread]"""

    __slots__ = ("_limit", "held")

    def __init__(self, limit: int) -> None:
        """`limit` in bytes; 0: none."""
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Counts `size` bytes more; False when that is beyond the limit, nothing is counted then."""
        if 0 < self._limit < self.held + size:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """They have gone on, or were dropped."""
        self.held -= size


class TooLarge(Exception):
    """The body is larger than allowed."""


class Refused(Exception):
    """The request is answered with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def read_body(request: web.BaseRequest, bodies: Bodies, limit: int, limit_s: float) -> bytes | bytearray:
    """The whole body, counted by `bodies` meanwhile. Raises TooLarge beyond `limit` bytes, TimeoutError, Refused."""
    if (request.content_length or 0) > limit:
        raise TooLarge
    if not request.body_exists:
        return b""
    content = request.content
    if content.is_eof():
        body = content.read_nowait()
        if len(body) > limit:
            raise TooLarge
        return body
    tell_to_go_on(request)
    collected = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while True:
                chunk = await content.readany()
                if not chunk:
                    return collected
                if len(collected) + len(chunk) > limit:
                    raise TooLarge
                if not bodies.take(len(chunk)):
                    raise Refused(FULL)
                collected += chunk
    finally:
        bodies.give(len(collected))


def tell_to_go_on(request: web.BaseRequest) -> None:
    """Answers `Expect: 100-continue`, with which clients (curl) ask before they send a large body."""
    expect = request.headers.get("Expect")
    if expect is None or request.version < HttpVersion11:
        return
    if expect.lower() != "100-continue":
        raise Refused(error_answer(417, "Expect may only ask for 100-continue", close=True))
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
