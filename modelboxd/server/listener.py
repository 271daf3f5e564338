"""Shared HTTP listeners: several units (and jobs) on one port, told apart by path prefix.

Built on aiohttp's low-level server, without its router: one dictionary walk finds the handler.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from modelbox.errors import ConfigError

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
SECURITY_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate and key files of an https endpoint."""

    cert: str
    key: str
    password: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError when the files cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for file in (self.cert, self.key):
            if not Path(file).is_file():
                raise ConfigError(f"certificate or key file {file} does not exist")
        try:
            # A password is always given, so that a locked key fails instead of asking on a terminal.
            context.load_cert_chain(self.cert, self.key, password=self.password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use certificate {self.cert} with key {self.key}: {error}") from None
        return context


@dataclass(frozen=True, slots=True)
class Route:
    """What acquire() gave; hand it to release()."""

    address: tuple[str, int]
    prefix: str
    port: int  # the real one, where 0 was asked for


class _Connection(web.RequestHandler):
    """One connection. What clients do wrong is their affair: 400 as JSON, a line for those who debug."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            log.error("internal error while answering %s", request.remote, exc_info=exc)
        else:
            log.debug("no well-formed HTTP from %s: %s", request.remote, message)
        text = "internal error" if status >= 500 else "the request is not well-formed HTTP"
        return closing_response(error_response(status, text))


class _Port:
    """One bound address."""

    def __init__(self, keepalive_s: float) -> None:
        self.routes: dict[str, Handler] = {}
        self.tls: Tls | None = None
        self.keepalive_s = keepalive_s
        self.web = web.Server(self._dispatch, handler_cancellation=True)
        self.server: asyncio.AbstractServer | None = None

    def connection(self) -> _Connection:
        """The protocol of a new connection. [I/O thread]"""
        return _Connection(
            self.web,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # how aiohttp is told to keep none
            keepalive_timeout=self.keepalive_s,
            auto_decompress=False,
            max_line_size=16384,
            max_field_size=16384,
        )

    def _find(self, path: str) -> Handler | None:
        """The handler of the longest prefix on segment borders."""
        routes = self.routes
        handler = routes.get(path)
        while handler is None and path:
            path = path.rpartition("/")[0]
            handler = routes.get(path)
        return handler

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = self._find(request.rel_url.path.rstrip("/"))
        if handler is None:
            return error_response(404, "no such path")
        try:
            return await handler(request)
        except web.RequestPayloadError:
            return closing_response(error_response(400, "the body is not well-formed HTTP"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("internal error while answering %s %s", request.method, request.path)
            return error_response(500, "internal error")


def error_response(status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer {"error_code", "error_msg"}."""
    body = {"error_code": code or f"HTTP_{status}", "error_msg": message}
    return web.json_response(body, status=status, headers={**SECURITY_HEADERS, **(headers or {})})


def closing_response(response: web.Response) -> web.Response:
    """The same answer, after which the connection is closed."""
    response.headers["Connection"] = "close"
    response.force_close()
    return response


class Listeners:
    """All HTTP ports of the daemon."""

    def __init__(self, io: IoThread, *, close_timeout_s: float = 5.0) -> None:
        self._io = io
        self._close_timeout_s = close_timeout_s
        self._ports: dict[tuple[str, int], _Port] = {}

    def acquire(
        self, host: str, port: int, prefix: str, handler: Handler, *, tls: Tls | None = None, keepalive_s: float = 200.0
    ) -> Route:
        """Binds the address if it is not ours yet and routes `prefix` (and what is below it) to `handler`.

        Not from the I/O thread. Raises ConfigError: port in use, prefix taken, bad certificate.
        """
        return self._io.run(self._acquire(host, port, prefix.rstrip("/"), handler, tls, keepalive_s))

    async def _acquire(
        self, host: str, port: int, prefix: str, handler: Handler, tls: Tls | None, keepalive_s: float
    ) -> Route:
        address = (host, port)
        there = self._ports.get(address) if port else None
        if there is None:
            there = _Port(keepalive_s)
            there.tls = tls
            context = tls.context() if tls else None
            try:
                there.server = await self._io.loop.create_server(
                    there.connection, host, port, ssl=context, backlog=1024, reuse_address=True
                )
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                hint = "is another server running there? change endpoint"
                ours = next((name for name, number in self._ports if number == port), None)
                if ours is not None:
                    hint = f"{ours}:{port} is open here already; write the same host in both endpoints"
                raise ConfigError(f"cannot listen on {host}:{port}: {reason}", hint=hint) from None
            if not port:
                address = (host, there.server.sockets[0].getsockname()[1])
            self._ports[address] = there
        elif there.tls != tls:
            raise ConfigError(f"{host}:{port} is served with another certificate or without one already")
        if prefix in there.routes:
            raise ConfigError(f"{host}:{port}{prefix or '/'} is taken by another node")
        there.routes[prefix] = handler
        return Route(address, prefix, address[1])

    def release(self, route: Route) -> None:
        """Takes the route away; the last one closes the port, after requests in flight were answered or their
        time is over. Not from the I/O thread."""
        self._io.run(self._release(route))

    async def _release(self, route: Route) -> None:
        port = self._ports.get(route.address)
        if port is None or port.routes.pop(route.prefix, None) is None or port.routes:
            return
        del self._ports[route.address]
        assert port.server is not None
        port.server.close()
        port.web.pre_shutdown()  # connections that wait for their next request go at once
        await port.web.shutdown(self._close_timeout_s)


__all__ = ["SECURITY_HEADERS", "Handler", "Listeners", "Route", "Tls", "closing_response", "error_response"]
