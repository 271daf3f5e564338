"""/v1/jobs/ID/tasks and /v1/tasks: work for jobs with input nodes, its progress and its results."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelboxd.api.accept import prefers_raw
from modelboxd.api.problems import Problem
from modelboxd.api.routes import EVENTS, JSON, Answers, Body, Call, Param, Route, answer, nothing
from modelboxd.api.schema import number, ref, text
from modelboxd.api.task_events import Events
from modelboxd.api.task_inputs import Inputs
from modelboxd.api.task_json import SCHEMAS, failed, outputs_json, raw_body, raw_types, task_json, webhook_json
from modelboxd.api.tokens import Role
from modelboxd.server.answer import json_answer
from modelboxd.tasks.model import DEFAULT, FIRST, LAST, Task, TaskState
from modelboxd.tasks.values import DTYPES

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "Tasks"
SMALL = 64 << 10  # bytes up to which converting on the I/O thread holds up nobody
WAIT_MAX_S = 60.0
JOB = Param("id", text("The name of a job.", minLength=1, maxLength=64), "The job.")
TASK = Param("task", text("The name of a task.", minLength=1, maxLength=64), "The task.")


class _Handlers:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._tasks = api.tasks
        self._body = Body(types=(JSON, "multipart/form-data", "*/*"))

    def _now(self) -> float:
        return time.monotonic()

    async def submit(self, call: Call) -> web.StreamResponse:
        job_id, query = call.path["id"], call.query
        job = self._api.jobs.job(job_id)
        hook = query.get("webhook", "")
        if hook:
            self._tasks.webhooks.check(hook)
        self._tasks.check_room(job_id, self._api.length(call.request, self._body))
        data = await self._api.read(call.request, self._body)
        request = Inputs(call, data, job, self._tasks.settings.max_json)
        lists = request.lists() if len(data) <= SMALL else await self._api.run(request.lists)
        task = self._tasks.submit(
            job_id,
            lists,
            size=sum(items.bytes for _, items in lists),
            priority=query.get("priority", DEFAULT),
            timeout_s=query.get("timeout", float(self._tasks.settings.timeout)),
            hook=hook,
        )
        wants_async, wait_s = _prefers(call)
        if not wants_async or wait_s:
            await self._end(task, wait_s if wants_async else None)
            if task.is_over:
                return await self._done(call, task, keep=wants_async)
        headers = {"Location": f"/v1/tasks/{task.id}"}
        if "Prefer" in call.request.headers:
            headers["Preference-Applied"] = "respond-async"
        return answer(task_json(task, self._now(), outputs_max=-1), 202, headers)

    async def _end(self, task: Task, limit_s: float | None) -> None:
        """Waits for the end of a task, not longer than `limit_s`; a client that goes away cancels it."""
        try:
            with contextlib.suppress(TimeoutError):  # it goes on, and can be asked for
                async with asyncio.timeout(limit_s):
                    await task.end()
        except asyncio.CancelledError:
            self._tasks.cancel(task, "the client that waited for it has gone")
            raise

    async def _done(self, call: Call, task: Task, *, keep: bool) -> web.StreamResponse:
        """The answer for who has waited for a task that is over."""
        if task.error is not None:
            raise failed(task)
        outputs, accept = task.outputs, call.request.headers.get("Accept", "")
        if len(outputs) == 1 and accept and prefers_raw(accept, *raw_types(outputs[0])):
            made: web.StreamResponse = raw_body(outputs[0])
        else:
            made = await self._json(task)
        if not keep:
            self._tasks.let_outputs_go(task)
        return made

    async def _json(self, task: Task) -> web.StreamResponse:
        now = self._now()
        if task.result_bytes <= SMALL:
            return answer(task_json(task, now))
        outputs = list(task.outputs)
        made = task_json(task, now, outputs_max=-1)

        def written() -> Any:
            if not task.dropped:
                made["outputs"] = outputs_json(outputs)
            return json_answer(200, made)

        return (await self._api.run(written)).response()  # type: ignore[no-any-return]

    async def show(self, call: Call) -> web.StreamResponse:
        task = self._tasks.find(call.path["task"])
        wait_s = call.query.get("wait", 0)
        if wait_s and not task.is_over:
            with contextlib.suppress(TimeoutError):  # what it has so far is the answer
                async with asyncio.timeout(wait_s):
                    await task.end()
        return await self._json(task)

    async def output(self, call: Call) -> web.StreamResponse:
        task = self._tasks.find(call.path["task"])
        if task.dropped:
            raise Problem(410, "gone", "the outputs of this task are no longer kept")
        node, index = call.path["node"], int(call.path["index"])
        mine = [output for output in task.outputs if output.node == node]
        if index >= len(mine):
            has = f"it has {len(mine)} values" + ("" if task.is_over else " so far")
            raise Problem(404, "not_found", f"there is no value {index} at node '{node[:80]}' of this task: {has}")
        error = mine[index].error
        if error is not None:
            raise Problem(422, "unit_failed", error[1], more={"task": task.id, "unit_code": error[0]})
        return raw_body(mine[index])

    async def list(self, call: Call) -> web.StreamResponse:
        job = call.path.get("id", "") or call.query.get("job", "")
        limit = call.query.get("limit", 100)
        found = self._tasks.all(job, call.query.get("state", ""), call.query.get("before", 0))
        page = list(itertools.islice(found, limit + 1))
        if not page and "id" in call.path:
            self._api.jobs.show(job)
        now = self._now()
        made: dict[str, Any] = {"tasks": [task_json(task, now, outputs_max=-1) for task in page[:limit]]}
        if len(page) > limit:
            made["next"] = page[limit - 1].number
        return answer(made)

    async def cancel(self, call: Call) -> web.StreamResponse:
        task = self._tasks.find(call.path["task"])
        if task.is_over:
            raise Problem(409, "task_state", f"the task is over: it is {task.state.value}")
        self._tasks.cancel(task, "it was cancelled over the API")
        await task.end()
        return answer(task_json(task, self._now(), outputs_max=-1))

    async def delete(self, call: Call) -> web.StreamResponse:
        task = self._tasks.find(call.path["task"])
        self._tasks.cancel(task, "it was cancelled over the API")
        await task.end()
        self._tasks.forget(task)
        return nothing()


def _prefers(call: Call) -> tuple[bool, float]:
    """Whether the answer may come before the task is over, and how long to wait for that at first (RFC 7240)."""
    words = [word.strip().lower() for word in ",".join(call.request.headers.getall("Prefer", [])).split(",")]
    waits = [int(word[5:]) for word in words if re.fullmatch(r"wait=[0-9]{1,4}", word)]
    wants = "respond-async" in words
    if "mode" in call.query:
        wants = call.query["mode"] == "async"
    return wants, min(float(waits[0]), WAIT_MAX_S) if waits else 0.0


SUBMIT_HELP = """The body is one of:

