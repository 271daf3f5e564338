"""Routes of plugins as routes of the API."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox.errors import ModelBoxError
from modelbox.plugin import HttpError, PluginError, Request, Response
from modelboxd.api.problems import Problem
from modelboxd.api.routes import JSON, Answers, Body, Call, Param, Route
from modelboxd.api.schema import check_schema, text
from modelboxd.api.tokens import Role
from modelboxd.plugins.runner import told
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.plugins.runner import Runner

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ROLES = {role.name.lower(): role for role in Role}
IN_FLIGHT_MAX = 256  # of one plugin
MAX_BODY = 64 << 20
OWN_WORDS = frozenset({"v1", "v2", "health", "metrics", "openapi.json", "editor"})  # where paths of the server begin
_SEGMENT = re.compile(r"[A-Za-z0-9_.~-]+|\{[A-Za-z_]\w*\}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_FIXED = frozenset({"content-length", "transfer-encoding", "connection", "content-type"})


def make_route(
    plugin: str,
    runner: Runner,
    api: Api,
    method: str,
    path: str,
    handler: Callable[[Request], Any],
    *,
    role: str,
    summary: str,
    body: Mapping[str, Any] | None,
    answer: Mapping[str, Any] | None,
    max_body: int,
    timeout_s: float,
) -> Route:
    """Raises PluginError for a route that cannot be."""
    label = f"route {method} {path}"
    segments = path[1:].split("/") if path.startswith("/") else [""]
    if method not in METHODS:
        raise PluginError(f"{label}: the method must be one of {', '.join(METHODS)}")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments) or segments[0].startswith("{"):
        raise PluginError(f"{label}: a path is like /{plugin}/orders/{{id}}, and begins with a word")
    own = OWN_WORDS | {route.path.split("/")[1] for route in api.router.routes if not route.plugin}
    if segments[0] in own:
        raise PluginError(f"{label}: paths below /{segments[0]} are the server's own", hint=f"such as /{plugin}/...")
    if role not in ROLES:
        raise PluginError(f"{label}: role '{role}' is not known", hint=f"one of {', '.join(ROLES)}")
    if not callable(handler):
        raise PluginError(f"{label}: its handler is no function")
    if not timeout_s > 0:
        raise PluginError(f"{label}: timeout_s must be more than 0")
    for schema in (body, answer):
        try:
            check_schema(dict(schema or {}))
        except ValueError as error:
            raise PluginError(f"{label}: {error}") from None
    takes = Body(dict(body), (JSON,), max_bytes=max_body) if body is not None else Body(
        types=("*/*",), checked=False, required=False, max_bytes=max_body
    )  # fmt: skip
    name = "plugin_" + re.sub(r"\W+", "_", f"{plugin} {method.lower()} {path}").rstrip("_")
    params = tuple(Param(part[1:-1], text(maxLength=1024), "Part of the path.") for part in segments if part[0] == "{")
    answers = {200: Answers("What the plugin answers.", dict(answer) if answer is not None else None)}
    return Route(
        method, path, _Handler(label, runner, handler, timeout_s), name, summary or f"{method} {path}", ROLES[role],
        answers, (500, 504), f"Plugin {plugin}", params, (), takes if method not in ("GET", "DELETE") else None,
        plugin=plugin,
    )  # fmt: skip


class _Handler:
    """Calls the plugin for a request. [I/O thread]"""

    def __init__(self, label: str, runner: Runner, function: Callable[[Request], Any], timeout_s: float) -> None:
        self._label = label
        self._runner = runner
        self._function = function
        self._timeout_s = timeout_s
        self._running = 0

    async def __call__(self, call: Call) -> web.StreamResponse:
        if self._running >= IN_FLIGHT_MAX:
            raise Problem(503, "busy", f"{self._running} calls of this route run already", {"Retry-After": "1"})
        self._running += 1
        try:
            future = asyncio.wrap_future(self._runner.submit(self._answer(request_of(call))))
            try:
                done, _ = await asyncio.wait({future}, timeout=self._timeout_s)
            finally:
                future.cancel()  # one that is over stays as it is
            if not done:
                text_ = f"no answer within {self._timeout_s:g} s"
                self._runner.failed(self._label, text_)
                raise Problem(504, "plugin_timed_out", f"plugin '{self._runner.name}': {text_}")
            made: Answer = future.result()
            return made.response()
        finally:
            self._running -= 1

    async def _answer(self, request: Request) -> Answer:
        """On the plugin's loop. Raises Problem, ModelBoxError."""
        try:
            return answer_of(await self._runner.call(self._function, request))
        except HttpError as error:
            if isinstance(error.status, int) and 400 <= error.status <= 599:
                raise Problem(error.status, str(error.code), str(error.detail)) from None
            failure: Exception = ValueError(f"HttpError with status {error.status!r}; 400 to 599")
        except ModelBoxError:
            raise
        except Exception as error:
            failure = error
        self._runner.failed(self._label, told(failure))
        raise Problem(500, "plugin_failed", f"plugin '{self._runner.name}' failed; the log of the server tells more")


def request_of(call: Call) -> Request:
    """What the plugin sees of a request."""
    body = call.body
    data = b"" if body is None else bytes(body) if isinstance(body, (bytes, bytearray)) else json.dumps(body).encode()
    request = call.request
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() != "authorization"}
    return Request(
        request.method,
        request.path,
        dict(call.path),
        dict(request.rel_url.query),
        headers,
        data,
        call.client.name if call.client is not None else "",
    )


def answer_of(value: Any) -> Answer:
    """The answer for what a route has returned. Raises TypeError, ValueError."""
    made = value if isinstance(value, Response) else Response(value, 204 if value is None else 200)
    status, body = made.status, made.body
    if not isinstance(status, int) or not 200 <= status <= 599 or status not in {*HTTPStatus}:
        raise ValueError(f"status {status!r} is none of HTTP's from 200 on")
    kind = made.content_type
    if body is None:
        data = b""
    elif isinstance(body, str):
        data, kind = body.encode(), kind or "text/plain; charset=utf-8"
    elif isinstance(body, (bytes, bytearray)):
        data, kind = bytes(body), kind or "application/octet-stream"
    elif isinstance(body, (dict, list)):
        data, kind = json.dumps(body, allow_nan=False).encode(), kind or JSON
    else:
        raise TypeError(
            f"a route returned {type(body).__name__}; dict, list, str, bytes, None or Response are possible"
        )
    headers = {**SECURITY_HEADERS}
    for name, text_ in made.headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _FIXED or not str(text_).isprintable():
            raise ValueError(f"header {name[:64]!r} cannot be set by a route")
        headers[name] = str(text_)
    if kind and status not in (204, 304):
        if not kind.isprintable():
            raise ValueError("content_type is not printable")
        headers["Content-Type"] = kind
    return Answer(status, Headers(headers), b"" if status in (204, 304) else data)
