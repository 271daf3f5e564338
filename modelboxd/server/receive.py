"""What the HTTP source units share: endpoint, limits, reading a request into a buffer, answering."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from modelbox import meta
from modelbox._core.memory import packed_list
from modelbox.configuration import Configuration
from modelbox.errors import BusyError, ConfigError, OutOfMemoryError, ShutdownError
from modelboxd.engine.feed import CoreList
from modelboxd.engine.unit import Entry, Services, SourceUnit
from modelboxd.graph.model import Node
from modelboxd.server.listener import Route, Tls, closing_response, error_response

log = logging.getLogger(__name__)

METHODS = frozenset({"POST", "PUT", "GET", "DELETE"})
ALLOW = {"Allow": "POST, PUT, GET, DELETE"}
HEALTH = b'{"status":200,"message":"success"}'
STRING_KIND = 2
HEADERS_LIMIT = 128 << 10  # bytes of all headers together
READ_TIMEOUT_S = 30.0  # a body that stops coming, for units without a time limit of their own


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed `endpoint` option."""

    host: str
    port: int
    prefix: str
    secure: bool
    text: str


def parse_endpoint(text: str, node: Node) -> Endpoint:
    """`http://host:port/path`. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), -1
    if parts.scheme not in ("http", "https") or not parts.hostname or (port is not None and port < 0):
        message = f"node '{node.name}': endpoint {text!r} is not of the form http://host:port/path"
        raise ConfigError(message, where=node.where)
    secure = parts.scheme == "https"
    number = port if port is not None else (443 if secure else 80)
    return Endpoint(parts.hostname, number, parts.path.rstrip("/"), secure, text)


class TooLarge(Exception):
    """The body is beyond max_body_size."""


class Refused(Exception):
    """The request is answered with `response`."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class HttpSource(SourceUnit):
    """Base of httpserver_sync_receive and httpserver_async: everything but what becomes of the session."""

    port_name = "out_request_info"

    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self.endpoint = parse_endpoint(config.get_string("endpoint"), node)
        self.max_requests = config.get_int("max_requests", 1000)
        self.max_body = config.get_int("max_body_size", 64 << 20)
        self.keepalive_s = config.get_int("keepalive_timeout_sec", 200)
        self.read_timeout_s = READ_TIMEOUT_S
        self.in_flight = 0
        self.stopping = False
        self._entry: Entry | None = None
        self._route: Route | None = None
        # What every request's meta begins with, encoded once.
        self._fixed_meta = meta.encode({"endpoint": self.endpoint.text})
        self._method_meta = {method: meta.encode_entry("method", method) for method in METHODS}

    @property
    def entry(self) -> Entry:
        assert self._entry is not None
        return self._entry

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._route is not None
        return self._route.port

    def _tls(self) -> Tls | None:
        if not self.endpoint.secure:
            return None
        cert, key = self.config.get_string("cert"), self.config.get_string("key")
        if not cert or not key:
            message = f"node '{self.node.name}': an https endpoint needs the options cert and key"
            raise ConfigError(message, where=self.node.where)
        return Tls(cert, key, self.config.get_string("passwd"))

    def start(self, entry: Entry) -> None:
        self._entry = entry
        endpoint = self.endpoint
        try:
            self._route = self.services.listeners.acquire(
                endpoint.host,
                endpoint.port,
                endpoint.prefix,
                self.handle,
                tls=self._tls(),
                keepalive_s=self.keepalive_s,
            )
        except ConfigError as error:
            message = f"node '{self.node.name}': {error.message}"
            raise ConfigError(message, where=self.node.where, hint=error.hint) from None
        log.info("node '%s' listens on %s (port %d)", self.node.name, endpoint.text, self.port)

    def stop(self) -> None:
        self.stopping = True

    def close(self) -> None:
        if self._route is not None:
            self.services.listeners.release(self._route)
            self._route = None

    # ---- one request (I/O thread) ----------------------------------------------------------------------

    def refuse(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a request that does not become a session, or None."""
        if request.method not in METHODS:
            return error_response(405, f"method {request.method} is not allowed", headers=ALLOW)
        if request.rel_url.path == self.endpoint.prefix + "/health":
            return web.Response(body=HEALTH, content_type="application/json")
        if self.stopping:
            return self.closing()
        if self.in_flight >= self.max_requests:
            return error_response(429, "too many requests", headers={"Retry-After": "1"})
        length = request.content_length
        if length is not None and length > self.max_body:
            return self.too_large()
        return None

    def closing(self) -> web.Response:
        return closing_response(error_response(503, "the service is stopping", headers={"Retry-After": "5"}))

    def busy(self, error: BusyError) -> web.Response:
        retry = str(max(1, round(error.retry_after_s)))
        return error_response(503, "the graph is full, try again later", headers={"Retry-After": retry})

    def too_large(self) -> web.Response:
        return closing_response(error_response(413, f"the body is larger than {self.max_body} bytes"))

    async def read(self, request: web.BaseRequest) -> CoreList:
        """The request as a list of one buffer. Raises TooLarge, Refused, TimeoutError, OutOfMemoryError."""
        body: bytes | bytearray = b""
        if request.body_exists:
            body = await self._read_body(request)
        block = b"".join(
            (
                self._fixed_meta,
                self._method_meta[request.method],
                meta.encode_entry("size", len(body)),
                meta.encode_entry("uri", request.path_qs),
                _headers_meta(request.raw_headers),
            )
        )
        return packed_list(self.services.pool, body, STRING_KIND, block)

    async def _read_body(self, request: web.BaseRequest) -> bytes | bytearray:
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > self.max_body:
                raise TooLarge
            return body
        _tell_to_go_on(request)
        collected = bytearray()
        async with asyncio.timeout(self.read_timeout_s):
            while True:
                chunk = await content.readany()
                if not chunk:
                    return collected
                collected += chunk
                if len(collected) > self.max_body:
                    raise TooLarge

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request from its head to its answer."""
        refusal = self.refuse(request)
        if refusal is not None:
            return refusal
        self.in_flight += 1
        try:
            return await self._serve(request)
        except TooLarge:
            return self.too_large()
        except Refused as refused:
            return refused.response
        except TimeoutError:
            return closing_response(error_response(408, "the request did not arrive in time"))
        except BusyError as error:
            return self.busy(error)
        except ShutdownError:
            return self.closing()
        except OutOfMemoryError as error:
            log.warning("node '%s': %s", self.node.name, str(error))  # not the frames, which hold the body
            return error_response(503, "no memory for the request", headers={"Retry-After": "1"})
        finally:
            self.in_flight -= 1

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError


def _tell_to_go_on(request: web.BaseRequest) -> None:
    """Answers `Expect: 100-continue`, with which clients (curl) ask before they send a large body."""
    expect = request.headers.get("Expect")
    if expect is None or request.version < HttpVersion11:
        return
    if expect.lower() != "100-continue":
        raise Refused(closing_response(error_response(417, "Expect may only ask for 100-continue")))
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


RawHeaders = tuple[tuple[bytes, bytes], ...]
_known_headers: dict[RawHeaders, bytes] = {}  # clients send the same ones again and again
KNOWN_MAX, KNOWN_SIZE = 512, 2048  # entries; bytes of one, so that nobody can fill the memory with them


def _headers_meta(raw: RawHeaders) -> bytes:
    """The encoded `headers` of a request. Raises Refused when they are too large."""
    block = _known_headers.get(raw)
    if block is None:
        values: dict[str, str] = {}
        for name_bytes, value_bytes in raw:
            name, value = name_bytes.decode("utf-8", "replace"), value_bytes.decode("utf-8", "replace")
            values[name] = f"{values[name]}, {value}" if name in values else value
        block = meta.encode_entry("headers", values)
        if len(block) > HEADERS_LIMIT:
            raise Refused(error_response(431, f"the headers are larger than {HEADERS_LIMIT} bytes"))
        if len(block) <= KNOWN_SIZE:
            if len(_known_headers) >= KNOWN_MAX:
                _known_headers.clear()
            _known_headers[raw] = block
    return block


def private_of(reply: Any) -> dict[str, Any]:
    """Session values of a request: the reply unit finds its partner under "reply"."""
    return {"reply": reply}
