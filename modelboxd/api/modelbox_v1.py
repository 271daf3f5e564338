"""/v1/modelbox/job: the routes that clients of ModelBox know, with its statuses, codes and texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox.errors import ConfigError, GraphError, ModelBoxError
from modelboxd.api.problems import Problem
from modelboxd.api.routes import Answers, Body, Call, Param, Route, answer, nothing
from modelboxd.api.schema import list_of, record, ref, text
from modelboxd.api.tokens import Role
from modelboxd.jobs.model import BadJobIdError, GraphText, JobExistsError, JobView, NoSuchJobError, State, problems_of
from modelboxd.server.answer import Answer, json_answer

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "ModelBox jobs"
_STATUSES = ["CREATEING", "RUNNING", "SUCCEEDED", "FAILED", "PENDING", "DELETEING", "UNKNOWN", "NOTEXIST"]
SCHEMAS = {
    "ModelBoxJob": record(
        {
            "job_id": text("The name of the job."),
            "job_status": text("Where it is in its life.", enum=_STATUSES),
            "job_error_msg": text("Why it failed."),
        }
    ),
    "ModelBoxJobs": record({"job_list": list_of(ref("ModelBoxJob"))}),
    "ModelBoxNewJob": {
        "type": "object",
        "properties": {
            "job_id": text("2 to 64 of letters, digits, - + ~ _ . and no . in front."),
            "job_graph": {
                "oneOf": [{"type": "object"}, {"type": "string"}],
                "description": "An object, or with job_graph_format toml a text.",
            },
            "job_graph_format": text("json (default) or toml."),
        },
        "required": ["job_id", "job_graph"],
    },
    "ModelBoxError": record(
        {"error_code": text("MODELBOX_001 to MODELBOX_008."), "error_msg": text("What was wrong.")}
    ),
}
MESSAGES = {
    "MODELBOX_001": "server internal error",
    "MODELBOX_002": "no such job",
    "MODELBOX_003": "can not get jobId",
    "MODELBOX_004": "can not get graph",
    "MODELBOX_005": "job already exist",
    "MODELBOX_006": "invalid command",
    "MODELBOX_007": "bad id: must match ^[0-9a-zA-Z\\-+~_][0-9a-zA-Z\\-+~_.]+, at most 64 characters",
    "MODELBOX_008": "job config is invalid",
}
# What the codes of the other routes are called here.
_CODES = {
    "internal": "MODELBOX_001",
    "failed": "MODELBOX_001",
    "no_such_job": "MODELBOX_002",
    "job_exists": "MODELBOX_005",
    "bad_job_id": "MODELBOX_007",
    "bad_graph": "MODELBOX_008",
    "unit_failed": "MODELBOX_008",
}


def modelbox_answer(problem: Problem) -> Answer:
    """{"error_code", "error_msg"}. What ModelBox has no code for is an invalid command."""
    code = problem.code if problem.code in MESSAGES else _CODES.get(problem.code, "MODELBOX_006")
    message = problem.detail if problem.code in MESSAGES else f"{MESSAGES[code]}: {problem.detail}"
    body = {"error_code": code, "error_msg": message}
    return json_answer(problem.status, body, dict(problem.headers), close=problem.close)


def refusal(code: str, status: int = 400, more: str = "") -> Problem:
    """An error as ModelBox says it."""
    return Problem(status, code, f"{MESSAGES[code]}, {more}" if more else MESSAGES[code])


def job_json(view: JobView) -> dict[str, str]:
    """A ModelBoxJob of the document."""
    return {"job_id": view.id, "job_status": view.state.modelbox, "job_error_msg": view.error}


class _Handlers:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._jobs = api.jobs

    async def create(self, call: Call) -> web.StreamResponse:
        job_id, graph = _new_job(call.body)
        try:
            await self._api.run(lambda: self._jobs.create(job_id, graph, keep_failed=True))
        except BadJobIdError:
            raise refusal("MODELBOX_007") from None
        except JobExistsError:
            raise refusal("MODELBOX_005") from None
        except (GraphError, ConfigError) as error:
            reasons = ", ".join(str(problem) for problem in problems_of(error))
            raise refusal("MODELBOX_008", more=f"Not found, build graph failed, {reasons}") from None
        except ModelBoxError as error:
            view = _view(self._jobs, job_id)
            if view is None or view.state is not State.FAILED:
                raise
            raise refusal("MODELBOX_008", more=str(error)) from None
        return nothing(201)

    async def list(self, _: Call) -> web.StreamResponse:
        return answer({"job_list": [job_json(view) for view in self._jobs.all()]})

    async def show(self, call: Call) -> web.StreamResponse:
        view = _view(self._jobs, call.path["id"])
        if view is None:
            raise refusal("MODELBOX_002", 404)
        return answer(job_json(view))

    async def delete(self, call: Call) -> web.StreamResponse:
        if call.path["id"] == "list/all":  # is the list; a job of this name has its own path
            raise Problem(405, "method_not_allowed", "this path has GET", {"Allow": "GET"})
        job_id = call.path["id"].rpartition("/")[2]
        try:
            await self._api.run(self._jobs.delete, job_id)
        except NoSuchJobError:
            raise refusal("MODELBOX_002", 404) from None
        return nothing()

    async def unknown(self, _: Call) -> web.StreamResponse:
        raise refusal("MODELBOX_006", 500)


def _view(jobs: Any, job_id: str) -> JobView | None:
    try:
        found: JobView = jobs.show(job_id)
    except NoSuchJobError:
        return None
    return found


def _new_job(body: bytes | bytearray | None) -> tuple[str, GraphText]:
    """What a PUT brings, with the refusals of ModelBox in its order. Raises Problem."""
    try:
        data = json.loads(bytes(body or b"").decode())
    except (ValueError, RecursionError):
        raise refusal("MODELBOX_006") from None
    if not isinstance(data, dict):
        raise refusal("MODELBOX_006")
    job_id, graph = data.get("job_id"), data.get("job_graph")
    if not isinstance(job_id, str):
        raise refusal("MODELBOX_003")
    form = data.get("job_graph_format", "json")
    if form not in ("json", "toml"):
        raise refusal("MODELBOX_006", more="job_graph_format is json or toml")
    if isinstance(graph, dict) and form == "json":
        return job_id, GraphText(json.dumps(graph), "json")
    if isinstance(graph, str) and graph:
        return job_id, GraphText(graph, form)
    raise refusal("MODELBOX_004")


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""
    do = _Handlers(api)
    base = "/v1/modelbox/job"
    name = Param("id", text("The name of a job.", minLength=1), "The job.")

    def route(
        method: str, path: str, handler: Any, operation: str, summary: str, role: Role, answers: Any, **more: Any
    ) -> Route:
        return Route(method, path, handler, operation, summary, role, answers, shape=modelbox_answer, **more)

    return [
        route(
            "PUT", base, do.create, "modelboxCreate", "Make and start a job", Role.ADMIN, {201: Answers("It runs.")},
            problems=(400, 503), subject=SUBJECT, body=Body(ref("ModelBoxNewJob"), checked=False),
            help="A job that does not start stays as FAILED until it is deleted.",
        ),
        route(
            "GET", f"{base}/list/all", do.list, "modelboxList", "All jobs", Role.READ,
            {200: Answers("All jobs.", ref("ModelBoxJobs"))}, subject=SUBJECT,
        ),
        route(
            "GET", f"{base}/{{id}}", do.show, "modelboxShow", "One job", Role.READ,
            {200: Answers("The job.", ref("ModelBoxJob"))}, problems=(404,), subject=SUBJECT, path_params=(name,),
        ),
        route(
            "DELETE", f"{base}/{{id}}", do.delete, "modelboxDelete", "End and forget a job", Role.ADMIN,
            {204: Answers("It is gone.")}, problems=(404, 409), subject=SUBJECT, path_params=(name,),
            help="Of a longer path only the last part counts.",
        ),
        route("DELETE", f"{base}/{{id*}}", do.delete, "modelboxDeleteBelow", "The same", Role.ADMIN, {}),
        route("GET", f"{base}/{{id*}}", do.unknown, "modelboxUnknown", "Nothing", Role.READ, {}),
    ]  # fmt: skip


__all__ = ["SCHEMAS", "modelbox_answer", "routes"]
