"""Inference: finds models among the jobs, runs requests as tasks, counts them. All on the I/O thread.

A request is a task, so all limits of [tasks] hold for it; it is not kept when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modelbox.errors import ShutdownError
from modelboxd.inference.errors import ModelStateError, NoSuchModelError
from modelboxd.inference.model import Model, is_model, read_model
from modelboxd.inference.pack import pack, unpack
from modelboxd.inference.request import Request, Tensor
from modelboxd.jobs.model import JobStateError, JobView, NoSuchJobError, State
from modelboxd.tasks.model import DEFAULT

if TYPE_CHECKING:
    from modelboxd.jobs.manager import JobManager
    from modelboxd.tasks.manager import TaskManager
    from modelboxd.tasks.model import Task

log = logging.getLogger(__name__)

SMALL = 64 << 10  # bytes up to which converting on the I/O thread holds up nobody
T = TypeVar("T")


class Run(Protocol):
    """Runs what takes long on a thread. Raises Problem when too many wait."""

    def __call__(self, function: Callable[..., T], *arguments: Any) -> Coroutine[Any, Any, T]: ...


@dataclass(slots=True)
class Counts:
    """What a model has done. Times in nanoseconds, of requests that succeeded but for `fail_ns`."""

    last_ms: int = 0  # since 1970
    inferences: int = 0  # values: a batch of 8 counts 8
    requests: int = 0
    success_ns: int = 0
    failed: int = 0
    fail_ns: int = 0
    cancelled: int = 0
    queue_ns: int = 0  # waiting for its turn
    input_ns: int = 0  # tensors to buffers
    compute_ns: int = 0  # the graph
    output_ns: int = 0  # values to tensors


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of the list of models."""

    name: str
    version: str
    job_id: str
    reason: str  # why it cannot be used; "" = it is ready


