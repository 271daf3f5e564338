"""A job: a graph that runs. Owns its steps, its sessions and the lock that guards them.

Lock discipline: everything about queues, feeds and sessions changes under `lock`. Whatever may block, call
user-visible code or take long happens outside: units run in execute(), callbacks wait in `after`. settle()
runs inline steps and callbacks until nothing is left for the calling thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from modelbox.errors import InternalError, ModelBoxError, ShutdownError, TimedOutError, UnitError
from modelboxd.engine.clock import Clock, IoClock
from modelboxd.engine.feed import Feed
from modelboxd.engine.limits import Limits
from modelboxd.engine.ports import GraphInputs
from modelboxd.engine.session import Session
from modelboxd.engine.source import sealed_list
from modelboxd.engine.step import Step
from modelboxd.engine.unit import Services
from modelboxd.workers.values import Budget

if TYPE_CHECKING:
    from modelbox._core.memory import Pool
    from modelbox.buffer import Buffer, BufferList
    from modelbox.spec import UnitSpec
    from modelboxd.engine.executor import Executor
    from modelboxd.graph import model
    from modelboxd.workers.group import WorkerGroup
    from modelboxd.workers.health import GroupStatus
    from modelboxd.workers.process import External

log = logging.getLogger(__name__)


class JobState(Enum):
    CREATED = "created"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What the engine needs to know beside the graph."""

    drain_timeout_s: float = 30.0  # stop(): how long sessions under way may take
    close_timeout_s: float = 5.0  # how long the units may take to close
    session_timeout_s: float = 0.0  # how long a session may take, 0 = no limit
    session_bytes: int = 64 << 20  # the values that the Python units of a session share
    all_values: Budget = field(default_factory=Budget)  # those of all sessions
    max_queue_bytes: int = (
        0  # data that may wait in the queues of the job, before its sources are stopped; 0 = no limit
    )


