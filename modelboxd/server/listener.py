"""Shared HTTP listeners: several units (and jobs) on one port, told apart by path prefix.

Built on aiohttp's low-level server, without its router: one dictionary walk finds the handler. Plain requests
for units that take them directly do not even see aiohttp's handlers (connection.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiohttp import web

from modelbox.errors import ConfigError
from modelboxd import systemd
from modelboxd.server.answer import Answer, error_answer
from modelboxd.server.body import Bodies
from modelboxd.server.connection import STOPPING, Connection, Direct
from modelboxd.server.head import Head, HeadReader

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
HEADS_KEPT, HEAD_KEPT = 512, 2048  # verdicts; bytes of one, so that nobody can fill the memory with them
HEAD_TIMEOUT_S = 30.0  # a head that stops coming


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate and key files of an https endpoint."""

    cert: str
    key: str
    password: str = ""
    client_ca: str = ""  # certificates that sign those of clients, who then need one

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError when the files cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for file in (self.cert, self.key, *filter(None, [self.client_ca])):
            if not Path(file).is_file():
                raise ConfigError(f"certificate or key file {file} does not exist")
        try:
            # A password is always given, so that a locked key fails instead of asking on a terminal.
            context.load_cert_chain(self.cert, self.key, password=self.password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use certificate {self.cert} with key {self.key}: {error}") from None
        if self.client_ca:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"cannot use the certificates of {self.client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, slots=True)
class Route:
    """What acquire() gave; hand it to release()."""

    address: tuple[str, int]
    prefix: str
    port: int  # the real one, where 0 was asked for


class _Port:
    """One bound address."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bodies: Bodies, keepalive_s: float, head_timeout_s: float
    ) -> None:
        self.loop = loop
        self.bodies = bodies
        self.keepalive_s = keepalive_s
        self.head_timeout_s = head_timeout_s
        self.routes: dict[str, tuple[Handler, Direct | None, Route]] = {}
        self.exclusive = False
        self.tls: Tls | None = None
        self.stopping = False
        self.web = web.Server(self._dispatch, handler_cancellation=True)
        self.server: asyncio.AbstractServer | None = None
        self.connections: dict[Connection, None] = {}  # in the order they came
        self.max_connections = 0  # 0: no limit
        self.shape: Callable[[Answer], Answer] | None = None  # of errors
        self._ticking = False
        self._reader: HeadReader | None = None
        self._heads: dict[bytes, Head] = {}
        try:
            self._reader = HeadReader(loop) if keepalive_s > 0 else None
        except (TypeError, AttributeError) as error:
            log.debug("all requests go through aiohttp's handlers: %s", error)

    # ---- routes ---------------------------------------------------------------------------------------------

    def add(self, route: Route, handler: Handler, direct: Direct | None) -> None:
        """From now on requests go there, in place of where they went before."""
        self.routes[route.prefix] = handler, direct, route
        self._heads.clear()  # they know their unit

    def remove(self, route: Route) -> bool:
        """Whether it was there; not when another one has taken its place."""
        found = self.routes.get(route.prefix)
        if found is None or found[2] is not route:
            return False
        del self.routes[route.prefix]
        self._heads.clear()
        return True

    def _find(self, path: str) -> tuple[Handler, Direct | None, Route] | None:
        """The handler of the longest prefix on segment borders."""
        routes = self.routes
        path = path.rstrip("/")
        found = routes.get(path)
        while found is None and path:
            path = path.rpartition("/")[0]
            found = routes.get(path)
        return found

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        found = self._find(request.rel_url.path)
        if found is None and self.stopping:  # its unit is gone already
            return self.shaped(STOPPING).response()
        if found is None:
            return self.shaped(error_answer(404, "no such path")).response()
        try:
            return await found[0](request)
        except web.RequestPayloadError:
            return self.shaped(error_answer(400, "the body is not well-formed HTTP", close=True)).response()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("internal error while answering %s %s", request.method, request.path)
            return self.shaped(error_answer(500, "internal error")).response()

    # ---- connections (connection.Port) ------------------------------------------------------------------------

    def judge(self, raw: bytes) -> Head | None:
        head = self._heads.get(raw)
        if head is None:
            if self._reader is None:
                return None
            head = self._reader.read(raw)
            if head.plain:
                found = self._find(head.path)
                if found is not None and found[1] is not None:
                    head.direct = found[1]
                    head.prepared = head.direct.prepare(head)
                head.raw_headers = ()
            if len(raw) <= HEAD_KEPT:
                if len(self._heads) >= HEADS_KEPT:
                    self._heads.clear()
                self._heads[raw] = head
        return head

    def shaped(self, answer: Answer) -> Answer:
        return answer if self.shape is None else self.shape(answer)

    def joined(self, connection: Connection) -> None:
        self.connections[connection] = None
        if 0 < self.max_connections < len(self.connections):
            # Whoever waits longest for nothing gives way, so that slow clients cannot keep others out.
            others = (other for other in self.connections if other is not connection and other.is_waiting())
            next(others, connection).turn_away()
        if not self._ticking:
            self._ticking = True
            self._tick_later()

    def left(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    def _tick_later(self) -> None:
        limits = (self.keepalive_s, self.head_timeout_s, 4.0)
        self.loop.call_later(min(limit for limit in limits if limit > 0) / 4, self._tick)

    def _tick(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.tick(now)
        self._ticking = bool(self.connections)
        if self._ticking:
            self._tick_later()

    async def close(self, limit_s: float) -> None:
        """Takes no more, waits for what is under way for `limit_s` at most."""
        assert self.server is not None
        self.server.close()
        there = list(self.connections)
        for connection in there:
            connection.stop()
        # aiohttp 3.9: connections that wait for their next request go at once.
        getattr(self.web, "pre_shutdown", lambda: None)()
        end = self.loop.time() + limit_s
        # Direct requests first: aiohttp would close connections under them.
        await asyncio.gather(*(connection.shutdown(limit_s) for connection in there))
        await self.web.shutdown(max(0.1, end - self.loop.time()))  # 0 would be no limit


class Listeners:
    """All HTTP ports of the daemon."""

    def __init__(
        self,
        io: IoThread,
        *,
        close_timeout_s: float = 5.0,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        bodies_limit: int = 0,
    ) -> None:
        """`bodies_limit`: bytes of all bodies that are still coming in; 0: no limit."""
        self._io = io
        self.bodies = Bodies(bodies_limit)
        self._head_timeout_s = head_timeout_s
        self._close_timeout_s = close_timeout_s
        self._ports: dict[tuple[str, int], _Port] = {}

    def acquire(
        self,
        host: str,
        port: int,
        prefix: str,
        handler: Handler,
        *,
        direct: Direct | None = None,
        tls: Tls | None = None,
        keepalive_s: float = 200.0,
        exclusive: bool = False,
        max_connections: int = 0,
        shape: Callable[[Answer], Answer] | None = None,
    ) -> Route:
        """Binds the address if it is not ours yet and routes `prefix` (and what is below it) to `handler`, plain
        requests to `direct` if there is one. Nobody else gets a route on an `exclusive` address. With
        `max_connections` the port takes no more; those that wait for a request then give way. `shape` makes of errors
        of error_answer() what they are to look like at a port that is made by this.

        Not from the I/O thread. Raises ConfigError: port in use, prefix taken, bad certificate.
        """
        prefix = prefix.rstrip("/")
        made = self._acquire(host, port, prefix, handler, direct, tls, keepalive_s, exclusive, max_connections, shape)
        return self._io.run(made)

    async def _acquire(
        self,
        host: str,
        port: int,
        prefix: str,
        handler: Handler,
        direct: Direct | None,
        tls: Tls | None,
        keepalive_s: float,
        exclusive: bool,
        max_connections: int,
        shape: Callable[[Answer], Answer] | None,
    ) -> Route:
        address = (host, port)
        there = self._ports.get(address) if port else None
        if there is None:
            made = there = _Port(self._io.loop, self.bodies, keepalive_s, self._head_timeout_s)
            there.tls, there.exclusive, there.max_connections = tls, exclusive, max_connections
            there.shape = shape
            context = tls.context() if tls else None
            try:
                sock = systemd.inherited(host, port)
                there.server = await self._io.loop.create_server(
                    lambda: cast(asyncio.Protocol, Connection(made)),
                    **({"host": host, "port": port, "reuse_address": True} if sock is None else {"sock": sock}),
                    ssl=context,
                    backlog=1024,
                )
            except (OSError, OverflowError) as error:
                reason = _reason(error)
                hint = "is another server running there? change endpoint"
                ours = next((name for name, number in self._ports if number == port), None)
                if ours is not None:
                    hint = f"{ours}:{port} is open here already; write the same host in both endpoints"
                raise ConfigError(f"cannot listen on {host}:{port}: {reason}", hint=hint) from None
            if not port:
                address = (host, there.server.sockets[0].getsockname()[1])
            self._ports[address] = there
        elif there.exclusive or exclusive:
            what = "the API of this server" if there.exclusive else "HTTP units"
            raise ConfigError(f"{host}:{port} is used by {what}", hint="choose another port")
        elif there.tls != tls:
            raise ConfigError(f"{host}:{port} is served with another certificate or without one already")
        if prefix in there.routes:
            raise ConfigError(f"{host}:{port}{prefix or '/'} is taken by another node")
        route = Route(address, prefix, address[1])
        there.add(route, handler, direct)
        return route

    def replace(self, routes: Sequence[tuple[Route, Handler, Direct | None]]) -> None:
        """Requests that come from now on go to these handlers instead; all at once. Not from the I/O thread."""
        self._io.run(self._replace(routes))

    async def _replace(self, routes: Sequence[tuple[Route, Handler, Direct | None]]) -> None:
        for route, handler, direct in routes:
            self._ports[route.address].add(route, handler, direct)

    def tls_of(self, route: Route) -> Tls | None:
        """How its address is secured."""
        return self._ports[route.address].tls

    def stop(self) -> None:
        """The server stops: requests to units that are gone get 503, not 404. Not from the I/O thread."""
        self._io.run(self._stop())

    async def _stop(self) -> None:
        for port in self._ports.values():
            port.stopping = True

    def release(self, route: Route) -> None:
        """Takes the route away; the last one closes the port, after requests in flight were answered or their
        time is over. Not from the I/O thread."""
        self._io.run(self._release(route))

    async def _release(self, route: Route) -> None:
        port = self._ports.get(route.address)
        if port is None or not port.remove(route) or port.routes:
            return
        del self._ports[route.address]
        port.stopping = True
        await port.close(self._close_timeout_s)


class Endpoints:
    """The HTTP endpoints of one job; what its units see of Listeners. One that replaces another job (`before`) gets the
    endpoints that both have with switch(), and until then none of their requests."""

    def __init__(self, listeners: Listeners, before: Endpoints | None = None) -> None:
        self._listeners = listeners
        self.bodies = listeners.bodies
        self._before = before
        self._asked: list[tuple[str, int, Route]] = []  # host and port as the graph has them
        self._pending: list[tuple[Route, Handler, Direct | None]] = []

    def acquire(
        self,
        host: str,
        port: int,
        prefix: str,
        handler: Handler,
        *,
        direct: Direct | None = None,
        tls: Tls | None = None,
        keepalive_s: float = 200.0,
    ) -> Route:
        """See Listeners.acquire()."""
        prefix = prefix.rstrip("/")
        there = self._before.find(host, port, prefix) if self._before else None
        if there is None:
            route = self._listeners.acquire(
                host, port, prefix, handler, direct=direct, tls=tls, keepalive_s=keepalive_s
            )
        else:
            if self._listeners.tls_of(there) != tls:
                hint = "stop the job first, then start it with the new certificate"
                raise ConfigError(f"{host}:{port} is served with another certificate or without one", hint=hint)
            if any(route.prefix == prefix and route.address == there.address for route, _, _ in self._pending):
                raise ConfigError(f"{host}:{port}{prefix or '/'} is taken by another node")
            route = Route(there.address, prefix, there.port)
            self._pending.append((route, handler, direct))
        self._asked.append((host, port, route))
        return route

    def find(self, host: str, port: int, prefix: str) -> Route | None:
        """What acquire() gave for this endpoint."""
        for asked_host, asked_port, route in self._asked:
            if (asked_host, asked_port, route.prefix) == (host, port, prefix):
                return route
        return None

    def switch(self) -> None:
        """Takes over. Not from the I/O thread."""
        pending, self._pending = self._pending, []
        self._before = None
        if pending:
            self._listeners.replace(pending)

    def release(self, route: Route) -> None:
        """See Listeners.release(); an endpoint that another job has taken over stays."""
        self._asked = [item for item in self._asked if item[2] is not route]
        if any(item[0] is route for item in self._pending):
            self._pending = [item for item in self._pending if item[0] is not route]
        else:
            self._listeners.release(route)


def _reason(error: Exception) -> str:
    """Why binding failed, without what asyncio adds to it."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


__all__ = ["Endpoints", "Handler", "Listeners", "Route", "Tls"]
