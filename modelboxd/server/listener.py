"""Shared HTTP listeners: several units (and jobs) on one port, told apart by path prefix.

Built on aiohttp's low-level server, without its router: one dictionary walk finds the handler.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from modelbox.errors import ConfigError

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)


class _Quiet(logging.Filter):
    """What clients do wrong is their affair: one line for those who debug, never a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return log.isEnabledFor(logging.DEBUG)


_http_log = logging.getLogger("modelboxd.server.http")
_http_log.addFilter(_Quiet())

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


class _Port:
    """One bound address."""

    def __init__(self, keepalive_s: float) -> None:
        self.routes: dict[str, Handler] = {}
        self.tls: Tls | None = None
        self.web = web.Server(
            self._dispatch,
            access_log=None,
            logger=_http_log,
            keepalive_timeout=keepalive_s,
            auto_decompress=False,
            max_line_size=16384,
            max_field_size=16384,
        )
        self.server: asyncio.AbstractServer | None = None

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
        except (BadHttpMessage, web.HTTPException) as error:
            return error_response(getattr(error, "status", 0) or getattr(error, "code", 400), "bad request")
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("internal error while answering %s %s", request.method, request.path)
            return error_response(500, "internal error")


def error_response(status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer {"error_code", "error_msg"}."""
    body = {"error_code": code or f"HTTP_{status}", "error_msg": message}
    return web.json_response(body, status=status, headers={**SECURITY_HEADERS, **(headers or {})})


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
                    there.web, host, port, ssl=context, backlog=1024, reuse_address=True
                )
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise ConfigError(
                    f"cannot listen on {host}:{port}: {reason}", hint="is another server running there? change endpoint"
                ) from None
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
        await port.web.shutdown(self._close_timeout_s)


def peer_gone(request: web.BaseRequest) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


__all__ = ["SECURITY_HEADERS", "Handler", "Listeners", "Route", "Tls", "error_response", "peer_gone"]
