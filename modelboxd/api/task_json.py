"""Tasks as clients see them: schemas, JSON, bodies of single outputs, problems."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from modelbox.errors import ModelBoxError
from modelboxd.api.problems import Problem, problem_of
from modelboxd.api.schema import flag, list_of, number, record, ref, text
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers
from modelboxd.tasks.manager import since_1970
from modelboxd.tasks.model import Output, Task, TaskState, node_of
from modelboxd.tasks.values import DTYPES, tensor_of, to_json

TOLD_MAX = 1 << 20  # bytes of outputs in one event or webhook; others are only named

_VALUE_HELP = (
    "Text as it is; a number, true, false or nested lists of numbers as a tensor (int64, float64, bool); or an object "
    "with one of `text`, `json` (any JSON, which becomes text), `base64`, `data` (numbers), with `dtype` and `shape` "
    'beside the last two, and `meta` beside all; or {"values": [...]} with any number of these.'
)
SCHEMAS = {
    "NewTask": record(
        {"inputs": {"type": "object", "additionalProperties": ref("TaskInput"), "description": "By input node."}}
    ),
    "TaskInput": {"description": _VALUE_HELP},
    "TaskOutput": record(
        {},
        {
            "text": text("A text."),
            "base64": text("Bytes, or a tensor that is large, of uint8, or not finite."),
            "data": {"description": "A tensor as nested lists of numbers."},
            "dtype": text("Of a tensor.", enum=list(DTYPES)),
            "shape": list_of(number(integer=True), "Of a tensor."),
            "meta": {"type": "object", "description": "Other meta values of the buffer, as far as JSON has them."},
            "error": ref("TaskValueError"),
            "left_out": number("Too large here, in bytes; the task has it.", integer=True),
        },
    ),
    "TaskValueError": record(
        {"code": text("<unit>.<reason>"), "detail": text("What went wrong with this value.")},
        {"node": text("Where, if only one node has this unit.")},
    ),
    "TaskError": record(
        {"code": text("Stable; as in problems."), "detail": text("What went wrong.")},
        {"node": text("Where."), "unit_code": text("<unit>.<reason>, when a unit gave it.")},
    ),
    "TaskNode": record(
        {
            "name": text("The node, or first..last of nodes that run as one."),
            "values": number("Buffers of this task that went in.", integer=True),
            "seconds": number("Time in it. A turn that serves several tasks is shared by the number of their buffers."),
        }
    ),
    "TaskHook": record(
        {
            "url": text("Who is told."),
            "state": text("How far that is.", enum=["waiting", "sending", "delivered", "failed"]),
            "attempts": number("How often it was tried.", integer=True),
        },
        {"error": text("Why the last attempt failed.")},
    ),
    "Task": record(
        {
            "id": text("Its name."),
            "job": text("The job."),
            "number": number("Counts up over all tasks; for paging.", integer=True),
            "state": text("Where it is in its life.", enum=[state.value for state in TaskState]),
            "priority": number("1 is served first, 10 last.", integer=True),
            "created_at": number("Seconds since 1970."),
            "elapsed": number("Seconds since then, or until its end."),
            "queue_time": number("Seconds that it waited for its turn."),
            "nodes": list_of(ref("TaskNode"), "What it cost."),
            "peak_bytes": number(
                "The most bytes of its buffers that waited or were worked on at once; a buffer that goes to two nodes "
                "counts twice.",
                integer=True,
            ),
            "values_out": number("Values that came out so far.", integer=True),
        },
        {
            "started_at": number("Seconds since 1970."),
            "ended_at": number("Seconds since 1970."),
            "timeout": number("Seconds that it may take, waiting included."),
            "outputs": {
                "type": "object",
                "additionalProperties": list_of(ref("TaskOutput")),
                "description": "By output node, in order. Of a task that runs: so far.",
            },
            "outputs_dropped": flag("The outputs are no longer kept."),
            "error": ref("TaskError"),
            "webhook": ref("TaskHook"),
        },
    ),
    "Tasks": record(
        {"tasks": list_of(ref("Task"))}, {"next": number("As `before` it gives the next page.", integer=True)}
    ),
}  # fmt: skip


def task_json(task: Task, now: float, *, outputs_max: int | None = None) -> dict[str, Any]:
    """A Task of the document. `outputs_max`: bytes of outputs beyond which they are left out; -1 = all are."""
    made: dict[str, Any] = {
        "id": task.id,
        "job": task.job,
        "number": task.number,
        "state": task.state.value,
        "priority": task.priority,
        "created_at": round(task.created, 6),
        "elapsed": round(task.elapsed(now), 6),
        "queue_time": round(task.queue_time(now), 6),
        "nodes": [],
        "peak_bytes": 0,
        "values_out": len(task.outputs) + task.gone,
    }
    account = task.account
    if account is not None:
        made["peak_bytes"] = account.peak_bytes
        made["nodes"] = [
            {"name": name, "values": values, "seconds": round(spent / 1e9, 9)}
            for name, (values, spent) in list(account.times.items())
        ]
    for key, moment in (("started_at", task.started_at), ("ended_at", task.ended_at)):
        if moment:
            made[key] = since_1970(task, moment)
    if task.timeout_s:
        made["timeout"] = task.timeout_s
    if task.dropped:
        made["outputs_dropped"] = True
    elif outputs_max != -1 and (task.outputs or task.is_over):
        made["outputs"] = outputs_json(task.outputs, outputs_max)
    if task.error is not None:
        made["error"] = error_json(task.error)
    if task.hook is not None:
        hook = task.hook
        made["webhook"] = {"url": hook.url, "state": hook.state, "attempts": hook.attempts}
        if hook.error:
            made["webhook"]["error"] = hook.error
    return made


def outputs_json(outputs: list[Output], limit: int | None = None) -> dict[str, list[Any]]:
    """Outputs by node; behind `limit` bytes only their sizes."""
    made: dict[str, list[Any]] = {}
    size = 0
    for output in list(outputs):
        size += output.size
        told = to_json(output) if limit is None or size <= limit else {"left_out": len(output.data)}
        made.setdefault(output.node, []).append(told)
    return made


def error_json(error: ModelBoxError) -> dict[str, Any]:
    """A TaskError of the document."""
    problem = problem_of(error)
    made = {"code": problem.code, "detail": problem.detail}
    made |= {key: value for key, value in (("node", node_of(error)), ("unit_code", unit_code(error))) if value}
    return made


def unit_code(error: ModelBoxError) -> str:
    """ "<unit>.<reason>" of an error that a unit gave."""
    return str(getattr(error, "unit_code", ""))


def webhook_json(task: Task) -> dict[str, Any]:
    """What a webhook tells."""
    return task_json(task, task.ended_at, outputs_max=TOLD_MAX)


def failed(task: Task) -> Problem:
    """The answer for who waited for a task that failed."""
    assert task.error is not None
    problem = problem_of(task.error)
    found = (("task", task.id), ("node", node_of(task.error)), ("unit_code", unit_code(task.error)))
    problem.more = {**problem.more, **{key: value for key, value in found if value}}
    return problem


def raw_types(output: Output) -> tuple[str, ...]:
    """The media types that an output can be had as, the best one first."""
    if output.error is not None:
        return ()
    if output.is_text:
        return ("text/plain",)
    own = output.meta.get("content_type")
    if isinstance(own, str) and re.fullmatch(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}", own) and own not in _ACTIVE:
        return own, "application/octet-stream"
    return ("application/octet-stream",)


# What browsers would run.
_ACTIVE = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml"})


def raw_body(output: Output) -> web.Response:
    kind = raw_types(output)[0]
    headers = {**SECURITY_HEADERS, "Content-Type": f"{kind}; charset=utf-8" if kind == "text/plain" else kind}
    tensor = tensor_of(output)
    if tensor is not None:
        headers["X-Modelbox-Dtype"] = tensor[0]
        headers["X-Modelbox-Shape"] = ",".join(map(str, tensor[1]))
    return Answer(200, Headers(headers), output.data).response()
