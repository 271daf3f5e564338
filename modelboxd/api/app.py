"""The API's own listener: who may ask, which route it is, what the request brings, and the answer."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiohttp import web

from modelbox.errors import ConfigError, ModelBoxError
from modelboxd.api import health, inference, jobs, modelbox_v1, openapi, plugins, stats, tasks
from modelboxd.api.access import Access, check_role, tls_of
from modelboxd.api.grpc_server import GrpcServer
from modelboxd.api.inflate import ENCODINGS, inflate
from modelboxd.api.limits import Limits
from modelboxd.api.problems import Problem, Shape, as_problem, problem_answer, problem_of
from modelboxd.api.routes import Body, Call, Route, Router, parse_json
from modelboxd.api.schema import Schema, Schemas, convert
from modelboxd.api.tokens import Role
from modelboxd.inference.service import Inference
from modelboxd.jobs.manager import JobManager
from modelboxd.jobs.runtime import Runtime
from modelboxd.server.answer import JSON
from modelboxd.server.body import Refused, TooLarge, read_body
from modelboxd.server.listener import Route as Listening
from modelboxd.settings import Settings
from modelboxd.stats.collect import Collector
from modelboxd.tasks.manager import TaskManager

log = logging.getLogger(__name__)

SUBJECTS = (jobs, tasks, inference, modelbox_v1, stats, plugins, health, openapi)  # each has routes(api) and SCHEMAS
WORKERS, WAITING_MAX = 8, 64  # threads for what blocks; calls that may wait for one of them
T = TypeVar("T")


class Api:
    """All routes, and the port they are served at."""

    def __init__(self, settings: Settings, jobs: JobManager, runtime: Runtime) -> None:
        """Raises ConfigError when the configuration would let strangers in."""
        self.settings = settings
        self.jobs = jobs
        self.runtime = runtime
        self.access = Access(settings)
        self.limits = Limits(settings.server.max_rate)
        self.tasks = TaskManager(settings.tasks, jobs, runtime, view=tasks.webhook_json)
        self.inference = Inference(jobs, self.tasks, self.run)
        self.stats = Collector(runtime, jobs, self.tasks)
        self.router = Router()
        self.schemas = Schemas()
        self.plugins: Callable[[], list[plugins.PluginView]] = list  # what there is of them
        self._threads = ThreadPoolExecutor(WORKERS, "mb-api")
        self._waiting = 0
        self._listening: Listening | None = None
        self.grpc = GrpcServer(self) if settings.inference.grpc else None
        for subject in SUBJECTS:
            self.add(subject.routes(self), subject.SCHEMAS)

    def add(self, routes: Iterable[Route], schemas: dict[str, Schema] | None = None) -> None:
        """More routes; before start(), or on the I/O thread. Raises ValueError for one that is there already."""
        self.schemas.add(schemas or {})
        self.router.add(routes)

    # ---- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the port. Raises ConfigError."""
        server = self.settings.server
        tls = tls_of(self.settings)
        try:
            self._listening = self.runtime.listeners.acquire(
                server.ip,
                server.port,
                "",
                self._handle,
                tls=tls,
                exclusive=True,
                max_connections=min(server.max_connections, files_max() // 2),
                shape=as_problem,
            )
        except ConfigError as error:
            where = self.settings.origins.get("server.port")
            raise ConfigError(f"API: {error.message}", where=where, hint="server.port says where it listens") from None
        scheme = "https" if tls else "http"
        log.info("the API listens on %s://%s:%d", scheme, server.ip, self.port)
        if self.grpc is not None:
            try:
                self.grpc.start()
            except ConfigError:
                self.stop()
                raise

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listening is not None
        return self._listening.port

    def stop(self) -> None:
        """Answers what is under way, for a few seconds at most, and closes the port."""
        self.tasks.close()
        if self.grpc is not None:
            self.grpc.stop()
        if self._listening is not None:
            self.runtime.listeners.release(self._listening)
            self._listening = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs what blocks on a thread. Raises Problem when too many wait, and what the function raises."""
        if self._waiting >= WAITING_MAX:
            raise Problem(503, "busy", "too many operations wait; try again later", {"Retry-After": "5"})
        self._waiting += 1
        future = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self.runtime.io.call(self._done))
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # it holds its exception, that this frame, and this frame what came of the request

    def _done(self) -> None:
        self._waiting -= 1

    # ---- requests (I/O thread) --------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        shape: Shape = problem_answer
        try:
            raw_path = request.rel_url.raw_path
            shape = shape_of(raw_path)
            address = request.remote or ""
            now = self.runtime.io.loop.time()
            self.access.check_address(address)
            self.access.check_host(request)
            self.access.check_origin(request)
            self.limits.check_request(address, now)
            route, path = self.router.find(request.method, raw_path)
            shape = route.shape
            client = self._client(request, route, address, now)
            call = Call(request, route, path, self._query(request, route), client)
            self._check_path(call)
            check_coding(request)
            if route.body is not None and not route.body.streamed:
                call.body = await self.read(request, route.body)
            return await route.handler(call)
        except Problem as error:
            problem = error
        except ModelBoxError as error:
            problem = problem_of(error)
            if problem.status >= 500:
                log.warning("%s %s: %s", request.method, request.rel_url.raw_path, error)
        except TimeoutError:
            problem = Problem(408, "too_late", "the request did not arrive in time", close=True)
        except Refused as refused:
            return as_problem(refused.answer).response()
        except (ConnectionError, asyncio.CancelledError, web.RequestPayloadError):
            raise
        except Exception:
            log.exception("internal error while answering %s %s", request.method, request.rel_url.raw_path)
            problem = Problem(500, "internal", "internal error; the log of the server tells more")
        # Its frames hold what came of the request, and this one holds it: that would wait for the garbage collector.
        problem.__traceback__ = problem.__context__ = None
        if request.body_exists and not request.content.is_eof():
            problem.close = True  # what still comes of the body is not waited for
        return shape(problem).response()

    def _client(self, request: web.BaseRequest, route: Route, address: str, now: float) -> Any:
        if route.role is Role.NONE:
            return None
        if self.access.has_tokens:
            self.limits.check_guesses(address, now)
        try:
            client = self.access.client(request, address)
        except Problem:
            if "Authorization" in request.headers:
                self.limits.wrong_token(address, now)
            raise
        check_role(client, route.role)
        return client

    def _check_path(self, call: Call) -> None:
        for param in call.route.path_params:
            errors = self.schemas.errors(param.schema, convert(param.schema, call.path[param.name]))
            if errors:
                raise Problem(404, "not_found", f"there is no such path: {param.name} {errors[0][1]}")

    def _query(self, request: web.BaseRequest, route: Route) -> dict[str, Any]:
        """The query, checked. Raises Problem."""
        try:
            given = request.rel_url.query
        except (ValueError, UnicodeError):
            raise Problem(400, "bad_request", "the query is not well-formed") from None
        if route.plugin:
            return {}  # it looks for itself
        known = {param.name: param for param in route.query}
        values: dict[str, Any] = {}
        wrong = []
        for name in dict.fromkeys(given):
            param = known.get(name)
            words = given.getall(name)
            if param is None:
                wrong.append((name, "is not known"))
            elif len(words) > 1:
                wrong.append((name, "stands twice"))
            else:
                values[name] = convert(self.schemas.resolve(param.schema), words[0])
                wrong += [(name, error) for _, error in self.schemas.errors(param.schema, values[name])]
        wrong += [(param.name, "is missing") for param in route.query if param.required and param.name not in values]
        if wrong:
            raise not_valid([(f"?{name[:80]}", error) for name, error in wrong])
        return values

    def length(self, request: web.BaseRequest, body: Body) -> int:
        """The bytes that a request says it brings; 0: it does not say. Raises Problem for more than are taken."""
        limit = body.max_bytes or self.settings.server.max_body
        length = request.content_length or 0
        if length > limit:
            raise too_large(limit)
        return length

    async def read(self, request: web.BaseRequest, body: Body) -> Any:
        """What the request brings: a JSON value that was checked, or bytes. Raises Problem."""
        limit = body.max_bytes or self.settings.server.max_body
        kind = request.content_type if "Content-Type" in request.headers else ""
        if not request.body_exists:
            if body.required and body.checked:
                raise Problem(400, "bad_request", "a body is needed")
            return None
        if body.checked and kind not in body.types and "*/*" not in body.types:
            got = f"not {kind[:80]}" if kind else "and the header is missing"
            raise Problem(415, "media_type", f"Content-Type must be {' or '.join(body.types)}, {got}")
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity" and not (body.compressed and encoding in ENCODINGS):
            only = f"only {' and '.join(ENCODINGS)} are" if body.compressed else "compressed bodies are not"
            raise Problem(
                415, "media_type", f"{only} taken as Content-Encoding" if body.compressed else f"{only} taken"
            )
        try:
            data = await read_body(request, self.runtime.listeners.bodies, limit, self.settings.server.body_timeout)
        except TooLarge:
            raise too_large(limit) from None
        if encoding != "identity":
            data = await self.run(inflate, data, limit)
        if body.schema is None or not body.checked or kind != JSON_TYPE:
            return data
        value = parse_json(data)
        errors = self.schemas.errors(body.schema, value)
        if errors:
            raise not_valid(errors)
        return value


JSON_TYPE = JSON.partition(";")[0]


def not_valid(errors: list[tuple[str, str]]) -> Problem:
    """A Problem that names each place."""
    first = f"{errors[0][0] or 'the body'} {errors[0][1]}"
    more = {"errors": [{"pointer": place, "detail": text} for place, text in errors]}
    return Problem(422, "not_valid", first, more=more)


def check_coding(request: web.BaseRequest) -> None:
    """Raises Problem for a body that would have to be decoded first."""
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise Problem(501, "bad_request", "of transfer encodings only chunked is known", close=True)


def too_large(limit: int) -> Problem:
    """Of a body."""
    return Problem(413, "too_large", f"the body is larger than {limit} bytes", close=True)


def files_max() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def shape_of(raw_path: str) -> Shape:
    """How errors look at paths where there is no route."""
    if raw_path.startswith("/v1/modelbox/"):
        return modelbox_v1.modelbox_answer
    if raw_path.startswith("/v2/") and not raw_path.startswith("/v2/health/"):
        return inference.error_answer
    return problem_answer


__all__ = ["SUBJECTS", "Api", "not_valid"]