class Job:
    """One running graph. start() opens every unit and lets the sources go; stop() drains and closes."""

    def __init__(
        self,
        name: str,
        executor: Executor,
        pool: Pool,
        services: Services,
        *,
        settings: JobSettings,
        library_unit: Callable[[UnitSpec], Any],
        start_workers: Callable[[str, model.Node, Callable[[], None], External | None], WorkerGroup],
        priority: int = 5,
        clock: Clock | None = None,
    ) -> None:
        """`priority`: 1 (first) to 10, before the priorities of nodes."""
        self.name = name
        self.priority = priority
        self.executor = executor
        self.pool = pool
        self.services = services
        self.settings = settings
        self.clock: Clock = clock or IoClock(services.io)
        self.library_unit = library_unit
        self._start_workers = start_workers
        self.lock = threading.Lock()
        self.quiet = threading.Condition(self.lock)  # notified when the last session ends; when draining, of each
        self.steps: list[Step] = []
        self.sources: list[Any] = []
        self.sessions: set[Session] = set()
        self.inputs = GraphInputs(self)
        self.active = 0  # turns asked for or running, and messages at workers
        self.bytes = 0  # data that waits in queues
        self.limits = Limits(self)
        self.held: set[Step] = set()  # steps whose batches wait to become fuller
        self.on_quiet: Callable[[], None] = lambda: None  # the last session has ended; lock held
        self.inline: deque[Step] = deque()
        self.after: deque[Callable[[], None]] = deque()
        self.state = JobState.CREATED
        self.error: ModelBoxError | None = None
        self._settling = threading.local()
        self._soon = False  # I/O thread only
        self._is_ending = False
        self._stopping: threading.Thread | None = None  # a stop that a unit has asked for

    def start_workers(
        self, node: model.Node, on_room: Callable[[], None], on_external: External | None = None
    ) -> WorkerGroup:
        """The worker processes of a Python node, ready for calls; raises UnitError."""
        return self._start_workers(self.name, node, on_room, on_external)

    # ---- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens all steps side by side, then starts the sources. Raises the first error, everything closed."""
        opened: list[Step] = []
        failure: ModelBoxError | None = None
        with ThreadPoolExecutor(max_workers=max(1, len(self.steps)), thread_name_prefix="mb-open") as pool:
            for step, future in [(step, pool.submit(step.open)) for step in self.steps]:
                try:
                    future.result()
                    opened.append(step)
                except ModelBoxError as error:
                    failure = failure or error
                except Exception as error:
                    log.exception("cannot open node '%s'", step.name, extra=step.about)
                    text = f"node '{step.name}': cannot open: {type(error).__name__}: {error}"
                    failure = failure or InternalError(text)
        if failure is None:
            self.state = JobState.RUNNING
            failure = self._start_sources()
        if failure is not None:
            self.state = JobState.FAILED
            self.error = failure
            self._close_steps(opened)
            raise failure

    def _start_sources(self) -> ModelBoxError | None:
        started = []
        for source in self.sources:
            try:
                source.start()
                started.append(source)
            except ModelBoxError as error:
                for other in started:
                    other.stop()
                return error
        return None

    def stop(self, drain_timeout_s: float | None = None, *, handed_over: bool = False) -> int:
        """Takes no more work, waits for what is under way, closes all units.

        With `handed_over` new work goes elsewhere already: then what has half arrived here is waited for, too.
        Returns how many sessions were cut off because the drain deadline passed. Not from the I/O thread.
        """
        limit = self.settings.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        with self.lock:
            if self.state is not JobState.RUNNING or self._is_ending:
                return 0
            self._is_ending = True
        if handed_over:
            for source in self.sources:
                source.finish_arriving(limit)
        self.state = JobState.DRAINING
        for source in self.sources:
            source.stop()
        lost = self._drain(limit)
        self._close_steps(self.steps)
        self.state = JobState.STOPPED
        return lost

    def ask_stop(self, reason: str) -> None:
        """A unit returned STOP or SHUTDOWN: the whole job stops. [any thread]"""
        with self.lock:
            if self.state is not JobState.RUNNING or self._stopping is not None:
                return
            self._stopping = threading.Thread(target=self.stop, args=(0.0,), name="mb-stop", daemon=True)
        log.warning("job '%s' stops: %s", self.name, reason, extra={"job": self.name})
        self._stopping.start()

    def troubles(self) -> list[tuple[str, str]]:
        """(node, reason) of every node where work cannot go on for now. [any thread]"""
        return [(step.name, reason) for step in self.steps for reason in (step.trouble(),) if reason]

    def workers(self) -> list[GroupStatus]:
        """How the worker processes of each Python node are. [any thread]"""
        return [status for step in self.steps if (status := step.workers()) is not None]

    @property
    def is_starting(self) -> bool:
        """Whether start() is under way."""
        return self.state is JobState.CREATED

    def _drain(self, limit_s: float) -> int:
        with self.quiet:
            # Nobody waits for sessions that have failed, such as those of a client that got its 408.
            self.quiet.wait_for(lambda: not self._living(), limit_s)
            late = self._living()
            for session in late:
                self.fail_locked(session, ShutdownError(f"job '{self.name}' was stopped before this was done"))
        self.settle()
        if late:
            why = " by the drain deadline" if limit_s else ""
            log.warning("job '%s': %d sessions were cut off%s", self.name, len(late), why, extra={"job": self.name})
        with self.quiet:  # what runs in C or in a worker cannot be interrupted here, only waited for
            self.quiet.wait_for(lambda: not self.sessions, self.settings.close_timeout_s)
        return len(late)

    def _living(self) -> list[Session]:
        return [session for session in self.sessions if not session.dead]

    def _close_steps(self, steps: list[Step]) -> None:
        for step in reversed(steps):
            try:
                step.close()
            except Exception:
                log.exception("closing node '%s' failed", step.name, extra=step.about)

    # ---- running ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Runs waiting callbacks and inline steps. A nested call leaves the rest to the outer one."""
        if getattr(self._settling, "busy", False):
            return
        self._settling.busy = True
        try:
            while self._settle_one():
                pass
        finally:
            self._settling.busy = False

    def settle_soon(self) -> None:
        """settle() at the end of this turn of the I/O loop, so that requests that arrived together travel
        together; on other threads at once."""
        io = self.services.io
        if not io.is_current():
            self.settle()
        elif not self._soon:
            self._soon = True
            io.loop.call_soon(self._settle_deferred)

    def _settle_deferred(self) -> None:
        self._soon = False
        self.settle()

    def _settle_one(self) -> bool:
        callback = work = step = None
        with self.lock:
            if self.after:
                callback = self.after.popleft()
            elif self.inline:
                step = self.inline.popleft()
                step.asked = False
                work = None if step.is_blocked() else step.take()
                if work is not None:
                    self.active += 1
            else:
                self.idle_locked()
                return bool(self.inline or self.after)
        if callback is not None:
            try:
                callback()
            except Exception:
                log.exception("job '%s': a callback failed", self.name, extra={"job": self.name})
        elif work is not None and step is not None:
            step.turn_inline(work)
        return True

    # ---- work from outside ------------------------------------------------------------------------------------

    @property
    def accepts(self) -> bool:
        """Whether new sessions may begin."""
        return self.state is JobState.RUNNING

    def open(
        self,
        on_output: Callable[[Session, dict[str, BufferList]], None] | None = None,
        on_end: Callable[[Any], None] | None = None,
        private: dict[str, Any] | None = None,
        *,
        timeout_s: float = 0.0,
    ) -> Session:
        """A session through the graph's input and output nodes; see GraphInputs.open()."""
        return self.inputs.open(on_output, on_end, private, timeout_s=timeout_s)

    def send(self, session: Session, port: str, buffers: Sequence[Buffer], *, end: bool = False) -> None:
        """Appends buffers to a session's stream at the input node `port`; `end` closes it. Raises UnitError, and
        BusyError when the graph is full."""
        self.inputs.send(session, port, sealed_list(self, buffers), end)

    def admit_locked(self, session: Session, timeout_s: float = 0.0) -> None:
        """A new session begins (lock held)."""
        self.sessions.add(session)
        limit = timeout_s or self.settings.session_timeout_s
        if limit:
            self.limits.add(session, limit)

    def late(self, session: Session, limit: float) -> None:
        """The session's time is over. A call that runs goes on; nobody waits for it. No lock held."""
        with self.lock:
            if session.dead or session.ended:
                return
            text = f"job '{self.name}': not done within {limit:g} s{self._whereabouts(session)}"
            self.fail_locked(session, TimedOutError(text))
        log.warning("%s", text, extra={"job": self.name})
        self.settle()

    def _whereabouts(self, session: Session) -> str:
        """Which nodes hold the session, calls first (lock held)."""
        running: set[str] = set()
        waiting: set[str] = set()
        for holder in session.holders:
            if isinstance(holder, Feed):
                if holder.busy:
                    running.add(holder.step.name)
                elif holder.has_work():
                    waiting.add(holder.step.name)
        if running:
            return f"; a call runs at node {names_of(running)}"
        return f"; data waits at node {names_of(waiting)}" if waiting else ""

    # ---- sessions ---------------------------------------------------------------------------------------------

    def fail_session(self, session: Session, error: ModelBoxError) -> None:
        """Ends a session with an error; see Session.cancel()."""
        with self.lock:
            self.fail_locked(session, error)
        self.settle()

    def fail_locked(self, session: Session, error: ModelBoxError) -> None:
        """fail_session() with the lock held; the caller settles."""
        if session.dead or session.ended:
            return
        session.dead = True
        self.inputs.forget(session)
        session.error = error.with_traceback(None)  # whose frames would keep buffers
        self._notify_end(session)
        for holder in list(session.holders):
            holder.drop()
        if self.state is JobState.DRAINING:
            self.quiet.notify_all()

    def idle_locked(self) -> None:
        """Nothing runs: where steps wait for room in queues that will not get empty by themselves (a node joins two
        paths, or collects a whole sub-stream), those queues may grow (lock held)."""
        if self.active or self.inline:
            return
        stuck = any(step.waits() for step in self.steps)
        if self.held:
            self.ask_held_locked(hurry=stuck)
            if self.active or self.inline:
                return
        # A batch that waits for its time may have lost the room behind it meanwhile.
        stuck = stuck or any(step.is_blocked() for step in self.held)
        if stuck and not self._overfull_locked():
            relieved = [step for step in self.steps if step.relieve()]
            for step in self.steps if relieved else ():
                step.schedule()

    def _overfull_locked(self) -> bool:
        """Whether the queues may not grow any more: then the session that waits with the most data fails."""
        limit = self.settings.max_queue_bytes
        if not limit or sum(step.bytes for step in self.steps) < limit:
            return False
        feeds = [feed for step in self.steps if not step.ready for feed in step.feeds.values() if any(feed.avail)]
        if not feeds:
            return False
        feed = max(feeds, key=Feed.waiting_bytes)
        step = feed.step
        port = step.input_ports[step.lanes[feed.avail.index(max(feed.avail))]]
        text = (
            f"node '{step.name}' port '{port}': {max(feed.avail)} buffers wait for others that do not come, and the "
            f"queues of job '{self.name}' are full (max_queue_bytes = {limit})"
        )
        self.fail_locked(feed.stream.session, UnitError(text))
        return True

    def ask_held_locked(self, *, hurry: bool = False) -> None:
        """Something has changed: batches that wait may go now; with `hurry` they must (lock held)."""
        for step in list(self.held):
            if hurry and step.batching is not None:
                step.batching.hurry()
            else:
                step.schedule()

    def end_locked(self, session: Session) -> None:
        """Nothing of the session is left in the graph (lock held)."""
        if session.ended:
            return
        session.ended = True
        self.inputs.forget(session)
        for source in self.sources:
            source.forget(session)
        self._notify_end(session)
        if session.workers or session.values is not None:
            workers, session.workers = session.workers or set(), None
            if session.values is not None:
                workers |= session.values.workers()
                session.values.close()
                session.values = None
            number = session.number

            def forget() -> None:
                for worker in workers:
                    worker.end_sessions([number])

            self.after.append(forget)
        self.sessions.discard(session)
        self.limits.trim()
        if not self.sessions:
            self.on_quiet()
            self.quiet.notify_all()
        elif self.state is JobState.DRAINING:
            self.quiet.notify_all()

    def _notify_end(self, session: Session) -> None:
        callback, session.on_end = session.on_end, None
        if callback is not None:
            self.after.append(lambda: callback(session))


def names_of(nodes: set[str]) -> str:
    """Names of nodes for a message, the first few of them."""
    names = [f"'{name}'" for name in sorted(nodes)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
