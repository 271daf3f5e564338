"""The text format of Prometheus (0.0.4).

Own code, since what is told is read at the moment of the question: a client library brings counters of its own, their
locks and a registry, for the thirty lines that are needed here. The tests check the text with the parser of one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modelbox.version import VERSION

if TYPE_CHECKING:
    from modelbox._core.memory import PoolStats
    from modelboxd.engine.histogram import Distribution
    from modelboxd.stats.collect import Collector, DeviceView, JobStats, StepView, TaskCounts
    from modelboxd.stats.processes import ProcessView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TIMES = [1 << power for power in range(12, 38, 2)]  # nanoseconds: 4.096 us, four times as long each, 69 s
SIZES = [1 << power for power in range(1, 12)]  # buffers
Labels = Mapping[str, str]


class Text:
    """Families of samples, in the order of their first sample."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, help_text: str, value: float, labels: Labels | None = None) -> None:
        """One sample of a counter (whose name ends in _total) or gauge."""
        self._family(name, kind, help_text).append(f"{name}{_labels(labels or {})} {_number(value)}")

    def distribution(
        self, name: str, help_text: str, found: Distribution, labels: Labels, bounds: list[int], scale: float
    ) -> None:
        """A histogram; its values times `scale` are what is told."""
        lines = self._family(name, "histogram", help_text)
        for bound, count in zip(bounds, found.below(bounds), strict=True):
            # Values are whole numbers, so that those below 8 are those of at most 7.
            limit = bound * scale if scale != 1 else bound - 1
            lines.append(f"{name}_bucket{_labels({**labels, 'le': _number(limit)})} {count}")
        lines.append(f"{name}_bucket{_labels({**labels, 'le': '+Inf'})} {found.count}")
        lines.append(f"{name}_sum{_labels(labels)} {_number(found.total * scale)}")
        lines.append(f"{name}_count{_labels(labels)} {found.count}")

    def _family(self, name: str, kind: str, help_text: str) -> list[str]:
        lines = self._families.get(name)
        if lines is None:
            lines = self._families[name] = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        return lines

    def __str__(self) -> str:
        return "".join(f"{line}\n" for lines in self._families.values() for line in lines)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(value, 9)) if abs(value) < 1e9 else repr(value)


def metrics(collector: Collector, tasks: TaskCounts) -> str:
    """The page of /metrics. Takes some milliseconds: not for the I/O thread."""
    text = Text()
    text.add("modelbox_info", "gauge", "Which version this is.", 1, {"version": VERSION})
    text.add("modelbox_uptime_seconds", "gauge", "Seconds since the start.", round(time.time() - collector.started, 3))
    _processes(text, collector.processes())
    _devices(text, collector.devices())
    _memory(text, collector.memory())
    _tasks(text, tasks)
    for job in collector.jobs():
        _job(text, job)
    return str(text)


def _processes(text: Text, views: Iterable[ProcessView]) -> None:
    for view in views:
        labels = {"role": view.role, "process": view.name, "pid": str(view.pid), "job": view.job, "node": view.node}
        name = "modelbox_process_"
        text.add(f"{name}cpu_seconds_total", "counter", "CPU time, user and system.", view.cpu_seconds, labels)
        text.add(f"{name}resident_memory_bytes", "gauge", "Resident memory (RES of top).", view.rss, labels)
        text.add(f"{name}shared_memory_bytes", "gauge", "Part of it that is shared (SHR of top).", view.shared, labels)
        text.add(f"{name}threads", "gauge", "Threads.", view.threads, labels)
        text.add(f"{name}open_fds", "gauge", "Open file descriptors.", view.descriptors, labels)
        text.add(f"{name}start_time_seconds", "gauge", "Start, in seconds since 1970.", view.started, labels)


def _devices(text: Text, views: Iterable[DeviceView]) -> None:
    for view in views:
        labels = {"device": view.name}
        text.add(
            "modelbox_device_use_ratio", "gauge", "How busy the device is, 0 to 1.", view.use_percent / 100, labels
        )
        text.add("modelbox_device_memory_bytes", "gauge", "Memory of the device.", view.memory_total, labels)
        text.add("modelbox_device_available_bytes", "gauge", "Memory that is left.", view.memory_available, labels)


def _memory(text: Text, stats: PoolStats) -> None:
    for field, help_text in (
        ("arenas", "Arenas of shared memory for buffers."),
        ("arena_bytes", "Bytes of all arenas."),
        ("used_bytes", "Bytes of data in living buffers."),
        ("block_bytes", "Bytes of the blocks that hold them."),
        ("peak_bytes", "The most block_bytes there were."),
        ("live_buffers", "Living buffers."),
    ):
        text.add(f"modelbox_pool_{field}", "gauge", help_text, getattr(stats, field))
    for field, help_text in (
        ("allocations", "Buffers that were allocated."),
        ("failures", "Allocations that failed."),
        ("guard_faults", "Buffers that were written past their end."),
    ):
        text.add(f"modelbox_pool_{field}_total", "counter", help_text, getattr(stats, field))


