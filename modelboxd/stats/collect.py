"""Snapshots of what the server does, for JSON and for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from modelbox._core.memory import PoolStats
from modelbox.errors import ModelBoxError
from modelboxd.jobs.model import JobView
from modelboxd.stats.processes import SOON_S, Processes, ProcessView
from modelboxd.workers.health import GroupStatus, WorkerState

if TYPE_CHECKING:
    from modelboxd.engine.histogram import Distribution
    from modelboxd.engine.job import Job
    from modelboxd.engine.step import Step
    from modelboxd.jobs.manager import JobManager
    from modelboxd.jobs.runtime import Runtime
    from modelboxd.tasks.manager import TaskManager


@dataclass(frozen=True, slots=True)
class NativeView:
    """What the core has counted for one native node."""

    node: str
    calls: int
    buffers_in: int
    buffers_out: int
    failed: int
    busy_s: float  # inside process()
    live_bytes: int  # of buffers that it made and that are still there
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class WorkersView:
    """The worker processes of a Python node."""

    workers: int
    ready: int
    in_flight: int  # calls that they have now
    restarts: int
    recycled: int
    breaker: str  # "closed", "open", "half-open"
    last_cause: str  # of the last end of a worker that was not asked for


@dataclass(frozen=True, slots=True)
class StepView:
    """One step: a node, or neighbours that run as one."""

    name: str
    nodes: tuple[str, ...]
    units: tuple[str, ...]
    kind: str
    buffers_in: int
    buffers_out: int
    failed: int
    dropped: int
    turns: int
    queue_length: int
    queue_bytes: int
    running: int
    queue: Distribution  # nanoseconds
    compute: Distribution
    copy: Distribution | None  # of Python nodes
    batch: Distribution  # buffers
    natives: tuple[NativeView, ...]
    workers: WorkersView | None


@dataclass(frozen=True, slots=True)
class JobStats:
    """One job; `steps` is empty when it does not run."""

    view: JobView
    queue_bytes: int
    steps: tuple[StepView, ...]


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device of the machine."""

    kind: str
    name: str
    cpus: int
    use_percent: float  # of all of them, since the reading before
    memory_total: int
    memory_available: int


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """Tasks, as far as they are known."""

    running: int
    waiting: int
    held_bytes: int
    ended: dict[tuple[str, str], int]  # by job and state, since the start of the server


class Collector:
    """Reads everything; nothing is kept but what rates need. Methods may take milliseconds: not for the I/O thread,
    but for tasks()."""

    def __init__(self, runtime: Runtime, jobs: JobManager, tasks: TaskManager | None) -> None:
        """Without the API there are no `tasks`."""
        self._runtime = runtime
        self._jobs = jobs
        self._tasks = tasks
        self._processes = Processes()
        self.started = time.time()
        self._lock = threading.Lock()
        self._cpu = (0.0, 0.0, 0.0)  # total and idle seconds at the reading before, and what came of it

    def processes(self) -> list[ProcessView]:
        """The daemon, the python-master and all workers."""
        return self._processes.read()

    def memory(self) -> PoolStats:
        """Memory of buffers."""
        return self._runtime.pool.stats()

    def devices(self) -> list[DeviceView]:
        """The CPUs. Other devices are not used by this version, so that none is told."""
        memory = psutil.virtual_memory()
        percent = self._cpu_percent()
        return [DeviceView("cpu", "cpu:0", self._runtime.cpus, percent, memory.total, memory.available)]

    def _cpu_percent(self) -> float:
        times = psutil.cpu_times()
        now, idle = sum(times[:8]), times.idle + times.iowait
        with self._lock:
            before, idle_before, percent = self._cpu
            if now - before >= SOON_S:
                percent = min(100.0, max(0.0, 100 * (1 - (idle - idle_before) / (now - before))))
                self._cpu = now, idle, percent
        return round(percent, 1)

    def tasks(self) -> TaskCounts:
        """[I/O thread]"""
        tasks = self._tasks
        if tasks is None:
            return TaskCounts(0, 0, 0, {})
        there = {view.id for view in self._jobs.all()}
        for job, state in list(tasks.ended):
            if job not in there:
                del tasks.ended[job, state]
        return TaskCounts(tasks.running, tasks.waiting, tasks.results.bytes, dict(tasks.ended))

    def job(self, job_id: str) -> JobStats:
        """One job. Raises NoSuchJobError."""
        return self._job(self._jobs.show(job_id))

    def jobs(self) -> list[JobStats]:
        """All jobs."""
        return [self._job(view) for view in self._jobs.all()]

    def _job(self, view: JobView) -> JobStats:
        try:
            job = self._jobs.job(view.id)
        except ModelBoxError:  # it does not run
            return JobStats(view, 0, ())
        kinds = {node.name: node.kind for node in view.nodes}
        return JobStats(view, job.bytes, tuple(_steps(job, kinds)))


def _steps(job: Job, kinds: dict[str, str]) -> Iterator[StepView]:
    for step in job.steps:
        stats = step.stats
        natives = tuple(_natives(step))
        waiting, size = step.queued()
        group = step.workers()
        yield StepView(
            step.name,
            tuple(node.name for node in step.nodes),
            tuple(node.unit.name for node in step.nodes),
            kinds.get(step.nodes[0].name, ""),
            stats.buffers_in,
            stats.buffers_out,
            stats.errors + sum(native.failed for native in natives),
            stats.dropped,
            stats.runs,
            waiting,
            size,
            step.running,
            stats.queue.snapshot(),
            stats.compute.snapshot(),
            stats.copy.snapshot() if group is not None else None,
            stats.batch.snapshot(),
            natives,
            workers_of(group) if group is not None else None,
        )


def _natives(step: Step) -> Iterator[NativeView]:
    for node, raw in zip(step.nodes, step.native_stats(), strict=False):
        yield NativeView(
            node.name,
            raw.calls,
            raw.buffers_in,
            raw.buffers_out,
            raw.errors,
            raw.busy_ns / 1e9,
            raw.live_bytes,
            raw.peak_bytes,
        )


def workers_of(group: GroupStatus) -> WorkersView:
    """The workers of a node, in short."""
    ready = sum(worker.state in (WorkerState.READY, WorkerState.BUSY) for worker in group.workers)
    in_flight = sum(worker.outstanding for worker in group.workers)
    return WorkersView(
        len(group.workers), ready, in_flight, group.restarts, group.recycled, group.breaker, group.last_cause
    )
