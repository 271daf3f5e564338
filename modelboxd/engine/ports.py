"""The doors of a graph for work from outside: nodes with type=input and type=output."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelbox._core import lib
from modelbox.buffer import Buffer, BufferList
from modelbox.errors import BusyError, GraphError, ShutdownError, UnitError
from modelboxd.engine.account import Account
from modelboxd.engine.feed import CoreList, concat, take_list
from modelboxd.engine.session import Session, Stream

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.engine.source import EntryStep

OnOutput = Callable[[Session, dict[str, BufferList]], None]


class _Waiting:
    """Matched inputs of one session: what was sent on one port before the others. Guarded by the job's lock."""

    __slots__ = ("counts", "ended", "queues")

    def __init__(self, ports: int) -> None:
        self.queues: list[deque[CoreList]] = [deque() for _ in range(ports)]
        self.counts = [0] * ports
        self.ended = [False] * ports


class GraphInputs:
    """All input nodes of a job; one session enters by all of them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.steps: dict[str, EntryStep] = {}  # by node name
        self.match = True
        self._waiting: dict[Session, _Waiting] = {}
        self._closed: dict[Session, set[str]] = {}  # ports that have ended

    def open(
        self,
        on_output: OnOutput | None = None,
        on_end: Callable[[Any], None] | None = None,
        private: dict[str, Any] | None = None,
        *,
        timeout_s: float = 0.0,
    ) -> Session:
        """A session. `on_output(session, {node: buffers})` gets what arrives at output nodes, one call at a time;
        `on_end(session)` is called once, afterwards. Raises GraphError, ShutdownError, BusyError."""
        job = self._job
        if not self.steps:
            raise GraphError(f"the graph of job '{job.name}' has no input node")
        if not job.accepts:
            raise ShutdownError(f"job '{job.name}' is not running")
        if not all(step.has_entry_room() or step.nodes[0].drop for step in self.steps.values()):
            error = BusyError(f"job '{job.name}' is full")
            error.retry_after_s = 1.0
            raise error
        session = Session(job, private, on_end, on_output)
        session.account = Account()
        stream = Stream(session)
        with job.lock:
            for step in self.steps.values():
                step.open_door(session, stream)
            if self.match and len(self.steps) > 1:
                self._waiting[session] = _Waiting(len(self.steps))
            job.admit_locked(session, timeout_s)
        return session

    def send(self, session: Session, port: str, items: CoreList, end: bool) -> None:
        """Values for one input node; the list is taken over. Raises UnitError for a port that is not there or has
        ended, BusyError when the graph is full: sending it again later is right."""
        if port not in self.steps:
            raise UnitError(f"Send Port {port} is not exist", hint=f"input nodes: {', '.join(self.steps) or 'none'}")
        job = self._job
        with job.lock:
            step = self.steps[port]
            closed = self._closed.setdefault(session, set()) if session in job.sessions else set()
            if items.count and not session.dead and (session.ended or port in closed):
                raise UnitError(f"input node '{port}' of job '{job.name}' has ended in this session")
            if items.count and not session.dead and not step.has_entry_room() and not step.nodes[0].drop:
                error = BusyError(f"input node '{port}' of job '{job.name}' is full")
                error.retry_after_s = 1.0
                raise error
            if end:
                closed.add(port)
            waiting = self._waiting.get(session)
            if waiting is None:
                self.steps[port].enter(session, 0, items, end)
            else:
                self._match(session, waiting, list(self.steps).index(port), items, end)
        job.settle()

    def _match(self, session: Session, waiting: _Waiting, number: int, items: CoreList, end: bool) -> None:
        """Lets in equal numbers on all ports (lock held)."""
        waiting.queues[number].append(items)
        waiting.counts[number] += items.count
        waiting.ended[number] = waiting.ended[number] or end
        ready = min(waiting.counts)
        over = all(waiting.ended) and max(waiting.counts) == ready
        if any(waiting.ended) and not over:
            short = next((at for at, ended in enumerate(waiting.ended) if ended and waiting.counts[at] == ready), None)
            ahead = next((at for at, count in enumerate(waiting.counts) if count > ready), None)
            if short is not None and ahead is not None:
                names = list(self.steps)
                text = f"input node '{names[short]}' has ended, '{names[ahead]}' still has data"
                self._job.fail_locked(session, UnitError(text))
                return
        if ready or over:
            for at, step in enumerate(self.steps.values()):
                waiting.counts[at] -= ready
                step.enter(session, 0, _take(waiting.queues[at], ready), over)

    def forget(self, session: Session) -> None:
        """The session is over (lock held)."""
        self._waiting.pop(session, None)
        self._closed.pop(session, None)


def _take(queue: deque[CoreList], count: int) -> CoreList:
    joined = concat(list(queue)) if queue else None
    queue.clear()
    if joined is None or joined.count == count:
        return joined
    taken = take_list(joined, count)
    queue.append(joined)
    return taken


def buffers_of(items: Sequence[Any]) -> BufferList:
    """Core buffers (borrowed) as a list for on_output."""
    made = BufferList()
    for item in items:
        made.push_back(Buffer.from_core(lib.mb_buffer_ref(item)))
    return made