class Inference:
    """The models of the server."""

    def __init__(self, jobs: JobManager, tasks: TaskManager, run: Run) -> None:
        self._jobs = jobs
        self._tasks = tasks
        self._run = run
        self._models: dict[str, Model | None] = {}  # by job; good as long as that graph runs
        self._graphs: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # models that are not called as their job -> job
        self._counts: dict[tuple[str, str], Counts] = {}

    # ---- models -----------------------------------------------------------------------------------------------

    def model(self, name: str, version: str = "") -> Model:
        """Raises NoSuchModelError, ModelStateError, JobStateError."""
        try:
            found = self._of_job(self._names.get(name, name))
        except NoSuchJobError:
            found = None
        if found is None or found.name != name:
            found = self._by_name(name)
        if found is None:
            hint = "a job is one when it says its tensors, [model] in its graph file"
            raise NoSuchModelError(f"there is no model '{name[:80]}'", hint=hint)
        if version and version != found.version:
            text = f"model '{name[:80]}' has no version '{version[:40]}', only '{found.version}'"
            raise NoSuchModelError(text)
        return found

    def _of_job(self, job_id: str) -> Model | None:
        """The model that a job is. Raises NoSuchJobError, JobStateError, ModelStateError."""
        job = self._jobs.job(job_id)
        if self._graphs.get(job_id) is not job:
            plan = self._jobs.plan(job_id)
            assert plan is not None
            self._forget()
            self._models[job_id] = read_model(job_id, job, plan)
            self._graphs[job_id] = job
        return self._models[job_id]

    def _by_name(self, name: str) -> Model | None:
        """A model whose graph file gives it another name than its job's."""
        for view in self._jobs.all():
            plan = self._jobs.plan(view.id)
            if plan is not None and plan.graph.model is not None and plan.graph.model.name == name:
                self._names[name] = view.id
                return self._of_job(view.id)
        self._names.pop(name, None)
        return None

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether it takes requests."""
        try:
            return not self.model(name, version).job.troubles()
        except (NoSuchModelError, NoSuchJobError, ModelStateError, JobStateError):
            return False

    def all(self) -> Iterator[Listed]:
        """Every job that is a model, or says so."""
        for view in self._jobs.all():
            listed = self._list(view)
            if listed is not None:
                yield listed

    def _list(self, view: JobView) -> Listed | None:
        declared = None
        try:
            plan = self._jobs.plan(view.id)
            declared = plan.graph.model if plan is not None else None
            if view.state is State.RUNNING:
                model = self._of_job(view.id)
                return Listed(model.name, model.version, view.id, "") if model is not None else None
            if not is_model(plan) and self._models.get(view.id) is None:
                return None
            reason = f"the job is {view.state.value}" + (f": {view.error}" if view.error else "")
        except NoSuchJobError:
            return None  # it was deleted meanwhile
        except (ModelStateError, JobStateError) as error:
            reason = str(error)
        name, version = (declared.name, declared.version) if declared is not None else ("", "1")
        return Listed(name or view.id, version, view.id, reason.split("\n")[0])

    def _forget(self) -> None:
        """Lets go of jobs that are there no longer."""
        for gone in self._graphs.keys() - {view.id for view in self._jobs.all()}:
            model = self._models.pop(gone)
            del self._graphs[gone]
            if model is not None:
                self._counts.pop((model.name, model.version), None)
                self._names.pop(model.name, None)

    def counts(self, model: Model) -> Counts:
        """What it has done since the start of the server."""
        return self._counts.setdefault((model.name, model.version), Counts())

    # ---- requests ---------------------------------------------------------------------------------------------

    def check_room(self, model: Model, size: int) -> None:
        """Whether a request of `size` bytes may come. Raises BusyError, OutOfMemoryError, ShutdownError."""
        self._tasks.check_room(model.job_id, size)

    async def infer(self, model: Model, request: Request) -> list[Tensor]:
        """The result. Cancelled when who waits for it is; raises InferenceError, and what the graph failed of."""
        counts, began = self.counts(model), time.monotonic_ns()
        try:
            return await self._infer(model, request, counts, began)
        except asyncio.CancelledError:
            counts.cancelled += 1
            raise
        except Exception:
            counts.failed += 1
            counts.fail_ns += time.monotonic_ns() - began
            raise

    async def _infer(self, model: Model, request: Request, counts: Counts, began: int) -> list[Tensor]:
        if request.size <= SMALL:
            lists = pack(model, request)
        else:
            lists = await self._run(pack, model, request)
        batch = request.inputs[0].shape[0] if model.max_batch else 1
        packed = time.monotonic_ns()
        task = self._tasks.submit(
            model.job_id,
            lists,
            size=sum(items.bytes for _, items in lists),
            priority=request.priority or DEFAULT,
            timeout_s=request.timeout_s or float(self._tasks.settings.timeout),
            keep=False,
        )
        request.inputs.clear()  # what came is in the pool now
        await self._end(task)
        ended = time.monotonic_ns()
        if task.error is not None:
            raise task.error
        if task.result_bytes <= SMALL:
            tensors = unpack(model, request.wanted, task.outputs, batch)
        else:
            tensors = await self._run(unpack, model, request.wanted, task.outputs, batch)
        now = time.monotonic_ns()
        queued = int(task.queue_time(task.ended_at) * 1e9)
        counts.last_ms = int(time.time() * 1000)
        counts.requests += 1
        counts.inferences += batch
        counts.success_ns += now - began
        counts.input_ns += packed - began
        counts.queue_ns += queued
        counts.compute_ns += max(0, ended - packed - queued)
        counts.output_ns += now - ended
        return tensors

    async def _end(self, task: Task) -> None:
        try:
            await task.end()
        except asyncio.CancelledError:
            self._tasks.cancel(task, "the client that waited for it has gone")
            raise

    # ---- control (these block: not on the I/O thread) ---------------------------------------------------------

    def job_of(self, name: str) -> str:
        """The job of a model, whether it runs or not. Raises NoSuchModelError."""
        for listed in self.all():
            if listed.name == name:
                return listed.job_id
        try:
            return self._jobs.show(name).id
        except NoSuchJobError:
            raise NoSuchModelError(f"there is no model '{name[:80]}'") from None

    def load(self, job_id: str) -> None:
        """Starts the job of a model that does not run. Raises ModelBoxError."""
        if self._jobs.is_stopping:
            raise ShutdownError("the service is stopping")
        if self._jobs.show(job_id).state is not State.RUNNING:
            self._jobs.start(job_id)

    def unload(self, job_id: str) -> None:
        """Drains and stops the job of a model. Raises ModelBoxError."""
        if self._jobs.show(job_id).state is State.RUNNING:
            self._jobs.stop(job_id)
