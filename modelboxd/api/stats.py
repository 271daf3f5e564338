"""/v1/stats and /metrics: what the server uses and does."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelbox._core.memory import PoolStats
from modelboxd.api.routes import Answers, Call, Param, Route, answer
from modelboxd.api.schema import Schema, list_of, number, record, ref, text
from modelboxd.api.tokens import Role
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers
from modelboxd.stats.collect import Collector, DeviceView, JobStats, StepView, TaskCounts, WorkersView
from modelboxd.stats.processes import ProcessView
from modelboxd.stats.prometheus import CONTENT_TYPE, metrics

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.engine.histogram import Distribution

SUBJECT = "Statistics"
ROLES = ("daemon", "python-master", "python-worker", "other")
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def _count(help_text: str) -> Schema:
    return number(help_text, integer=True)


SCHEMAS = {
    "Spread": record(
        {
            "count": _count("How many there were."),
            "mean": number("Their mean."),
            "p50": number("Half of them are below; true to a fifth, as the next two."),
            "p90": number("Nine tenths are below."),
            "p99": number("Ninety-nine hundredths are below."),
        }
    ),
    "ProcessStats": record(
        {
            "pid": _count("Its number."),
            "role": text("other: what a flow unit has started.", enum=list(ROLES)),
            "name": text("job/node#number of a worker."),
            "cpu_seconds": number("CPU time since its start, user and system."),
            "cpu_percent": number("Of one CPU since the reading before (at first: since its start)."),
            "rss_bytes": _count("Resident memory; RES of top."),
            "shared_bytes": _count("Part of it that others may have too, files and shared memory; SHR of top."),
            "shmem_bytes": _count("Part of that which is shared memory, such as buffers."),
            "threads": _count("Threads."),
            "descriptors": _count("Open file descriptors."),
            "started_at": number("Seconds since 1970."),
        },
        {"job": text("Of a worker."), "node": text("Of a worker.")},
    ),
    "DeviceStats": record(
        {
            "kind": text("The kind of device."),
            "name": text("Its name."),
            "cpus": _count("CPUs that the server may use."),
            "use_percent": number("How busy all CPUs of the machine are, since the reading before."),
            "memory_total_bytes": _count("Memory of the machine."),
            "memory_available_bytes": _count("What is left of it."),
        }
    ),
    "MemoryStats": record(
        {item.name: _count(f"{item.name.replace('_', ' ')} of the pool of buffers.") for item in fields(PoolStats)}
    ),
    "TaskStats": record(
        {
            "running": _count("Tasks that run."),
            "waiting": _count("Tasks that wait for their turn."),
            "held_bytes": _count("Inputs that wait and outputs that are kept."),
            "ended": {
                "type": "object",
                "description": "By job and state: how many are over.",
                "additionalProperties": {"type": "object", "additionalProperties": _count("How many.")},
            },
        }
    ),
    "WorkerStats": record(
        {
            "workers": _count("Processes."),
            "ready": _count("Those that take calls."),
            "in_flight": _count("Calls that they have now."),
            "restarts": _count("How many were started in the place of some that had died."),
            "recycled": _count("How many were replaced while they lived, as by max_requests."),
            "breaker": text("open: they died too often, and none is started for a while."),
        },
        {"last_cause": text("Why the last one ended.")},
    ),
    "NativeStats": record(
        {
            "node": text("The node."),
            "calls": _count("Calls of process()."),
            "buffers_in": _count("Buffers given to it."),
            "buffers_out": _count("Buffers it gave."),
            "failed": _count("Error buffers it made."),
            "busy_seconds": number("Time inside it."),
            "live_bytes": _count("Bytes of its buffers that still live."),
            "peak_bytes": _count("The most of them there were."),
        }
    ),
    "NodeStats": record(
        {
            "name": text("The node, or first..last of native nodes that run as one."),
            "nodes": list_of(text(), "The nodes that it stands for."),
            "units": list_of(text(), "Their flow units."),
            "kind": text("What runs it."),
            "buffers_in": _count("Buffers that it has taken."),
            "buffers_out": _count("Buffers that it has sent on."),
            "failed": _count("Buffers that failed in it."),
            "dropped": _count("Buffers that were dropped in front of it."),
            "turns": _count("How often it ran."),
            "queue_length": _count("Buffers that wait in front of it now."),
            "queue_bytes": _count("Their bytes."),
            "queue_seconds": ref("Spread"),
            "compute_seconds": ref("Spread"),
            "batch_size": ref("Spread"),
        },
        {
            "copy_seconds": ref("Spread"),
            "workers": ref("WorkerStats"),
            "natives": list_of(ref("NativeStats"), "Native nodes one by one, as the core counts them."),
        },
    ),
    "JobStats": record(
        {
            "id": text("The job."),
            "state": text("Its state."),
            "sessions": _count("Sessions under way."),
            "queue_bytes": _count("Bytes that wait in its queues."),
            "nodes": list_of(ref("NodeStats"), "Empty when it does not run; counted since it was started or replaced."),
        }
    ),
    "ProcessList": record({"processes": list_of(ref("ProcessStats"))}),
    "DeviceList": record({"devices": list_of(ref("DeviceStats"))}),
    "JobStatsList": record({"jobs": list_of(ref("JobStats"))}),
    "Stats": record(
        {
            "uptime_seconds": number("Since the start of the server."),
            "processes": list_of(ref("ProcessStats")),
            "devices": list_of(ref("DeviceStats")),
            "memory": ref("MemoryStats"),
            "tasks": ref("TaskStats"),
            "jobs": list_of(ref("JobStats")),
        }
    ),
}  # fmt: skip


def spread_json(found: Distribution, scale: float) -> dict[str, Any]:
    """A Spread of the document."""
    made: dict[str, Any] = {"count": found.count, "mean": found.total / found.count * scale if found.count else 0.0}
    made |= {name: found.quantile(part) * scale for name, part in QUANTILES}
    return {key: round(value, 9) for key, value in made.items()}


def process_json(view: ProcessView) -> dict[str, Any]:
    """A ProcessStats of the document."""
    made = {
        "pid": view.pid,
        "role": view.role,
        "name": view.name,
        "cpu_seconds": view.cpu_seconds,
        "cpu_percent": view.cpu_percent,
        "rss_bytes": view.rss,
        "shared_bytes": view.shared,
        "shmem_bytes": view.shmem,
        "threads": view.threads,
        "descriptors": view.descriptors,
        "started_at": view.started,
    }
    return made | {key: value for key, value in (("job", view.job), ("node", view.node)) if value}


def device_json(view: DeviceView) -> dict[str, Any]:
    """A DeviceStats of the document."""
    return {
        "kind": view.kind,
        "name": view.name,
        "cpus": view.cpus,
        "use_percent": view.use_percent,
        "memory_total_bytes": view.memory_total,
        "memory_available_bytes": view.memory_available,
    }


def tasks_json(counts: TaskCounts) -> dict[str, Any]:
    """A TaskStats of the document."""
    ended: dict[str, dict[str, int]] = {}
    for (job, state), count in counts.ended.items():
        ended.setdefault(job, {})[state] = count
    return {
        "running": counts.running,
        "waiting": counts.waiting,
        "held_bytes": counts.held_bytes,
        "ended": ended,
    }


def workers_json(view: WorkersView) -> dict[str, Any]:
    """A WorkerStats of the document."""
    made: dict[str, Any] = {
        "workers": view.workers,
        "ready": view.ready,
        "in_flight": view.in_flight,
        "restarts": view.restarts,
        "recycled": view.recycled,
        "breaker": view.breaker,
    }
    return made | ({"last_cause": view.last_cause} if view.last_cause else {})


def node_json(step: StepView) -> dict[str, Any]:
    """A NodeStats of the document."""
    made: dict[str, Any] = {
        "name": step.name,
        "nodes": list(step.nodes),
        "units": list(step.units),
        "kind": step.kind,
        "buffers_in": step.buffers_in,
        "buffers_out": step.buffers_out,
        "failed": step.failed,
        "dropped": step.dropped,
        "turns": step.turns,
        "queue_length": step.queue_length,
        "queue_bytes": step.queue_bytes,
        "queue_seconds": spread_json(step.queue, 1e-9),
        "compute_seconds": spread_json(step.compute, 1e-9),
        "batch_size": spread_json(step.batch, 1.0),
    }
    if step.copy is not None:
        made["copy_seconds"] = spread_json(step.copy, 1e-9)
    if step.workers is not None:
        made["workers"] = workers_json(step.workers)
    if step.natives:
        made["natives"] = [
            {
                "node": native.node,
                "calls": native.calls,
                "buffers_in": native.buffers_in,
                "buffers_out": native.buffers_out,
                "failed": native.failed,
                "busy_seconds": round(native.busy_s, 9),
                "live_bytes": native.live_bytes,
                "peak_bytes": native.peak_bytes,
            }
            for native in step.natives
        ]
    return made


def job_stats_json(stats: JobStats) -> dict[str, Any]:
    """A JobStats of the document."""
    return {
        "id": stats.view.id,
        "state": stats.view.state.value,
        "sessions": stats.view.sessions,
        "queue_bytes": stats.queue_bytes,
        "nodes": [node_json(step) for step in stats.steps],
    }


def stats_json(collector: Collector, counts: TaskCounts) -> dict[str, Any]:
    """A Stats of the document. Takes a while: not for the I/O thread."""
    memory = collector.memory()
    return {
        "uptime_seconds": round(time.time() - collector.started, 3),
        "processes": [process_json(view) for view in collector.processes()],
        "devices": [device_json(view) for view in collector.devices()],
        "memory": {item.name: getattr(memory, item.name) for item in fields(memory)},
        "tasks": tasks_json(counts),
        "jobs": [job_stats_json(stats) for stats in collector.jobs()],
    }


class _Handlers:
    """What asks the kernel or walks over all jobs runs on a thread."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._collector = api.stats

    async def everything(self, _: Call) -> web.StreamResponse:
        collector = self._collector
        counts = collector.tasks()
        return answer(await self._api.run(stats_json, collector, counts))

    async def processes(self, _: Call) -> web.StreamResponse:
        views = await self._api.run(self._collector.processes)
        return answer({"processes": [process_json(view) for view in views]})

    async def devices(self, _: Call) -> web.StreamResponse:
        views = await self._api.run(self._collector.devices)
        return answer({"devices": [device_json(view) for view in views]})

    async def memory(self, _: Call) -> web.StreamResponse:
        memory = self._collector.memory()
        return answer({item.name: getattr(memory, item.name) for item in fields(memory)})

    async def tasks(self, _: Call) -> web.StreamResponse:
        return answer(tasks_json(self._collector.tasks()))

    async def jobs(self, _: Call) -> web.StreamResponse:
        found = await self._api.run(self._collector.jobs)
        return answer({"jobs": [job_stats_json(stats) for stats in found]})

    async def job(self, call: Call) -> web.StreamResponse:
        return answer(job_stats_json(await self._api.run(self._collector.job, call.path["id"])))

    async def metrics(self, _: Call) -> web.StreamResponse:
        page = await self._api.run(metrics, self._collector, self._collector.tasks())
        fields_ = Headers({**SECURITY_HEADERS, "Content-Type": CONTENT_TYPE})
        return Answer(200, fields_, page.encode()).response()


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""
    do = _Handlers(api)
    job = Param("id", text("The name of a job.", minLength=1, maxLength=64), "The job.")

    def get(path: str, handler: Any, name: str, summary: str, schema: Schema, help_text: str = "") -> Route:
        return Route(
            "GET", path, handler, name, summary, Role.READ, {200: Answers(summary + ".", schema)},
            (404,) if "{" in path else (), SUBJECT, (job,) if "{" in path else (), help=help_text,
        )  # fmt: skip

    times = (
        "`queue_seconds`: from being ready to run until a turn begins. `compute_seconds`: of each turn; of Python "
        "nodes from sending a message to its answer. `copy_seconds`: packing and sending a message to a worker. "
        "`batch_size`: buffers of a turn; native nodes cut it into calls of `batch_size`."
    )
    page = {200: Answers("The text format of Prometheus.", {"type": "string"}, CONTENT_TYPE.partition(";")[0])}
    return [
        get("/v1/stats", do.everything, "stats", "All statistics", ref("Stats")),
        get("/v1/stats/processes", do.processes, "processStats", "All processes of the service", ref("ProcessList")),
        get(
            "/v1/stats/devices", do.devices, "deviceStats", "All devices", ref("DeviceList"),
            "Only the CPU: this version uses no other device, so that others are not told even where there are some.",
        ),
        get("/v1/stats/memory", do.memory, "memoryStats", "Memory of buffers", ref("MemoryStats")),
        get("/v1/stats/tasks", do.tasks, "taskStats", "Tasks in numbers", ref("TaskStats")),
        get("/v1/stats/jobs", do.jobs, "jobStatsAll", "All jobs and their nodes", ref("JobStatsList"), times),
        get("/v1/jobs/{id}/stats", do.job, "jobStats", "One job and its nodes", ref("JobStats"), times),
        Route(
            "GET", "/metrics", do.metrics, "metrics", "All statistics for Prometheus", Role.READ, page, (), SUBJECT,
            help="Names and units stay as they are. `node` is a node, or first..last of native nodes that run as one; "
            "the metrics `modelbox_native_...` have them one by one.",
        ),
    ]  # fmt: skip
