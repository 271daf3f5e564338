"""The gRPC port of the inference protocol: the rules of the API for every call, then the same inference as over HTTP.

Everything runs on the I/O thread. All calls are taken as streams of bytes, so that who may not do something is told
before his message is read; protobuf sees messages when that is settled (inference/wire.py). grpcio is optional.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from modelbox.errors import ConfigError, ModelBoxError
from modelboxd.api.access import check_role
from modelboxd.api.grpc_calls import Calls, Streamed
from modelboxd.api.inference import refusal
from modelboxd.api.problems import Problem, problem_of
from modelboxd.api.tokens import Role
from modelboxd.settings import Settings

if TYPE_CHECKING:
    from modelboxd.api.app import Api

log = logging.getLogger(__name__)

METADATA_MAX = 16384  # bytes
GRACE_S = 5.0
STREAM_MAX = 16  # requests of one stream that are under way
# Names of grpc.StatusCode for the statuses of problems.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    422: "INTERNAL",  # a unit failed
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def import_grpc(settings: Settings) -> Any:
    """The module grpc. Raises ConfigError where it, or protobuf, is not installed."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # the daemon forks nothing that uses gRPC
    try:
        import grpc
        import grpc.aio

        from modelboxd.inference.proto import messages

        messages()
    except ImportError as error:
        raise ConfigError(
            f"inference.grpc = true needs the Python packages grpcio and protobuf: {error}",
            where=settings.origins.get("inference.grpc"),
            hint="apt install python3-grpcio python3-protobuf, or pip install 'modelbox[grpc]'",
        ) from None
    return grpc


class GrpcServer:
    """The port. start() and stop() are not for the I/O thread."""

    def __init__(self, api: Api) -> None:
        """Raises ConfigError without grpcio."""
        self._api = api
        self.port = 0
        self._server: Any = None
        self._grpc = import_grpc(api.settings)
        self._calls = Calls(api)

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the port. Raises ConfigError."""
        self._api.runtime.io.run(self._start())
        server = self._api.settings.server
        log.info("inference over gRPC listens on %s:%d%s", server.ip, self.port, " (TLS)" if server.cert else "")

    async def _start(self) -> None:
        settings = self._api.settings
        options = [
            ("grpc.max_receive_message_length", settings.server.max_body),
            ("grpc.max_send_message_length", -1),  # tasks.max_result bounds it
            ("grpc.per_message_decompression", 0),  # we do it, within limits: older gRPC has none for what comes out
            ("grpc.max_metadata_size", METADATA_MAX),
            ("grpc.max_concurrent_streams", settings.inference.grpc_calls),
            ("grpc.max_allowed_incoming_connections", settings.server.max_connections),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        self._server = self._grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.inference.grpc_calls)
        self._server.add_generic_rpc_handlers((_Handlers(self, self._grpc),))
        host = settings.server.ip
        address = f"[{host}]" if ":" in host else host
        self.port = self._bind(f"{address}:{settings.inference.grpc_port}")
        await self._server.start()

    def _bind(self, address: str) -> int:
        settings, failure = self._api.settings, "it is not free, or not of this machine"
        where = settings.origins.get("inference.grpc_port")
        try:
            if settings.server.cert:
                port = self._server.add_secure_port(address, self._credentials())
            else:
                port = self._server.add_insecure_port(address)
        except (RuntimeError, OSError) as error:
            port, failure = 0, str(error) if isinstance(error, OSError) else failure
        if not port:
            raise ConfigError(f"gRPC: cannot listen on {address}: {failure}", where=where, hint="inference.grpc_port")
        return int(port)

    def _credentials(self) -> Any:
        server = self._api.settings.server
        key, cert = Path(server.key).read_bytes(), Path(server.cert).read_bytes()
        ca = Path(server.client_ca).read_bytes() if server.client_ca else None
        return self._grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)

    def stop(self) -> None:
        """Takes no more calls, gives those under way a few seconds."""
        if self._server is not None:
            self._api.runtime.io.run(self._server.stop(GRACE_S))
            self._server = None

    # ---- calls (I/O thread) ---------------------------------------------------------------------------------------

    def admit(self, context: Any, role: Role) -> None:
        """Whether the caller may. Raises Problem."""
        api = self._api
        address = address_of(context.peer())
        now = api.runtime.io.loop.time()
        api.access.check_address(address)
        api.limits.check_request(address, now)
        if role is Role.NONE:
            return
        if api.access.has_tokens:
            api.limits.check_guesses(address, now)
        given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        names = context.auth_context().get("x509_common_name", ()) if api.settings.server.client_ca else ()
        try:
            client = api.access.identify(address, given[0] if given else "", names[0].decode() if names else "")
        except Problem:
            if given:
                api.limits.wrong_token(address, now)
            raise
        check_role(client, role)

    async def serve(self, context: Any, role: Role, work: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer to one call; what goes wrong ends it with a status."""
        try:
            self.admit(context, role)
            return await work()
        except Exception as error:
            problem = told(error)
        await context.abort(self.code(problem), problem.detail)
        raise AssertionError("abort() raises")

    def code(self, problem: Problem) -> Any:
        """The status of gRPC."""
        return getattr(self._grpc.StatusCode, _CODES.get(problem.status, "INTERNAL"))

    async def message(self, context: Any) -> bytes:
        """The message of a call that has one. Raises Problem."""
        data = await context.read()
        if data is self._grpc.aio.EOF:
            raise Problem(400, "bad_request", "the call has no message")
        return bytes(data)

    async def stream(self, context: Any) -> None:
        """ModelStreamInfer: several requests under way, answered in the order they came."""
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_MAX)
        started: set[asyncio.Task[bytes]] = set()

        async def read() -> None:
            while (data := await context.read()) is not self._grpc.aio.EOF:
                task = asyncio.create_task(self._streamed(context, bytes(data)))
                started.add(task)
                task.add_done_callback(started.discard)
                await pending.put(task)
            await pending.put(None)

        try:
            self.admit(context, Role.OPERATE)
        except Problem as problem:
            await context.abort(self.code(problem), problem.detail)
        reader = asyncio.create_task(read())
        try:
            while True:
                getting = asyncio.ensure_future(pending.get())
                await asyncio.wait((getting, reader), return_when=asyncio.FIRST_COMPLETED)
                if not getting.done() and (failure := reader.exception()) is not None:
                    log.debug("a stream has ended: %s", failure)  # by the client, or by what it sent
                    getting.cancel()
                    return
                task = await getting
                if task is None:
                    return
                await context.write(await task)
        finally:
            for waiting in (reader, *started):
                waiting.cancel()

    async def _streamed(self, context: Any, data: bytes) -> bytes:
        """One answer in a stream; errors are answers, too."""
        streamed = Streamed()
        try:
            self.admit(context, Role.OPERATE)
            return await self._calls.stream_infer(data, streamed)
        except Exception as error:
            return self._calls.stream_error(streamed, told(error).detail)


