"""Errors as answers: problem JSON (RFC 9457) with a stable code; other shapes for routes that others defined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from modelbox.errors import (
    BusyError,
    ConfigError,
    GraphError,
    InternalError,
    ModelBoxError,
    OutOfMemoryError,
    ShutdownError,
    TimedOutError,
    UnitError,
    WorkerLostError,
)
from modelboxd.inference.errors import InferenceError, ModelStateError, NoSuchModelError
from modelboxd.jobs.model import (
    BadJobIdError,
    JobExistsError,
    JobStateError,
    NoSuchJobError,
    problems_of,
)
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers, json_answer
from modelboxd.tasks.model import (
    NoSuchTaskError,
    ResultLateError,
    ResultLostError,
    TaskCancelledError,
    TaskInputError,
    TaskResultError,
)

PROBLEM_JSON = "application/problem+json"


@dataclass(slots=True)
class Problem(Exception):
    """Raised by handlers: answered as an error. `code` is stable; `detail` is one line for a person."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)  # further members, such as errors
    close: bool = False  # the connection ends with it


# What an error of the rest of the server is to a client; the first that fits.
_KINDS: tuple[tuple[type[ModelBoxError], int, str], ...] = (
    (NoSuchJobError, 404, "no_such_job"),
    (JobExistsError, 409, "job_exists"),
    (BadJobIdError, 422, "bad_job_id"),
    (JobStateError, 409, "job_state"),
    (NoSuchModelError, 404, "no_such_model"),
    (ModelStateError, 409, "model_state"),
    (InferenceError, 400, "bad_request"),
    (NoSuchTaskError, 404, "no_such_task"),
    (TaskCancelledError, 409, "cancelled"),
    (TaskInputError, 422, "not_valid"),
    (ResultLostError, 502, "worker_lost"),
    (ResultLateError, 504, "timed_out"),
    (TaskResultError, 422, "unit_failed"),
    (InternalError, 500, "internal"),
    (GraphError, 422, "bad_graph"),
    (ConfigError, 422, "bad_graph"),
    (TimedOutError, 504, "timed_out"),
    (BusyError, 429, "busy"),
    (OutOfMemoryError, 503, "no_memory"),
    (ShutdownError, 503, "stopping"),
    (WorkerLostError, 502, "worker_lost"),
    (UnitError, 422, "unit_failed"),
)
CODES: dict[str, str] = {
    "bad_request": "The request is not well-formed.",
    "not_valid": "A value is not what the document of the API says; `errors` tells where.",
    "unauthorized": "A token is missing or not known.",
    "forbidden": "The role of the client does not allow this.",
    "address_not_allowed": "The address of the client is not in [acl] allow.",
    "host_not_allowed": "The Host header names another server; see server.hosts.",
    "origin_not_allowed": "A web page of another origin; see server.origins.",
    "not_found": "There is no such path.",
    "method_not_allowed": "The path has other methods; the Allow header names them.",
    "media_type": "The Content-Type is not one of this path.",
    "too_late": "The request did not arrive in time.",
    "too_large": "The body is too large.",
    "head_too_large": "The header of the request is too large.",
    "too_many_requests": "More requests than this client may send; Retry-After says when to try again.",
    "no_such_job": "There is no job of this id.",
    "job_exists": "The id is taken.",
    "bad_job_id": "The id is not allowed.",
    "job_state": "The job's state does not allow this.",
    "no_such_model": "There is no model of this name or version.",
    "model_state": "The model's graph gives other tensors than it declares.",
    "no_such_task": "There is no task of this id, or no longer.",
    "task_state": "The task's state does not allow this.",
    "gone": "It was there, and is no longer kept.",
    "cancelled": "The task was cancelled.",
    "no_inputs": "The graph of the job has no input node.",
    "bad_graph": "The graph cannot be built; `errors` lists every problem.",
    "unit_failed": "A flow unit failed.",
    "worker_lost": "The process that did the work died.",
    "timed_out": "A time limit passed.",
    "busy": "No room now; try again later.",
    "no_memory": "A limit on memory was reached.",
    "stopping": "The service is stopping.",
    "plugin_failed": "A service plugin failed; the log tells more.",
    "plugin_timed_out": "A service plugin did not answer in time.",
    "failed": "It could not be done.",
    "internal": "A bug of modelbox; the log tells more.",
}


def problem_of(error: ModelBoxError) -> Problem:
    """What a client is told of an error."""
    status, code = next(((status, code) for kind, status, code in _KINDS if isinstance(error, kind)), (500, "failed"))
    if code == "internal":
        return Problem(500, code, "internal error; the log of the server tells more")
    lines = [str(problem) for problem in problems_of(error)]
    more: dict[str, Any] = {"errors": [{"detail": line} for line in lines]} if isinstance(error, GraphError) else {}
    if isinstance(error, TaskInputError):
        more = {"errors": [{"pointer": place, "detail": text} for place, text in error.problems]}
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, round(getattr(error, "retry_after_s", 0.0))))
    return Problem(status, code, lines[0], headers, more)


Shape = Callable[[Problem], Answer]
# Of what is wrong before there is a request that a route could answer.
_EARLY = {408: "too_late", 413: "too_large", 431: "head_too_large", 500: "internal", 503: "busy", 404: "not_found"}


def as_problem(answer: Answer) -> Answer:
    """What the HTTP server made with error_answer(), as problem JSON."""
    detail = json.loads(answer.body)["error_msg"]
    headers = {name: text for name, text in answer.headers.fields.items() if name == "Retry-After"}
    code = _EARLY.get(answer.status, "bad_request")
    return problem_answer(Problem(answer.status, code, detail, headers, close=answer.close))


def problem_answer(problem: Problem) -> Answer:
    """Problem JSON."""
    title = HTTPStatus(problem.status).phrase
    body = {
        "type": f"urn:modelbox:error:{problem.code}",
        "title": title,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.more,
    }
    made = json_answer(problem.status, body, close=problem.close)
    fields = Headers({**SECURITY_HEADERS, **problem.headers, "Content-Type": PROBLEM_JSON})
    return made._replace(headers=fields)
