"""The OpenAPI document, put together from the declarations of all routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox.version import VERSION
from modelboxd.api.problems import PROBLEM_JSON, problem_answer
from modelboxd.api.routes import JSON, Answers, Body, Call, Param, Route, answer
from modelboxd.api.schema import Schemas, list_of, number, record, ref, text
from modelboxd.api.tokens import Role

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "Document"
SCHEMAS = {
    "ProblemDetail": record(
        {"detail": text("What is wrong.")}, {"pointer": text("JSON pointer to the value, or ?name of a parameter.")}
    ),
    "Problem": record(
        {
            "type": text("urn:modelbox:error: and the code."),
            "title": text("What the status means."),
            "status": number("The status of the answer.", integer=True),
            "code": text("Stable; for programs."),
            "detail": text("What went wrong; for people."),
        },
        {
            "errors": list_of(ref("ProblemDetail"), "Every single thing that is wrong."),
            "task": text("The task that it is about."),
            "node": text("The node of the graph where it failed."),
            "unit_code": text("What the flow unit calls the error: <unit>.<reason>."),
        },
    ),
}
# What any route may answer before its handler is asked.
ANY = (400, 401, 403, 408, 413, 415, 422, 429, 431, 500, 503)


def document(routes: Iterable[Route], schemas: Schemas, *, has_tokens: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    subjects: dict[str, None] = {}
    for route in routes:
        if route.subject:
            subjects[route.subject] = None
            path = re.sub(r"\*\}", "}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, has_tokens)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "modelbox",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in subjects],
        "paths": paths,
        "components": {"schemas": schemas.named},
    }
    if has_tokens:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}  # type: ignore[index]
    return made


def _operation(route: Route, has_tokens: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "tags": [route.subject]}
    if route.help:
        made["description"] = route.help
    if has_tokens:
        made["security"] = [] if route.role is Role.NONE else [{"token": []}]
    made["x-role"] = route.role.name.lower()
    if route.plugin:
        made["x-plugin"] = route.plugin
    parameters = [_parameter(param, "path") for param in route.path_params]
    parameters += [_parameter(param, "query") for param in route.query]
    if parameters:
        made["parameters"] = parameters
    if route.body is not None:
        made["requestBody"] = _body(route.body)
    made["responses"] = {str(status): _response(status, answers) for status, answers in route.answers.items()}
    for status in sorted({*ANY, *route.problems} - set(route.answers)):
        made["responses"][str(status)] = _problem(route, status)
    return made


def _parameter(param: Param, place: str) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": place,
        "description": param.help,
        "required": param.required or place == "path",
        "schema": param.schema,
    }


def _body(body: Body) -> dict[str, Any]:
    made: dict[str, Any] = {"required": body.required, "content": {}}
    for kind in body.types:
        made["content"][kind] = {"schema": body.schema} if body.schema and kind == JSON else {}
    if body.help:
        made["description"] = body.help
    return made


def _response(status: int, answers: Answers) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answers.help or HTTPStatus(status).phrase}
    if answers.schema is not None:
        made["content"] = {answers.type: {"schema": answers.schema}}
    return made


def _problem(route: Route, status: int) -> dict[str, Any]:
    if route.shape is problem_answer:
        content = {PROBLEM_JSON: {"schema": ref("Problem")}}
    else:
        content = {JSON: {"schema": {"type": "object"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""

    async def show(_: Call) -> web.StreamResponse:
        return answer(document(api.router.routes, api.schemas, has_tokens=api.access.has_tokens))

    return [
        Route(
            "GET", "/openapi.json", show, "openapi", "This document", Role.READ,
            {200: Answers("OpenAPI 3.1.", {"type": "object"})}, subject=SUBJECT,
        )
    ]  # fmt: skip
