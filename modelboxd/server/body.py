"""Reading the body of a request by a handler of aiohttp, within limits of size and time."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from modelboxd.server.answer import Answer, error_answer


class TooLarge(Exception):
    """The body is larger than allowed."""


class Refused(Exception):
    """The request is answered with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def read_body(request: web.BaseRequest, limit: int, limit_s: float) -> bytes | bytearray:
    """The whole body. Raises TooLarge beyond `limit` bytes, TimeoutError, Refused."""
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
    async with asyncio.timeout(limit_s):
        while True:
            chunk = await content.readany()
            if not chunk:
                return collected
            collected += chunk
            if len(collected) > limit:
                raise TooLarge


def tell_to_go_on(request: web.BaseRequest) -> None:
    """Answers `Expect: 100-continue`, with which clients (curl) ask before they send a large body."""
    expect = request.headers.get("Expect")
    if expect is None or request.version < HttpVersion11:
        return
    if expect.lower() != "100-continue":
        raise Refused(error_answer(417, "Expect may only ask for 100-continue", close=True))
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
