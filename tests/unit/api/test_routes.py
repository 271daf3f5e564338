"""The router, and JSON as it is taken."""

from __future__ import annotations

from typing import Any, cast

import pytest

from modelboxd.api.problems import Problem
from modelboxd.api.routes import Answers, Route, Router, parse_json
from modelboxd.api.tokens import Role


def route(method: str, path: str) -> Route:
    return Route(method, path, cast(Any, None), f"{method} {path}", "", Role.READ, {200: Answers("")}, subject="Any")


@pytest.fixture(scope="module")
def router() -> Router:
    made = Router()
    made.add(route(*words.split()) for words in (
        "GET /v1/jobs", "POST /v1/jobs", "GET /v1/jobs/{id}", "PUT /v1/jobs/{id}", "POST /v1/jobs/{id}/start",
        "GET /v1/mb/list/{what}", "GET /v1/mb/{id}", "DELETE /v1/mb/{path*}", "GET /v1/mb/{path*}", "GET /openapi.json",
    ))  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("method", "path", "found", "values"),
    [
        ("GET", "/v1/jobs", "GET /v1/jobs", {}),
        ("POST", "/v1/jobs/", "POST /v1/jobs", {}),
        ("GET", "/v1/jobs/a%20b", "GET /v1/jobs/{id}", {"id": "a b"}),
        ("GET", "/v1/jobs/a%2Fb", "GET /v1/jobs/{id}", {"id": "a/b"}),
        ("POST", "/v1/jobs/a/start/", "POST /v1/jobs/{id}/start", {"id": "a"}),
        ("GET", "/v1/mb/list/all", "GET /v1/mb/list/{what}", {"what": "all"}),
        ("DELETE", "/v1/mb/list/x", "DELETE /v1/mb/{path*}", {"path": "list/x"}),
        ("DELETE", "/v1/mb/x", "DELETE /v1/mb/{path*}", {"path": "x"}),
        ("GET", "/v1/mb/x", "GET /v1/mb/{id}", {"id": "x"}),
        ("GET", "/v1/mb/x/y/z", "GET /v1/mb/{path*}", {"path": "x/y/z"}),
        ("HEAD", "/v1/jobs", "GET /v1/jobs", {}),
    ],
)
def test_finds(router: Router, method: str, path: str, found: str, values: dict[str, str]) -> None:
    route, parts = router.find(method, path)
    assert (f"{route.method} {route.path}", parts) == (found, values)


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/", 404, {}),
        ("GET", "/v1", 404, {}),
        ("GET", "v1/jobs", 404, {}),
        ("GET", "*", 404, {}),
        ("GET", "/v1//jobs", 404, {}),
        ("GET", "/v1/jobs//start", 404, {}),
        ("GET", "/v1/jobs/%FF", 400, {}),
        ("DELETE", "/v1/jobs/a", 405, {"Allow": "GET, HEAD, PUT"}),
        ("PATCH", "/v1/mb/x", 405, {"Allow": "DELETE, GET, HEAD"}),
    ],
)
def test_refuses(router: Router, method: str, path: str, status: int, headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        router.find(method, path)
    assert (caught.value.status, dict(caught.value.headers)) == (status, headers)


def test_a_route_is_there_once(router: Router) -> None:
    with pytest.raises(ValueError, match="two routes GET /v1/jobs"):
        router.add([route("GET", "/v1/jobs")])


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nonsense", b"\xff", b'{"a": 1, "a": 2}', b"NaN", b"[Infinity]", b"[" * 200_000, b"1" * 5000, b'{"a"'],
)
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_json(data)
    assert caught.value.status == 400
    assert len(caught.value.detail) < 300


def test_json() -> None:
    assert parse_json(bytearray(b'{"a": [1, 2.5, null, true, "x"]}')) == {"a": [1, 2.5, None, True, "x"]}
