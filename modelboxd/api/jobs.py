"""/v1/jobs: all that can be done with jobs, and reading the graph files again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelboxd.api.routes import Answers, Body, Call, Param, Route, answer, nothing
from modelboxd.api.schema import list_of, number, record, ref, text
from modelboxd.api.tokens import Role
from modelboxd.jobs.manager import Reloaded
from modelboxd.jobs.model import ID_LENGTH, ID_PATTERN, GraphText, JobView, Origin, State

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "Jobs"
GRAPH_HELP = "A graph file as text (TOML, or JSON when it begins with {), or the same as an object."
_STATES = [state.value for state in State]
_ORIGINS = [origin.value for origin in Origin]
SCHEMAS = {
    "JobId": text(
        "The name of a job.", pattern=f"^{ID_PATTERN}$", minLength=2, maxLength=ID_LENGTH, examples=["text_detection"]
    ),
    "Graph": {"description": GRAPH_HELP, "oneOf": [{"type": "string", "minLength": 1}, {"type": "object"}]},
    "NewJob": record({"id": ref("JobId"), "graph": ref("Graph")}),
    "NewGraph": record({"graph": ref("Graph")}),
    "Node": record(
        {
            "name": text("Its name in the graph."),
            "unit": text("The flow unit."),
            "device": text("The kind of device."),
            "step": number("Nodes of the same step run as one.", integer=True),
            "kind": text("What runs it: segment, native, worker, builtin, input, output."),
        }
    ),
    "Job": record(
        {
            "id": text("Its name."),
            "state": text("Where it is in its life.", enum=_STATES),
            "origin": text("file: of a graph file; api: made here, and kept over restarts; plugin.", enum=_ORIGINS),
            "error": text("Why it failed, one line per problem; empty when it did not."),
            "created_at": number("Seconds since 1970."),
            "started_at": number("Seconds since 1970; 0 = it never ran."),
            "sessions": number("Sessions under way.", integer=True),
            "draining": number("Graphs that were replaced and still end their sessions.", integer=True),
        },
        {
            "graph": text("Name of the graph."),
            "description": text("What the graph says about itself."),
            "file": text("The graph file."),
            "inputs": list_of(text(), "Input nodes: the job takes tasks."),
            "outputs": list_of(text(), "Output nodes."),
            "nodes": list_of(ref("Node"), "Its nodes, in the order of the steps."),
        },
    ),
    "Jobs": record({"jobs": list_of(ref("Job"))}),
    "Reloaded": record(
        {
            "added": list_of(text(), "Jobs of new files."),
            "replaced": list_of(text(), "Jobs of changed files, and of those that had failed and now run."),
            "removed": list_of(text(), "Jobs of files that are gone."),
            "unchanged": list_of(text(), "Jobs that were left as they are."),
            "failed": {
                "type": "object",
                "additionalProperties": text(),
                "description": "Why files could not be used, by job; what ran before goes on.",
            },
        }
    ),
}  # fmt: skip
ID = Param("id", text("The name of a job.", minLength=1, maxLength=ID_LENGTH), "The job.")


def job_json(view: JobView, *, nodes: bool = True) -> dict[str, Any]:
    """A Job of the document."""
    made: dict[str, Any] = {
        "id": view.id,
        "state": view.state.value,
        "origin": view.origin.value,
        "error": view.error,
        "created_at": view.created,
        "started_at": view.started,
        "sessions": view.sessions,
        "draining": view.draining,
    }
    made |= {
        key: value
        for key, value in (("graph", view.graph), ("description", view.description), ("file", view.file))
        if value
    }
    if nodes:
        made["inputs"], made["outputs"] = list(view.inputs), list(view.outputs)
        made["nodes"] = [
            {"name": node.name, "unit": node.unit, "device": node.device, "step": node.step, "kind": node.kind}
            for node in view.nodes
        ]
    return made


def reloaded_json(done: Reloaded) -> dict[str, Any]:
    """A Reloaded of the document."""
    return {
        "added": done.added,
        "replaced": done.replaced,
        "removed": done.removed,
        "unchanged": done.unchanged,
        "failed": done.failed,
    }


def graph_text(value: Any) -> GraphText:
    """A Graph of the document."""
    if isinstance(value, str):
        return GraphText(value, "json" if value.lstrip()[:1] == "{" else "toml")
    return GraphText(json.dumps(value), "json")


class _Handlers:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._jobs = api.jobs

    async def list(self, _: Call) -> web.StreamResponse:
        return answer({"jobs": [job_json(view, nodes=False) for view in self._jobs.all()]})

    async def show(self, call: Call) -> web.StreamResponse:
        return answer(job_json(self._jobs.show(call.path["id"])))

    async def create(self, call: Call) -> web.StreamResponse:
        job_id = call.body["id"]
        view = await self._api.run(self._jobs.create, job_id, graph_text(call.body["graph"]))
        return answer(job_json(view), 201, {"Location": f"/v1/jobs/{job_id}"})

    async def replace(self, call: Call) -> web.StreamResponse:
        graph = graph_text(call.body["graph"])
        return answer(job_json(await self._api.run(self._jobs.replace, call.path["id"], graph)))

    async def start(self, call: Call) -> web.StreamResponse:
        return answer(job_json(await self._api.run(self._jobs.start, call.path["id"])))

    async def stop(self, call: Call) -> web.StreamResponse:
        return answer(job_json(await self._api.run(self._jobs.stop, call.path["id"])))

    async def delete(self, call: Call) -> web.StreamResponse:
        await self._api.run(self._jobs.delete, call.path["id"])
        return nothing()

    async def reload(self, _: Call) -> web.StreamResponse:
        return answer(reloaded_json(await self._api.run(self._jobs.reload)))


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""
    do = _Handlers(api)
    job = {200: Answers("The job.", ref("Job"))}
    one = "/v1/jobs/{id}"
    return [
        Route(
            "GET", "/v1/jobs", do.list, "listJobs", "All jobs", Role.READ,
            {200: Answers("All jobs, in the order they came, without their nodes.", ref("Jobs"))}, subject=SUBJECT,
        ),
        Route(
            "POST", "/v1/jobs", do.create, "createJob", "Make and start a job", Role.ADMIN,
            {201: Answers("It runs.", ref("Job"))}, (409, 422, 503), SUBJECT, body=Body(ref("NewJob")),
            help="Answers when the job runs, or says why it does not; then nothing of it is left. "
            "The job survives a restart of the server.",
        ),
        Route(
            "GET", one, do.show, "showJob", "One job", Role.READ, job, (404,), SUBJECT, (ID,),
        ),
        Route(
            "PUT", one, do.replace, "replaceJob", "Give a job another graph", Role.ADMIN, job, (404, 409, 422, 503),
            SUBJECT, (ID,), body=Body(ref("NewGraph")),
            help="Starts the new graph, moves the HTTP endpoints over between two requests, and lets the old graph end "
            "its sessions. When the new one does not start, the old one goes on.",
        ),
        Route(
            "DELETE", one, do.delete, "deleteJob", "End and forget a job", Role.ADMIN, {204: Answers("It is gone.")},
            (404, 409), SUBJECT, (ID,),
            help="Sessions under way have server.drain_timeout seconds to end. "
            "Jobs of graph files end when their file goes.",
        ),
        Route(
            "POST", f"{one}/start", do.start, "startJob", "Start a job that does not run", Role.OPERATE, job,
            (404, 409, 422, 503), SUBJECT, (ID,),
        ),
        Route(
            "POST", f"{one}/stop", do.stop, "stopJob", "Stop a job, and keep it", Role.OPERATE, job, (404, 409),
            SUBJECT, (ID,), help="It stays stopped over a restart if it was made over the API.",
        ),
        Route(
            "POST", "/v1/reload", do.reload, "reload", "Read the graph files again", Role.ADMIN,
            {200: Answers("What was done.", ref("Reloaded"))}, (503,), SUBJECT,
            help="New files start, changed ones replace their job, jobs whose file is gone end, and all others are "
            "left alone.",
        ),
    ]  # fmt: skip
