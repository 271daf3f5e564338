"""Heads of requests: what aiohttp's parser says of the bytes up to the empty line, once per different head.

A head is judged alone, by a parser of its own. Only when that yields exactly one request whose length is beyond
doubt is it `plain`; everything else is left to aiohttp's connection, which answers or refuses it as ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import HttpVersion11, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

END = b"\r\n\r\n"
LINE_MAX = 16384  # bytes of the request line, and of a header
RawHeaders = tuple[tuple[bytes, bytes], ...]


class Head:
    """What a head says."""

    __slots__ = ("close", "direct", "length", "method", "path", "plain", "prepared", "raw_headers", "size", "uri")

    def __init__(self, size: int) -> None:
        self.size = size  # bytes of the head itself
        self.length = -1  # bytes of the body; -1: not told by the head, or not to be trusted
        self.plain = False  # HTTP/1.1, nothing that needs a conversation
        self.close = False  # the client wants no further request
        self.method = self.path = self.uri = ""
        self.raw_headers: RawHeaders = ()
        self.direct: Any = None  # who takes such requests, and what it made of this head
        self.prepared: Any = None


class HeadReader:
    """Judges heads. Raises TypeError or AttributeError when made, if this aiohttp's parser cannot be used so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._protocol = BaseProtocol(loop)
        probe = self.read(b"POST /probe HTTP/1.1\r\nHost: x\r\nContent-Length: 3" + END)
        if not probe.plain or probe.length != 3 or probe.path != "/probe":
            raise TypeError("the parser of this aiohttp tells something else than was expected")

    def read(self, raw: bytes) -> Head:
        """`raw` ends with the first empty line."""
        head = Head(len(raw))
        # A line that ends otherwise could make the head end earlier than where it was cut.
        if not raw.count(b"\n") == raw.count(b"\r") == raw.count(b"\r\n"):
            return head
        parser = HttpRequestParser(
            self._protocol,
            self._loop,
            1 << 16,
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
            auto_decompress=False,
        )
        try:
            messages, upgraded, _ = parser.feed_data(raw)
        except Exception:  # whatever is wrong, aiohttp's connection says it to the client
            return head
        if upgraded or len(messages) != 1:
            return head
        message, payload = messages[0]
        headers = message.headers
        if message.upgrade or message.chunked or message.method == "CONNECT" or hdrs.TRANSFER_ENCODING in headers:
            return head
        lengths = headers.getall(hdrs.CONTENT_LENGTH, ["0"])
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit() and len(lengths[0]) < 19):
            return head
        if getattr(payload, "total_bytes", 0):
            return head  # a part of these bytes is taken for the body
        head.length = int(lengths[0])
        head.method = message.method
        head.close = bool(message.should_close)
        head.raw_headers = message.raw_headers
        if message.version == HttpVersion11 and message.path.startswith("/") and hdrs.EXPECT not in headers:
            head.plain = True
            head.path, head.uri = message.url.path, message.path.partition("#")[0]
        return head