def _tasks(text: Text, counts: TaskCounts) -> None:
    text.add("modelbox_tasks_running", "gauge", "Tasks that run.", counts.running)
    text.add("modelbox_tasks_waiting", "gauge", "Tasks that wait for their turn.", counts.waiting)
    text.add("modelbox_tasks_held_bytes", "gauge", "Bytes of waiting inputs and kept outputs.", counts.held_bytes)
    for (job, state), count in sorted(counts.ended.items()):
        labels = {"job": job, "state": state}
        text.add("modelbox_tasks_ended_total", "counter", "Tasks that are over, by state.", count, labels)


def _job(text: Text, stats: JobStats) -> None:
    view = stats.view
    labels = {"job": view.id}
    info = {**labels, "state": view.state.value, "origin": view.origin.value}
    text.add("modelbox_job_info", "gauge", "A job, and the state it is in.", 1, info)
    text.add("modelbox_job_running", "gauge", "1 when the job runs.", int(view.state.value == "running"), labels)
    text.add("modelbox_job_sessions", "gauge", "Sessions under way.", view.sessions, labels)
    text.add("modelbox_job_queue_bytes", "gauge", "Bytes that wait in its queues.", stats.queue_bytes, labels)
    for step in stats.steps:
        _step(text, step, {**labels, "node": step.name})
        for native in step.natives:
            about = {**labels, "node": native.node}
            name = "modelbox_native_"
            text.add(f"{name}calls_total", "counter", "Calls of a native node.", native.calls, about)
            text.add(f"{name}buffers_in_total", "counter", "Buffers given to it.", native.buffers_in, about)
            text.add(f"{name}buffers_out_total", "counter", "Buffers it gave.", native.buffers_out, about)
            text.add(f"{name}failed_total", "counter", "Error buffers it made.", native.failed, about)
            text.add(f"{name}busy_seconds_total", "counter", "Time inside it.", native.busy_s, about)
            text.add(f"{name}live_bytes", "gauge", "Bytes of its buffers that live.", native.live_bytes, about)


def _step(text: Text, step: StepView, labels: Labels) -> None:
    name = "modelbox_node_"
    text.add(f"{name}buffers_in_total", "counter", "Buffers that a node has taken.", step.buffers_in, labels)
    text.add(f"{name}buffers_out_total", "counter", "Buffers that it has sent on.", step.buffers_out, labels)
    text.add(f"{name}failed_total", "counter", "Buffers that failed in it.", step.failed, labels)
    text.add(f"{name}dropped_total", "counter", "Buffers dropped in front of it.", step.dropped, labels)
    text.add(f"{name}queue_length", "gauge", "Buffers that wait in front of it.", step.queue_length, labels)
    text.add(f"{name}queue_bytes", "gauge", "Their bytes.", step.queue_bytes, labels)
    text.add(f"{name}running", "gauge", "Turns that run on threads of the engine.", step.running, labels)
    times = (("queue", "Wait for a turn.", step.queue), ("compute", "Duration of a turn.", step.compute))
    for key, help_text, found in times:
        text.distribution(f"{name}{key}_seconds", help_text, found, labels, TIMES, 1e-9)
    if step.copy is not None:
        help_text = "Packing and sending a message to a worker."
        text.distribution(f"{name}copy_seconds", help_text, step.copy, labels, TIMES, 1e-9)
    text.distribution(f"{name}batch_size", "Buffers of a turn.", step.batch, labels, SIZES, 1)
    workers = step.workers
    if workers is not None:
        text.add("modelbox_workers", "gauge", "Worker processes of a Python node.", workers.workers, labels)
        text.add("modelbox_workers_ready", "gauge", "Those of them that take calls.", workers.ready, labels)
        text.add("modelbox_worker_calls", "gauge", "Calls that they have now.", workers.in_flight, labels)
        help_text = "Workers that were started in the place of some that had died."
        text.add("modelbox_worker_restarts_total", "counter", help_text, workers.restarts, labels)
        help_text = "Workers that were replaced while they lived."
        text.add("modelbox_worker_recycled_total", "counter", help_text, workers.recycled, labels)
        is_open = int(workers.breaker != "closed")
        text.add("modelbox_worker_breaker_open", "gauge", "1 while no worker is started.", is_open, labels)