- `application/json`: `{"inputs": {"NODE": VALUE}}`, up to `tasks.max_json` bytes.
- `multipart/form-data`: a part per value, named as its input node. A part of type `application/json` is a VALUE, of
  `text/...` (or without a type and file name) text, of any other type bytes. `dtype` and `shape` as parameters of its
  Content-Type make it a tensor.
- anything else: the body is the value of the only input node, or of `port`. `text/...` is text; without a type, or
  `application/x-www-form-urlencoded` as curl sends it, what is UTF-8 is text; all others are bytes, a tensor with
  `dtype` and `shape`.

Answers when the task is over, at once (202) with `mode=async` or `Prefer: respond-async`, or after some seconds with
`Prefer: respond-async, wait=10`. A client that waits and goes away cancels its task. A task that fails is answered
with a problem that names the node. A task gives its only output as the body when `Accept` prefers `text/plain`,
`application/octet-stream` or the type of the output to JSON."""
PAGING = (
    Param("state", text(enum=[state.value for state in TaskState]), "Only tasks in this state."),
    Param("limit", number(integer=True, minimum=1, maximum=1000), "How many at most; 100 where it is not given."),
    Param("before", number(integer=True, minimum=1), "Only tasks with a smaller number: `next` of the page before."),
)
OPTIONS = (
    Param("mode", text(enum=["sync", "async"]), "async: answers before the task is over."),
    Param("port", text(minLength=1, maxLength=256), "The input node that gets the whole body as its value."),
    Param("dtype", text(enum=list(DTYPES)), "Element type of a body that is bytes."),
    Param("shape", text(pattern=r"^[0-9]{1,12}(,[0-9]{1,12}){0,31}$", examples=["1,3,224,224"]), "Its shape."),
    Param(
        "priority",
        number(integer=True, minimum=FIRST, maximum=LAST),
        "1 is served first, 10 last; 5 where it is not given.",
    ),
    Param(
        "timeout",
        number(minimum=0.001, maximum=86400),
        "Seconds until it fails, waiting included; `tasks.timeout` where it is not given.",
    ),
    Param(
        "webhook",
        text(minLength=1, maxLength=2048),
        "URL that gets the task by POST when it is over; its host must be in `tasks.webhook_hosts`.",
    ),
)
NEW = Body(
    ref("NewTask"),
    (JSON, "multipart/form-data", "application/octet-stream", "text/plain", "*/*"),
    required=False,
    streamed=True,
)
EVENTS_HELP = (
    "Begins with what there is already. `Last-Event-ID` goes on behind that output. Outputs of more than 1 MiB are "
    "only named. A client that does not read for half a minute is cut off."
)


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""
    do = _Handlers(api)
    events = Events(api)
    one = "/v1/tasks/{task}"
    over = {200: Answers("The task.", ref("Task"))}
    later = Answers("It waits or runs; Location is where to ask.", ref("Task"))
    page = {200: Answers("The latest first, without their outputs.", ref("Tasks"))}
    stream = Answers(
        "Events `state`, `output` (with an id), `progress`, and `end` as the last one.",
        {"type": "string"},
        EVENTS,
    )
    raw = Answers("The bytes; X-Modelbox-Dtype and X-Modelbox-Shape say what they are.", {"type": "string"}, "*/*")
    output = (
        TASK,
        Param("node", text(minLength=1, maxLength=256), "The output node."),
        Param("index", text(pattern="^[0-9]{1,9}$"), "Which one of its values, from 0 on."),
    )
    return [
        Route(
            "POST", "/v1/jobs/{id}/tasks", do.submit, "submitTask", "Give a job a task", Role.OPERATE,
            {200: Answers("The task is over.", ref("Task")), 202: later},
            (404, 409, 422, 429, 502, 503, 504), SUBJECT, (JOB,), OPTIONS, NEW, SUBMIT_HELP,
        ),
        Route(
            "GET", "/v1/jobs/{id}/tasks", do.list, "listJobTasks", "Tasks of a job", Role.READ, page, (404,), SUBJECT,
            (JOB,), PAGING,
        ),
        Route(
            "GET", "/v1/tasks", do.list, "listTasks", "All tasks", Role.READ, page, (), SUBJECT,
            query=(Param("job", text(minLength=1, maxLength=64), "Only tasks of this job."), *PAGING),
            help="Tasks that wait or run, and those that are over and still kept: `tasks.keep` seconds, 10000 at most.",
        ),
        Route(
            "GET", one, do.show, "showTask", "One task, with its outputs", Role.READ, over, (404,), SUBJECT, (TASK,),
            (Param("wait", number(minimum=0, maximum=WAIT_MAX_S), "Seconds to wait for its end."),),
        ),
        Route(
            "GET", f"{one}/outputs/{{node}}/{{index}}", do.output, "showTaskOutput", "One output as it is", Role.READ,
            {200: raw}, (404, 410, 422), SUBJECT, output,
        ),
        Route(
            "GET", f"{one}/events", events.serve, "taskEvents", "What happens, as server-sent events", Role.READ,
            {200: stream}, (404, 503), SUBJECT, (TASK,),
            (Param("from", number(integer=True, minimum=0), "The number of the first output that is told."),),
            help=EVENTS_HELP,
        ),
        Route(
            "POST", f"{one}/cancel", do.cancel, "cancelTask", "Cancel a task", Role.OPERATE, over, (404, 409), SUBJECT,
            (TASK,), help="A call of a flow unit that runs is not interrupted; its result is thrown away.",
        ),
        Route(
            "DELETE", one, do.delete, "deleteTask", "Cancel and forget a task", Role.OPERATE,
            {204: Answers("It is gone.")}, (404,), SUBJECT, (TASK,),
        ),
    ]  # fmt: skip


__all__ = ["SCHEMAS", "routes", "webhook_json"]
