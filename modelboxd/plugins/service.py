"""The service that a plugin sees: its calls go to the managers of the API, and what they give becomes plain data."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from modelbox.errors import ModelBoxError
from modelbox.plugin import Handler, Job, Output, PluginError, Service, Task, Timer
from modelboxd.api.jobs import graph_text
from modelboxd.api.problems import Problem
from modelboxd.api.routes import Route
from modelboxd.api.task_inputs import to_lists
from modelboxd.jobs.model import Origin
from modelboxd.plugins.routes import MAX_BODY, make_route
from modelboxd.plugins.runner import Runner
from modelboxd.tasks import model as tasks_model
from modelboxd.tasks.model import FIRST, LAST
from modelboxd.tasks.values import Value, from_bytes, from_json

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.jobs.model import JobView

LOOK_S = 0.25  # how often states of jobs are looked at
SECONDS_MIN, SECONDS_MAX = 0.001, 1e8
T = TypeVar("T")


class PluginService(Service):
    """The service of one plugin. What it has declared takes effect with open()."""

    def __init__(self, runner: Runner, api: Api) -> None:
        self._runner = runner
        self._api = api
        self._lock = threading.Lock()
        self._opened = asyncio.Event()  # set on the plugin's loop
        self._state = "new"  # "open", "closed"
        self._on_job: list[Callable[[Job], Any]] = []
        self._on_task: list[Callable[[Task], Any]] = []
        self.routes: list[Route] = []
        self.created: list[str] = []  # jobs

    # ---- life (the host) ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Routes, callbacks and timers begin to work. Raises PluginError for a route that another plugin has."""
        with self._lock:
            try:
                self._api.runtime.io.run(self._add_routes())
            except ValueError as error:
                raise PluginError(str(error)) from None
            self._state = "open"
        if self._on_task:
            self._api.tasks.observers.append(self._task_changed)
        self._runner.io.call(self._opened.set)
        self._runner.submit(self._watch_jobs())

    async def _add_routes(self) -> None:
        done: list[Route] = []
        try:
            for route in self.routes:
                self._api.add([route])
                done.append(route)
        except ValueError:
            self._api.router.remove(done)
            raise

    def close(self) -> None:
        """Nothing of it works any more."""
        with self._lock:
            was_open, self._state = self._state == "open", "closed"
        if self._task_changed in self._api.tasks.observers:
            self._api.tasks.observers.remove(self._task_changed)
        if was_open:
            self._api.runtime.io.run(self._remove_routes())

    async def _remove_routes(self) -> None:
        self._api.router.remove(self.routes)

    # ---- what the plugin declares ---------------------------------------------------------------------------------

    def route(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        role: str = "operate",
        summary: str = "",
        body: Mapping[str, Any] | None = None,
        answer: Mapping[str, Any] | None = None,
        max_body: int = 0,
        timeout_s: float = 30.0,
    ) -> None:
        made = make_route(
            self._runner.name, self._runner, self._api, method, path, handler, role=role, summary=summary, body=body,
            answer=answer, max_body=max_body, timeout_s=timeout_s,
        )  # fmt: skip
        if not 0 <= max_body <= MAX_BODY:
            raise PluginError(f"route {method} {path}: max_body must be 0 to {MAX_BODY}")
        with self._lock:
            if self._state != "new":
                raise PluginError(f"route {method} {path}: routes are added in init() and start() only")
            if any(other.name == made.name for other in self.routes):
                raise PluginError(f"route {method} {path} is there already")
            self.routes.append(made)

    def every(self, seconds: float, function: Callable[[], Any]) -> Timer:
        return self._timer(seconds, function, again=True)

    def after(self, seconds: float, function: Callable[[], Any]) -> Timer:
        return self._timer(seconds, function, again=False)

    def _timer(self, seconds: float, function: Callable[[], Any], *, again: bool) -> Timer:
        if not SECONDS_MIN <= seconds <= SECONDS_MAX:
            raise PluginError(f"a timer of {seconds!r} s", hint=f"{SECONDS_MIN:g} to {SECONDS_MAX:g}")
        timer = _Timer(self._runner, seconds, function, again)
        self._runner.submit(timer.serve(self._opened))
        return timer

    def on_job(self, function: Callable[[Job], Any]) -> None:
        self._on_job.append(function)

    def on_task(self, function: Callable[[Task], Any]) -> None:
        self._on_task.append(function)
        with self._lock:
            if self._state == "open" and self._task_changed not in self._api.tasks.observers:
                self._api.tasks.observers.append(self._task_changed)

    def _task_changed(self, task: tasks_model.Task) -> None:
        seen = task_of(task)
        for function in self._on_task:
            self._runner.notify(f"on_task {_name(function)}()", function, seen)

    async def _watch_jobs(self) -> None:
        """Tells callbacks of what is new."""
        before = {job.id: job for job in self.jobs()}
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._on_job:
                continue
            now = {job.id: job for job in self.jobs()}
            gone = [Job(job.id, "deleted", "", job.inputs, job.outputs) for job in before.values() if job.id not in now]
            new = [job for job in now.values() if job.id not in before or before[job.id].state != job.state]
            for job in (*gone, *new):
                for function in self._on_job:
                    self._runner.notify(f"on_job {_name(function)}()", function, job)
            before = now

    # ---- what the plugin asks for ---------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        return [job_of(view) for view in self._api.jobs.all()]

    async def create_job(self, job_id: str, graph: str) -> Job:
        view = await self._apart(lambda: self._api.jobs.create(job_id, graph_text(graph), origin=Origin.PLUGIN))
        self.created.append(job_id)
        return job_of(view)

    async def delete_job(self, job_id: str) -> None:
        await self._apart(lambda: self._api.jobs.delete(job_id))
        if job_id in self.created:
            self.created.remove(job_id)

    async def submit(
        self, job_id: str, inputs: Mapping[str, Any], *, priority: int = 5, timeout_s: float | None = None
    ) -> Task:
        if not FIRST <= priority <= LAST:
            raise PluginError(f"priority {priority} is not {FIRST} to {LAST}")
        tasks = self._api.tasks
        limit_s = float(tasks.settings.timeout) if timeout_s is None else timeout_s

        def lists() -> Any:
            try:
                return to_lists(self._api.jobs.job(job_id), values_of(inputs))
            except Problem as problem:
                raise PluginError(problem.detail) from None

        made = await self._apart(lists)

        async def submit() -> Task:
            size = sum(items.bytes for _, items in made)
            return task_of(tasks.submit(job_id, made, size=size, priority=priority, timeout_s=limit_s))

        return await self._on_io(submit())

    async def result(self, task_id: str) -> Task:
        async def end() -> Task:
            task = self._api.tasks.find(task_id)
            await task.end()
            return task_of(task)

        return await self._on_io(end())

    async def cancel(self, task_id: str) -> None:
        async def cancel() -> None:
            tasks = self._api.tasks
            tasks.cancel(tasks.find(task_id), f"plugin '{self._runner.name}' cancelled it")

        await self._on_io(cancel())

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        if self._runner.io.is_current():
            coroutine.close()
            raise PluginError("run() would wait for the loop that it is called on", hint="await the coroutine instead")
        return self._runner.io.run(coroutine, timeout_s)

    async def _apart(self, function: Callable[[], T]) -> T:
        """Runs what blocks on one of the plugin's threads."""
        made: T = await asyncio.wrap_future(self._runner.threads.submit(function))
        return made

    async def _on_io(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the server's I/O thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._api.runtime.io.loop))


class _Timer(Timer):
    """Calls a function on the plugin's loop."""

    def __init__(self, runner: Runner, seconds: float, function: Callable[[], Any], again: bool) -> None:
        self._runner = runner
        self._seconds = seconds
        self._function = function
        self._again = again
        self._cancelled = False

    async def serve(self, opened: asyncio.Event) -> None:
        """Until it is cancelled, or has been called. Not before the plugin runs."""
        await opened.wait()
        while True:
            await asyncio.sleep(self._seconds)
            if self._cancelled:
                return
            await self._runner.guard(f"timer {_name(self._function)}()", self._function)
            if not self._again:
                return

    def cancel(self) -> None:
        self._cancelled = True


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def values_of(inputs: Mapping[str, Any]) -> dict[str, list[Value]]:
    """Inputs as a plugin gives them. Raises TaskInputError."""
    raw = {name: data for name, data in inputs.items() if isinstance(data, (bytes, bytearray, memoryview))}
    made = from_json({name: value for name, value in inputs.items() if name not in raw})
    return made | {name: [from_bytes(bytes(data), "", "", "", name)] for name, data in raw.items()}


def job_of(view: JobView) -> Job:
    """A job as plugins see it."""
    return Job(view.id, view.state.value, view.error, view.inputs, view.outputs)


def task_of(task: tasks_model.Task) -> Task:
    """A task as plugins see it. [I/O thread]"""
    outputs = tuple(
        Output(one.node, one.data, one.is_text, dict(one.meta), f"{one.error[0]}: {one.error[1]}" if one.error else "")
        for one in task.outputs
    )
    error = task.error
    text = "" if error is None else str(error) if isinstance(error, ModelBoxError) else repr(error)
    return Task(task.id, task.job, task.state.value, text, outputs)
