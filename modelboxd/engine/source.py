"""Where sessions enter a graph: the step of a source node, and the Entry that its unit holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.configuration import Configuration
from modelbox.errors import BusyError, ShutdownError
from modelboxd.engine.feed import CoreList, copy_list
from modelboxd.engine.session import Session, Stream
from modelboxd.engine.step import Step, Work
from modelboxd.engine.unit import SessionView, SourceUnit

if TYPE_CHECKING:
    from modelbox.buffer import Buffer
    from modelboxd.engine.job import Job
    from modelboxd.graph import model


class SourceStep(Step):
    """A source node. What its unit sends goes on at once, or waits here while the graph is full."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node], unit_class: type[SourceUnit]) -> None:
        super().__init__(job, index, nodes)
        self._backlog: deque[tuple[Stream, int, CoreList | None, bool]] = deque()
        self._waiting = 0
        self._capacity = nodes[0].queue_size_external
        self._roots: dict[Session, Stream] = {}
        self._open_ports: dict[Session, int] = {}
        self.accepting = False
        self.unit = unit_class(nodes[0], Configuration(nodes[0].options), job.services)

    def open(self) -> None:
        self.unit.open()

    def start(self) -> None:
        self.accepting = True
        self.unit.start(SourceEntry(self))

    def stop(self) -> None:
        """Refuses new sessions; those under way go on."""
        self.accepting = False
        self.unit.stop()

    def close(self) -> None:
        self.unit.close()

    # ---- Entry: called by the unit, from any thread ----------------------------------------------------

    def open_session(
        self, private: dict[str, Any] | None = None, on_end: Callable[[SessionView], None] | None = None
    ) -> Session:
        if not self.accepting:
            raise ShutdownError(f"job '{self.job.name}' is stopping")
        if not self.has_entry_room():
            error = BusyError(f"node '{self.name}': {self._waiting} buffers wait already, the graph is full")
            error.retry_after_s = 1.0
            raise error
        session = Session(self.job, private, on_end)
        stream = Stream(session)
        session.live = 1
        with self.job.lock:
            self._roots[session] = stream
            self._open_ports[session] = len(self.output_ports)
            self.job.sessions.add(session)
        return session

    def send(self, session: SessionView, port: str, buffers: Sequence[Buffer], *, end: bool = False) -> None:
        items = new_list(len(buffers))
        for buffer in buffers:
            core = buffer.to_core(self.job.pool)
            lib.mb_buffer_seal(core)
            lib.mb_list_push(items, lib.mb_buffer_ref(core))
        self.send_list(session, port, items, end=end)

    def send_list(self, session: SessionView, port: str, items: CoreList, *, end: bool = False) -> None:
        """send() for buffers that are a core list already (sealed); the list is taken over."""
        assert isinstance(session, Session)
        number = self.output_ports.index(port)
        job = self.job
        with job.lock:
            stream = self._roots.get(session)
            if stream is None or session.dead:
                return
            self.stats.buffers_out += items.count
            if self._backlog or self.is_blocked():
                self._backlog.append((stream, number, items, end))
                self._waiting += items.count
            else:
                self._forward(stream, number, items, end)
        job.settle_soon()

    def has_entry_room(self) -> bool:
        """False when back-pressure has filled the entry queue."""
        return self._waiting < self._capacity

    # ---- Step ---------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        if self._backlog and not self.asked and not self.is_blocked():
            self.asked = True
            self.job.inline.append(self)

    def take(self) -> Work | None:
        while self._backlog and not self.is_blocked():
            stream, port, items, end = self._backlog.popleft()
            self._waiting -= items.count if items is not None else 0
            self._forward(stream, port, items, end)
        return None

    def forget(self, session: Session) -> None:
        """The session failed: what it has waiting here is dropped (lock held)."""
        stream = self._roots.get(session)
        if stream is None:
            return
        kept = deque(entry for entry in self._backlog if entry[0] is not stream)
        for entry in self._backlog:
            if entry[0] is stream and entry[2] is not None:
                self._waiting -= entry[2].count
                self.stats.dropped += entry[2].count
        self._backlog = kept
        self._leave(session)

    def _forward(self, stream: Stream, port: int, items: CoreList | None, end: bool) -> None:
        targets = self.targets[port]
        last = len(targets) - 1
        for number, (step, target_port) in enumerate(targets):
            own = items if number == last or items is None else copy_list(items)
            step.push(stream, target_port, own, end)
        session = stream.session
        if end and session in self._roots:
            self._open_ports[session] -= 1
            if not self._open_ports[session]:
                self._leave(session)

    def _leave(self, session: Session) -> None:
        del self._roots[session], self._open_ports[session]
        session.live -= 1
        if not session.live:
            self.job.end_locked(session)


class SourceEntry:
    """The Entry protocol over a SourceStep."""

    __slots__ = ("_step", "send", "send_list")

    def __init__(self, step: SourceStep) -> None:
        self._step = step
        self.send = step.send
        self.send_list = step.send_list

    def open(
        self, private: dict[str, Any] | None = None, on_end: Callable[[SessionView], None] | None = None
    ) -> SessionView:
        return self._step.open_session(private, on_end)

    def has_room(self) -> bool:
        return self._step.has_entry_room()
