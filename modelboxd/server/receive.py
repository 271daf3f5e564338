"""What the HTTP source units share: endpoint, limits, reading a request into a buffer, answering."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from modelbox import meta
from modelbox._core.memory import packed_list
from modelbox.configuration import Configuration
from modelbox.errors import BusyError, ConfigError, InternalError, OutOfMemoryError, ShutdownError
from modelboxd.engine.feed import CoreList
from modelboxd.engine.unit import Entry, Services, SourceUnit
from modelboxd.graph.model import Node
from modelboxd.server.answer import Answer, Headers, error_answer
from modelboxd.server.body import Refused, TooLarge, read_body
from modelboxd.server.connection import STOPPING
from modelboxd.server.head import Head, RawHeaders
from modelboxd.server.listener import Route, Tls
from modelboxd.server.reply import Reply

log = logging.getLogger(__name__)

METHODS = frozenset({"POST", "PUT", "GET", "DELETE"})
ALLOW = {"Allow": "POST, PUT, GET, DELETE"}
HEALTH_HEADERS = Headers({"Content-Type": "application/json"})
HEALTHY = Answer(200, HEALTH_HEADERS, b'{"status":200,"message":"success"}')
TROUBLE_S = 0.25  # how long a trouble is told again without another look, which asks the kernel about processes
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


class _Waiter:
    """A handler of aiohttp that waits for its answer."""

    __slots__ = ("answer",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[web.Response] = loop.create_future()

    def put(self, status: int, headers: Headers, body: Any, close: bool) -> None:
        if not self.answer.done():  # cancelled, perhaps
            self.answer.set_result(Answer(status, headers, bytes(body), close).response())


class Health:
    """What `/health` below an endpoint says: whether the nodes of its job can work. Stands for the unit where such
    requests come directly (connection.Direct)."""

    def __init__(self, unit: HttpSource) -> None:
        self._unit = unit
        self._trouble: Answer | None = None
        self._until = 0.0

    def answer(self) -> Answer:
        """The answer of this moment. Cheap. [I/O thread]"""
        unit = self._unit
        now = unit.services.io.loop.time()
        if self._trouble is None or now >= self._until:
            troubles = unit.entry.troubles()
            text = "; ".join(f"node '{node}': {reason}" for node, reason in troubles)
            body = json.dumps({"status": 503, "message": text}, separators=(",", ":")).encode()
            self._trouble = Answer(503, HEALTH_HEADERS, body) if troubles else None
            self._until = now + TROUBLE_S
        return self._trouble or HEALTHY

    def prepare(self, head: Head) -> Any:
        return b""

    def take(self, sink: Any) -> Reply | Answer:
        return self.answer()

    def wait(self, reply: Reply) -> None:
        raise InternalError("health has no replies that wait")

    def run(self, reply: Reply, prepared: Any, body: bytes | bytearray) -> None:
        raise InternalError("health has no replies that wait")


class HttpSource(SourceUnit):
    """Base of httpserver_sync_receive and httpserver_async: everything but what becomes of the session.

    Requests come by one of two doors: plain ones by prepare(), take(), wait(), run() (connection.Direct), all others
    by handle(), a handler of aiohttp that reads the body and then goes through run() too.
    """

    port_name = "out_request_info"

    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self.endpoint = parse_endpoint(config.get_string("endpoint"), node)
        self.max_requests = self.at_least(1, "max_requests", 1000)
        self.max_body = self.at_least(0, "max_body_size", 64 << 20)
        self.keepalive_s = config.get_int("keepalive_timeout_sec", 200)
        self.limit_s = READ_TIMEOUT_S  # of everything that waits
        self.in_flight = 0
        self.stopping = False
        self._entry: Entry | None = None
        self._route: Route | None = None
        self._health = Health(self)
        self._waiting: dict[Reply, None] = {}  # by deadline, since all wait equally long
        self._timer: asyncio.TimerHandle | None = None
        self._arriving: set[Reply] = set()  # of which there is no session yet
        self._emptied: asyncio.Future[None] | None = None
        # What every request's meta begins with, encoded once.
        endpoint = self.endpoint.text
        self._fixed_meta = {method: meta.encode({"endpoint": endpoint, "method": method}) for method in METHODS}
        self._too_many = error_answer(429, "too many requests", headers={"Retry-After": "1"})
        self._too_large = error_answer(413, f"the body is larger than {self.max_body} bytes", close=True)

    @property
    def entry(self) -> Entry:
        assert self._entry is not None
        return self._entry

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._route is not None
        return self._route.port

    def at_least(self, least: int, name: str, default: int) -> int:
        """An option that is a number. Raises ConfigError when it is less."""
        value = self.config.get_int(name, default)
        if value < least:
            message = f"node '{self.node.name}': option {name}={value} is too small"
            raise ConfigError(message, where=self.node.where, hint=f"at least {least}", node=self.node.name)
        return value

    def _tls(self) -> Tls | None:
        if not self.endpoint.secure:
            return None
        cert, key = self.config.get_string("cert"), self.config.get_string("key")
        if not cert or not key:
            raise ConfigError("an https endpoint needs the options cert and key")
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
                direct=self,
                tls=self._tls(),
                keepalive_s=self.keepalive_s,
            )
        except ConfigError as error:
            message = f"node '{self.node.name}': {error.message}"
            raise ConfigError(message, where=self.node.where, hint=error.hint) from None
        log.info("node '%s' listens on %s (port %d)", self.node.name, endpoint.text, self.port, extra=self.about)

    def finish_arriving(self, limit_s: float) -> None:
        try:
            self.services.io.run(self._all_arrived(), limit_s)
        except TimeoutError:
            log.warning("node '%s': requests that still arrive are given up", self.node.name, extra=self.about)

    async def _all_arrived(self) -> None:
        while self._arriving:
            self._emptied = self.services.io.loop.create_future()
            await self._emptied

    def _has_arrived(self, reply: Reply) -> None:
        self._arriving.discard(reply)
        if self._emptied is not None and not self._arriving:
            if not self._emptied.done():
                self._emptied.set_result(None)
            self._emptied = None

    def stop(self) -> None:
        self.stopping = True

    def close(self) -> None:
        if self._route is not None:
            self.services.listeners.release(self._route)
            self._route = None

    # ---- direct requests (I/O thread; see connection.Direct) --------------------------------------------

    def prepare(self, head: Head) -> Any:
        """The meta of such a request, or None where handle() has to refuse."""
        if head.method not in METHODS or head.length > self.max_body:
            return None
        if head.path == self.endpoint.prefix + "/health":
            head.direct = self._health
            return self._health.prepare(head)
        try:
            return self._meta(head.method, head.uri, head.raw_headers, head.length)
        except Refused:
            return None

    def take(self, sink: Any) -> Reply | Answer:
        if self.stopping:
            return STOPPING
        if self.in_flight >= self.max_requests:
            return self._too_many
        self.in_flight += 1
        reply = Reply(self.services.io, self, sink)
        self._arriving.add(reply)
        return reply

    def wait(self, reply: Reply) -> None:
        """From now on the request has `limit_s`."""
        loop = self.services.io.loop
        waiting = self._waiting
        waiting.pop(reply, None)
        waiting[reply] = None
        reply.deadline = loop.time() + self.limit_s
        if self._timer is None:
            self._timer = loop.call_at(reply.deadline, self._expire)

    def run(self, reply: Reply, prepared: Any, body: bytes | bytearray) -> None:
        try:
            self._serve(reply, packed_list(self.services.pool, body, STRING_KIND, prepared))
        except BusyError as error:
            retry = str(max(1, round(error.retry_after_s)))
            reply.give(error_answer(503, "the graph is full, try again later", headers={"Retry-After": retry}))
        except ShutdownError:
            reply.give(STOPPING)
        except OutOfMemoryError as error:
            log.warning(
                "node '%s': %s", self.node.name, str(error), extra=self.about
            )  # not the frames, which hold the body
            reply.give(error_answer(503, "no memory for the request", headers={"Retry-After": "1"}))
        except Exception:
            log.exception("node '%s': internal error while taking a request", self.node.name, extra=self.about)
            reply.abort(error_answer(500, "internal error"), InternalError("internal error"))
        self._has_arrived(reply)

    def finished(self, reply: Reply) -> None:
        self.in_flight -= 1
        self._has_arrived(reply)
        self._waiting.pop(reply, None)

    def _serve(self, reply: Reply, items: CoreList) -> None:
        """Opens a session for the request. Raises what Entry.open() raises."""
        raise NotImplementedError

    def _expire(self) -> None:
        """Ends what has waited too long, and sets the timer for the next one."""
        self._timer = None
        loop = self.services.io.loop
        now = loop.time()
        while self._waiting:
            reply = next(iter(self._waiting))
            if reply.deadline > now:
                self._timer = loop.call_at(reply.deadline, self._expire)
                return
            if reply.session is None:
                reply.give(LATE_REQUEST)
            else:
                self._late(reply)

    def _late(self, reply: Reply) -> None:
        """The session of `reply` takes too long."""
        raise NotImplementedError

    # ---- handler of aiohttp (I/O thread) ------------------------------------------------------------------

    def _refusal(self, request: web.BaseRequest) -> Answer | None:
        """The answer to a request that is never counted, or None."""
        if request.method not in METHODS:
            return error_answer(405, f"method {request.method} is not allowed", headers=ALLOW)
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            return error_answer(501, "of transfer encodings only chunked is known", close=True)
        if request.rel_url.path == self.endpoint.prefix + "/health":
            return self._health.answer()
        return None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request from its head to its answer."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal.response()
        waiter = _Waiter(self.services.io.loop)
        reply = self.take(waiter)
        if isinstance(reply, Answer):
            return reply.response()
        try:
            body = await read_body(request, self.services.listeners.bodies, self.max_body, self.limit_s)
            block = self._meta(request.method, _uri(request), request.raw_headers, len(body))
            self.run(reply, block, body)
            del body
            return await waiter.answer
        except TooLarge:
            return self._too_large.response()
        except Refused as refused:
            return refused.answer.response()
        except TimeoutError:
            return LATE_REQUEST.response()
        finally:
            reply.gone()  # the client closed its connection, which cancels this handler; or it was refused

    def _meta(self, method: str, uri: str, raw_headers: RawHeaders, size: int) -> bytes:
        """The meta of a request. Raises Refused when its headers are too large."""
        return b"".join(
            (
                self._fixed_meta[method],
                meta.encode({"size": size, "uri": uri}),
                _headers_meta(raw_headers),
            )
        )


LATE_REQUEST = error_answer(408, "the request did not arrive in time", close=True)


def _uri(request: web.BaseRequest) -> str:
    """Path and query as they were sent, also of `POST http://host/path`."""
    raw = request.raw_path
    return raw.partition("#")[0] if raw.startswith("/") else request.path_qs


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
        block = meta.encode({"headers": values})
        if len(block) > HEADERS_LIMIT:
            raise Refused(error_answer(431, f"the headers are larger than {HEADERS_LIMIT} bytes"))
        if len(block) <= KNOWN_SIZE:
            if len(_known_headers) >= KNOWN_MAX:
                _known_headers.clear()
            _known_headers[raw] = block
    return block
