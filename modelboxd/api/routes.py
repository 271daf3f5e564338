"""Routes: each is declared once, and the declaration checks requests, makes the OpenAPI document and the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from modelboxd.api.problems import Problem, Shape, problem_answer
from modelboxd.api.schema import Schema
from modelboxd.api.tokens import Role
from modelboxd.server.answer import json_answer

if TYPE_CHECKING:
    from modelboxd.api.access import Client

JSON = "application/json"
EVENTS = "text/event-stream"
_PLACE = re.compile(r"\{(\w+)(\*?)\}")


@dataclass(frozen=True, slots=True)
class Param:
    """A part of the path, or of the query. Its text is converted to what the schema says."""

    name: str
    schema: Schema
    help: str
    required: bool = False  # parts of the path always are


@dataclass(frozen=True, slots=True)
class Body:
    """What a request brings. JSON is checked; any other type is handed on as bytes."""

    schema: Schema | None = None  # of JSON
    types: tuple[str, ...] = (JSON,)
    checked: bool = True  # False: the handler gets the bytes, of whatever Content-Type, and looks for itself
    required: bool = True
    streamed: bool = False  # the handler reads it itself
    max_bytes: int = 0  # 0: server.max_body
    compressed: bool = False  # gzip and deflate are taken, too
    help: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """A good answer."""

    help: str
    schema: Schema | None = None
    type: str = JSON


Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. In `path`, {name} is one segment and {name*} all that follow."""

    method: str
    path: str
    handler: Handler
    name: str  # operationId, unique
    summary: str
    role: Role
    answers: Mapping[int, Answers]
    problems: tuple[int, ...] = ()  # statuses of errors beside those that any route may give
    subject: str = ""  # the part of the docs; "" = not in the document
    path_params: tuple[Param, ...] = ()
    query: tuple[Param, ...] = ()
    body: Body | None = None
    help: str = ""
    shape: Shape = problem_answer  # of errors
    plugin: str = ""  # whose it is; "" = the server's own


class Call:
    """A request on its way through its handler."""

    __slots__ = ("body", "client", "path", "query", "request", "route")

    def __init__(
        self, request: web.BaseRequest, route: Route, path: dict[str, str], query: dict[str, Any], client: Client
    ) -> None:
        self.request = request
        self.route = route
        self.path = path
        self.query = query  # converted; names that were not given are absent
        self.client = client
        self.body: Any = None  # JSON value, or bytes of another type; None: none came, or it is streamed


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A value as JSON."""
    return json_answer(status, value, headers).response()


def nothing(status: int = 204) -> web.Response:
    """An answer without a body."""
    made = json_answer(status, None).response()
    made.body = None
    del made.headers["Content-Type"]
    return made


@dataclass(slots=True)
class _Place:
    """A point in the tree of paths."""

    below: dict[str, _Place]
    methods: dict[str, Route]
    one: _Place | None = None  # any one segment
    rest: dict[str, Route] | None = None  # any number of segments, one at least


class Router:
    """Finds the route of a path: literal segments first, then {name}, then {name*}."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._root = _Place({}, {})

    def add(self, routes: Iterable[Route]) -> None:
        """Raises ValueError for a route that is there already."""
        for route in routes:
            methods = self._methods(route)
            if route.method in methods or any(other.name == route.name for other in self.routes):
                raise ValueError(
                    f"there are two routes {route.method} {route.path}, or two that are called {route.name}"
                )
            methods[route.method] = route
            self.routes.append(route)

    def remove(self, routes: Iterable[Route]) -> None:
        """Those that were added."""
        for route in routes:
            self.routes.remove(route)
            del self._methods(route)[route.method]

    def _methods(self, route: Route) -> dict[str, Route]:
        place = self._root
        for segment in route.path.strip("/").split("/"):
            match = _PLACE.fullmatch(segment)
            if match is None:
                place = place.below.setdefault(segment, _Place({}, {}))
            elif match[2]:
                if place.rest is None:
                    place.rest = {}
                return place.rest
            else:
                if place.one is None:
                    place.one = _Place({}, {})
                place = place.one
        return place.methods

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and the parts of the path, decoded. A slash at the end makes no difference. Raises Problem."""
        if not raw_path.startswith("/"):
            raise Problem(404, "not_found", "there is no such path")
        segments = raw_path[1:].removesuffix("/").split("/")
        try:
            parts = [unquote(segment, errors="strict") for segment in segments]
        except UnicodeDecodeError:
            raise Problem(400, "bad_request", "the path is not UTF-8") from None
        found = list(_walk(self._root, parts, 0))
        for methods in found:
            route = methods.get("GET" if method == "HEAD" and _has_head(methods) else method)
            if route is not None:
                return route, _values(route.path, parts)
        if not found:
            raise Problem(404, "not_found", "there is no such path")
        told = [name for methods in found for name, route in methods.items() if route.subject]
        told += ["HEAD" for methods in found if _has_head(methods)]
        allow = ", ".join(sorted({*(told or found[0])}))
        raise Problem(405, "method_not_allowed", f"this path has {allow}", {"Allow": allow})


def _has_head(methods: dict[str, Route]) -> bool:
    """Whether the answer to GET may be asked for without its body, which is left away when it is sent. Not a stream of
    events, which does not end, and not what a plugin would do the work for."""
    route = methods.get("GET")
    return route is not None and not route.plugin and all(made.type != EVENTS for made in route.answers.values())


def _walk(place: _Place, parts: list[str], at: int) -> Iterator[dict[str, Route]]:
    """The routes that fit, by method, the most exact ones first."""
    if at == len(parts):
        if place.methods:
            yield place.methods
        return
    below = place.below.get(parts[at])
    if below is not None:
        yield from _walk(below, parts, at + 1)
    if place.one is not None and parts[at]:
        yield from _walk(place.one, parts, at + 1)
    if place.rest:
        yield place.rest


def _values(path: str, parts: list[str]) -> dict[str, str]:
    values = {}
    for at, segment in enumerate(path.strip("/").split("/")):
        match = _PLACE.fullmatch(segment)
        if match is not None:
            values[match[1]] = "/".join(parts[at:]) if match[2] else parts[at]
    return values


def parse_json(data: bytes | bytearray) -> Any:
    """Raises Problem. NaN and the like are no JSON; a name may stand once only in an object."""
    try:
        return json.loads(bytes(data).decode(), parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise Problem(400, "bad_request", "the JSON is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {str(error)[:200]}") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made