class _Handlers:
    """Finds the handler of a method. grpc calls service() for each call."""

    def __init__(self, server: GrpcServer, grpc: Any) -> None:
        calls = server._calls
        self._handlers: dict[str, Any] = {}
        self._service = calls.service
        for name, (role, function) in calls.unary().items():
            self._handlers[name] = grpc.stream_unary_rpc_method_handler(_unary(server, role, function))
        self._handlers[calls.path("ModelStreamInfer")] = grpc.stream_stream_rpc_method_handler(_stream(server))
        self._refuse = _refusals(server, grpc)

    def service(self, details: Any) -> Any:
        """The handler; None: there is no such method."""
        method = details.method if isinstance(details.method, str) else details.method.decode()
        found = self._handlers.get(method)
        if found is None and method.startswith(f"/{self._service}/"):
            return self._refuse(method.rpartition("/")[2])
        return found


def _unary(server: GrpcServer, role: Role, function: Callable[[bytes], Awaitable[bytes]]) -> Any:
    async def handle(_: Any, context: Any) -> bytes:
        async def work() -> bytes:
            return await function(await server.message(context))

        return await server.serve(context, role, work)

    return handle


def _stream(server: GrpcServer) -> Any:
    async def handle(_: Any, context: Any) -> None:
        await server.stream(context)

    return handle


def _refusals(server: GrpcServer, grpc: Any) -> Callable[[str], Any]:
    """Handlers of methods that other servers have."""

    def make(name: str) -> Any:
        async def handle(_: Any, context: Any) -> bytes:
            async def work() -> bytes:
                known = any(word in name for word in ("SharedMemory", "Trace", "Log"))
                text = refusal(name) if known else f"there is no method {name[:80]}"
                raise Problem(501, "not_found", text)

            return await server.serve(context, Role.READ, work)

        return grpc.stream_unary_rpc_method_handler(handle)

    return make


def told(error: Exception) -> Problem:
    """What a client is told of an error."""
    if isinstance(error, Problem):
        error.__traceback__ = error.__context__ = None  # its frames hold the message, and are held by it
        return error
    if isinstance(error, ModelBoxError):
        problem = problem_of(error)
        if problem.status >= 500:
            log.warning("gRPC: %s", error)
        return problem
    log.error("internal error while a gRPC call was answered", exc_info=error)
    return Problem(500, "internal", "internal error; the log of the server tells more")


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer, such as ipv4:127.0.0.1:4711 or ipv6:%5B::1%5D:4711."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return host.strip("[]").partition("%")[0]
