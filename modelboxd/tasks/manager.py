"""The life of tasks: they wait for their turn, run as sessions of their job, and their results are kept for a while.

Everything here belongs to the I/O thread, but for the two callbacks of a session. Limits: how many tasks run at once,
of one job and of all; how many wait; and the bytes of inputs that wait and of outputs that are kept (tasks.memory).
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from modelbox.errors import (
    BusyError,
    InternalError,
    ModelBoxError,
    OutOfMemoryError,
    ShutdownError,
    TimedOutError,
)
from modelboxd.tasks.model import (
    Hook,
    Output,
    Task,
    TaskCancelledError,
    TaskResultError,
    TaskState,
    result_error,
)
from modelboxd.tasks.store import Results
from modelboxd.tasks.values import output_of
from modelboxd.tasks.webhook import Webhooks

if TYPE_CHECKING:
    from modelbox.buffer import BufferList
    from modelboxd.engine.feed import CoreList
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Session
    from modelboxd.jobs.manager import JobManager
    from modelboxd.jobs.runtime import Runtime
    from modelboxd.settings import TaskSettings

log = logging.getLogger(__name__)

FULL_S = 0.05  # how soon a graph that was full is asked again


class _Line:
    """The tasks of one job that wait, the most urgent first."""

    __slots__ = ("full", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, Task]] = []
        self.running = 0
        self.full = False  # its graph takes nothing now; a timer will ask again

    def head(self) -> tuple[int, int] | None:
        """Priority and number of the next one."""
        return self.waiting[0][:2] if self.waiting else None


class TaskManager:
    """All tasks of the daemon."""

    def __init__(
        self,
        settings: TaskSettings,
        jobs: JobManager,
        runtime: Runtime,
        *,
        view: Callable[[Task], dict[str, Any]],
    ) -> None:
        """`view` makes what webhooks tell of a task. Raises ConfigError."""
        self.settings = settings
        self._jobs = jobs
        self._runtime = runtime
        self._lines: dict[str, _Line] = {}
        self._numbers = 0
        self.waiting = 0
        self.running = 0
        self.ended: Counter[tuple[str, str]] = Counter()  # (job, state) of all tasks there were
        self.results = Results(settings.keep, settings.memory, runtime)
        self.webhooks = Webhooks(settings, runtime, view)
        self.observers: list[Callable[[Task], None]] = []  # are told of each change of state; must not block
        self._closed = False

    # ---- asked for ------------------------------------------------------------------------------------------------

    def check_room(self, job: str, size: int) -> None:
        """Whether one more task with inputs of `size` bytes may come. Nothing goes for it yet: what a client says of a
        body that is still to come may not cost others their results. Raises BusyError, OutOfMemoryError,
        ShutdownError."""
        if self._closed or self._jobs.is_stopping:
            raise ShutdownError("the service is stopping")
        line = self._lines.get(job)
        can_run = self.running < self.settings.max_tasks
        can_run = can_run and (line is None or (line.running < self.settings.max_tasks_job and not line.full))
        if self.waiting >= self.settings.queue and not can_run:
            error = BusyError(f"{self.waiting} tasks wait already", hint="tasks.queue and tasks.max_tasks say how many")
            error.retry_after_s = 1.0
            raise error
        if not self.results.has_room(size):
            raise OutOfMemoryError(
                f"no room for {size} bytes of inputs", hint=f"tasks.memory = {self.settings.memory}; try again later"
            )

    def submit(
        self,
        job: str,
        inputs: list[tuple[str, CoreList]],
        *,
        size: int,
        priority: int,
        timeout_s: float,
        hook: str = "",
        keep: bool = True,
    ) -> Task:
        """A task that waits for its turn, or runs already; without `keep` nothing is known of it when it is over, but
        to who holds it. Raises BusyError, OutOfMemoryError, ShutdownError."""
        self.check_room(job, size)
        self.results.make_room(size)
        line = self._lines.setdefault(job, _Line())
        self._numbers += 1
        task = Task(job, inputs, size, self._numbers, priority, timeout_s, Hook(hook) if hook else None, keep)
        self.results.add(task)
        self.waiting += 1
        heapq.heappush(line.waiting, (priority, task.number, task))
        self._tell(task)
        if timeout_s:
            task.timer = self._runtime.io.loop.call_later(timeout_s, self._late, task)
        self._dispatch()
        return task

    def find(self, task_id: str) -> Task:
        """Raises NoSuchTaskError."""
        return self.results.find(task_id)

    def all(self, job: str = "", state: str = "", before: int = 0) -> Iterator[Task]:
        """The latest first; `before` a number, 0 = all."""
        for task in self.results.latest():
            wanted = (not job or task.job == job) and (not state or task.state == state)
            if wanted and (not before or task.number < before):
                yield task

    def cancel(self, task: Task, reason: str) -> None:
        """Ends a task early; one that is over stays as it is."""
        self._cancel(task, TaskCancelledError(reason))

    def forget(self, task: Task) -> None:
        """A task that is over is no longer kept. Raises NoSuchTaskError."""
        self.results.remove(task)

    def close(self) -> None:
        """The service stops: what still waits or runs fails. [any thread but the I/O thread]"""
        self._runtime.io.run(self._close())

    async def _close(self) -> None:
        self._closed = True
        for task in list(self.results.latest()):
            if task.timer is not None:
                task.timer.cancel()
            self._cancel(task, ShutdownError("the service is stopping"))
        await self.webhooks.close()
        self.results.close()

    # ---- turns ----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Starts as many tasks as may run."""
        while self.running < self.settings.max_tasks:
            best: tuple[int, int] | None = None
            chosen: _Line | None = None
            for line in self._lines.values():
                if line.full or line.running >= self.settings.max_tasks_job:
                    continue
                head = line.head()
                if head is not None and (best is None or head < best):
                    best, chosen = head, line
            if chosen is None:
                return
            self._start(chosen)

    def _start(self, line: _Line) -> None:
        task = line.waiting[0][2]
        try:
            job = self._jobs.job(task.job)
            session = job.open(self._on_output(task), lambda _: self._soon(self._ended, task))
        except (BusyError, ShutdownError) as error:
            if isinstance(error, ShutdownError) and self._jobs.is_stopping:
                self._finish(task, error)
                return
            # It is full, or being replaced by another graph: both will be over soon.
            line.full = True
            self._runtime.io.loop.call_later(FULL_S, self._ask_again, line)
            return
        except ModelBoxError as error:
            self._finish(task, error)
            return
        heapq.heappop(line.waiting)
        self.waiting -= 1
        self.running += 1
        line.running += 1
        task.session, task.account = session, session.account
        task.state = TaskState.RUNNING
        task.started_at = time.monotonic()
        task.wake()
        self._tell(task)
        self._send(task, job, session)

    def _ask_again(self, line: _Line) -> None:
        line.full = False
        self._dispatch()

    def _send(self, task: Task, job: Job, session: Session) -> None:
        """Sends the inputs; a graph that is full gets the rest a little later."""
        while task.inputs and not session.dead:
            port, items = task.inputs[0]
            try:
                job.inputs.send(session, port, items, True)
            except BusyError:
                self._runtime.io.loop.call_later(FULL_S, self._send, task, job, session)
                return
            except ModelBoxError as error:
                session.cancel(error)
                break
            del task.inputs[0]
        self._let_inputs_go(task)

    def _let_inputs_go(self, task: Task) -> None:
        task.inputs = []
        if task.input_bytes:
            self.results.release(task.input_bytes)
            task.input_bytes = 0

    def _tell(self, task: Task) -> None:
        if task.keep:
            for observer in self.observers:
                observer(task)

    # ---- callbacks of the session [any thread] ------------------------------------------------------------------

    def _on_output(self, task: Task) -> Callable[[Session, dict[str, BufferList]], None]:
        limit = self.settings.max_result

        def take(session: Session, outputs: dict[str, BufferList]) -> None:
            for node, buffers in outputs.items():
                for buffer in buffers:
                    task.result_bytes += buffer.get_bytes() + 512
                    if task.result_bytes > limit:
                        text = f"output node '{node}': the outputs of the task are larger than {limit} bytes"
                        session.cancel(TaskResultError(f"{text} (tasks.max_result)", node=node))
                        return
                    task.arrived.append(output_of(node, buffer, lambda unit: only_node(session.job, unit)))
            self._soon(self._arrived, task)

        return take

    def _soon(self, function: Callable[[Task], None], task: Task) -> None:
        if self._runtime.io.is_current():
            self._runtime.io.loop.call_soon(function, task)
        else:
            self._runtime.io.call(function, task)

    def _arrived(self, task: Task) -> None:
        """Outputs have come."""
        if task.is_over or not task.arrived:
            return
        new: list[Output] = []
        while task.arrived:
            new.append(task.arrived.popleft())
        size = sum(output.size for output in new)
        self.results.hold(task, size)
        task.outputs += new
        if not self.results.make_room(0):
            session = task.session
            if session is not None:
                session.cancel(OutOfMemoryError(f"no room for results (tasks.memory = {self.settings.memory})"))
        task.wake()

    # ---- ends -----------------------------------------------------------------------------------------------------

    def _ended(self, task: Task) -> None:
        """Its session is over."""
        session = task.session
        if task.is_over or session is None:
            return
        self._arrived(task)
        self._finish(task, task.cancelled or session.error)

    def _late(self, task: Task) -> None:
        """Its time is over."""
        if task.is_over:
            return
        if task.session is None:
            text = f"not done within {task.timeout_s:g} s: it waited for its turn, {self.running} others run"
            self._finish(task, TimedOutError(text))
        elif task.cancelled is None:
            task.session.job.late(task.session, task.timeout_s)

    def _cancel(self, task: Task, reason: ModelBoxError) -> None:
        if task.is_over or task.cancelled is not None:
            return
        if task.session is None:
            self._finish(task, reason)
        else:
            task.cancelled = reason
            task.session.cancel(reason)

    def let_outputs_go(self, task: Task) -> None:
        """Whoever waited for a task has its outputs; they need not be kept."""
        self.results.drop(task)

    def _finish(self, task: Task, error: ModelBoxError | None) -> None:
        """A task that waited or ran is over."""
        line = self._lines[task.job]
        if task.state is TaskState.RUNNING:
            self.running -= 1
            line.running -= 1
        else:
            self.waiting -= 1
            line.waiting.remove((task.priority, task.number, task))
            heapq.heapify(line.waiting)
        if error is None:
            error = all_failed(task.outputs)
        task.error = error.with_traceback(None) if error is not None else None  # its frames would keep buffers
        task.session = None
        if isinstance(error, InternalError):
            about = {"job": task.job, "task": task.id}
            log.error("task %s of job '%s': %s", task.id, task.job, error, extra=about)
        if error is None:
            task.state = TaskState.SUCCEEDED
        else:
            task.state = TaskState.CANCELLED if isinstance(error, TaskCancelledError) else TaskState.FAILED
        task.ended_at = time.monotonic()
        self._let_inputs_go(task)
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        self.ended[task.job, task.state.value] += 1
        if task.keep:
            self.results.ended(task)
        else:
            self.results.forget(task)
        task.wake()
        self._tell(task)
        if task.hook is not None:
            self.webhooks.send(task)
        if not line.running and line.head() is None:
            del self._lines[task.job]
        if not self._closed:
            self._runtime.io.loop.call_soon(self._dispatch)


def all_failed(outputs: list[Output]) -> ModelBoxError | None:
    """What a task failed of that gave nothing but errors."""
    errors = [output.error for output in outputs if output.error is not None]
    if not errors or len(errors) < len(outputs):
        return None
    code, message, node = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return result_error(code, f"{message}{more}", node)


def only_node(job: Job, unit: str) -> str:
    """The node of a job that a flow unit is; "" where several are."""
    nodes = [node.name for step in job.steps for node in step.nodes if node.unit.name == unit]
    return nodes[0] if len(nodes) == 1 else ""


def since_1970(task: Task, moment: float) -> float:
    """A time of the monotonic clock as seconds since 1970."""
    return round(task.created + (moment - task.queued_at), 6)
