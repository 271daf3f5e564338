"""Where sessions enter a graph: entry queues, the step of a source node, and the Entry that its unit holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.configuration import Configuration
from modelbox.errors import BusyError, ShutdownError
from modelboxd.engine.calls import holes
from modelboxd.engine.feed import CoreList
from modelboxd.engine.session import Session, Stream
from modelboxd.engine.step import Step
from modelboxd.engine.unit import SessionView, SourceUnit
from modelboxd.engine.work import Work

if TYPE_CHECKING:
    from modelbox.buffer import Buffer
    from modelboxd.engine.job import Job
    from modelboxd.graph import model


class Door:
    """One session at an entry step, until all ports of it have ended. Guarded by the job's lock."""

    __slots__ = ("dropped", "kept", "open_ports", "passed", "step", "stream", "to_end", "waiting")

    def __init__(self, step: EntryStep, stream: Stream) -> None:
        self.step = step
        self.stream = stream
        self.open_ports = len(step.output_ports)
        self.waiting = 0  # entries of the backlog
        self.to_end = self.open_ports  # ports whose end was not even sent
        self.kept = 0  # values in the backlog
        self.passed = False  # some of its values have gone on
        self.dropped = False  # some were dropped
        stream.session.holders.add(self)

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step.shut(self)


class EntryStep(Step):
    """A step without input ports. What enters goes on at once, or waits here while the graph is full."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self._backlog: deque[tuple[Door, int, CoreList | None, bool]] = deque()
        self._waiting = 0
        self._capacity = nodes[0].queue_size_external
        self._capacity_bytes = nodes[0].queue_bytes
        self._waiting_bytes = 0
        self._drop = nodes[0].drop
        self.doors: dict[Session, Door] = {}

    def open_door(self, session: Session, stream: Stream) -> None:
        """Lets a session in (lock held)."""
        self.doors[session] = Door(self, stream)

    def has_entry_room(self) -> bool:
        """False when back-pressure has filled the entry queue."""
        if self._waiting >= self._capacity:
            return False
        if self._capacity_bytes and self._waiting_bytes >= self._capacity_bytes:
            return False
        limit = self.job.settings.max_queue_bytes
        return not limit or self.job.bytes < limit

    def enter(self, session: Session, port: int, items: CoreList | None, end: bool) -> None:
        """Values for the session's stream on an output port; the list is taken over (lock held)."""
        door = self.doors.get(session)
        if door is None or session.dead:
            return
        if not self._backlog and not self.is_blocked():
            self._forward(door, port, items, end)
            return
        door.to_end -= end
        if self._drop and items is not None and items.count and not self.has_entry_room():
            if self._drop == "oldest":
                self._drop_oldest()
            else:
                items = self._drop_list(door, items)
        if items is not None or end:
            self._backlog.append((door, port, items, end))
            door.waiting += 1
            self._count(door, items, 1)
        self._check_lost(door)

    def _drop_oldest(self) -> None:
        """Drops what came first, until there is room (lock held)."""
        number = 0
        lost: list[Door] = []
        while number < len(self._backlog) and not self.has_entry_room():
            door, port, items, end = self._backlog[number]
            if items is None or not any(items.items[at] for at in range(items.count)):
                number += 1
                continue
            self._count(door, items, -1)
            left = self._drop_list(door, items)
            self._count(door, left, 1)
            lost.append(door)
            if left is None and not end:
                del self._backlog[number]
                door.waiting -= 1
            else:
                self._backlog[number] = (door, port, left, end)
                number += 1
        for door in lost:
            self._check_lost(door)

    def _drop_list(self, door: Door, items: CoreList) -> CoreList | None:
        """Drops values (lock held). Where other ports have the same positions, holes are left in their place."""
        self.stats.dropped += items.count
        door.dropped = True
        inputs = self.job.inputs
        if len(self.output_ports) > 1 or (self.name in inputs.steps and inputs.match and len(inputs.steps) > 1):
            return holes(items.count)
        return None

    def _check_lost(self, door: Door) -> None:
        """A session that has ended and of which everything was dropped: whoever waits for it hears of it at once
        (lock held)."""
        if door.dropped and not (door.passed or door.kept or door.to_end):
            error = BusyError(f"node '{self.name}': dropped, the graph is full")
            error.retry_after_s = 1.0
            self.job.fail_locked(door.stream.session, error)

    def _count(self, door: Door, items: CoreList | None, sign: int) -> None:
        if items is None:
            return
        door.kept += sign * items.count
        self._waiting += sign * items.count
        self._waiting_bytes += sign * items.bytes
        self.job.bytes += sign * items.bytes

    # ---- Step (lock held) ----------------------------------------------------------------------------------

    def waits(self) -> bool:
        return bool(self._backlog)

    def queued(self) -> tuple[int, int]:
        return self._waiting, self._waiting_bytes

    def schedule(self) -> None:
        if self._backlog and not self.asked and not self.is_blocked():
            self.asked = True
            self.job.inline.append(self)

    def take(self) -> Work | None:
        while self._backlog and not self.is_blocked():
            door, port, items, end = self._backlog.popleft()
            door.waiting -= 1
            self._count(door, items, -1)
            self._forward(door, port, items, end)
        return None

    def shut(self, door: Door) -> None:
        """The session failed: what it has waiting here is dropped."""
        if door.waiting:
            kept: deque[tuple[Door, int, CoreList | None, bool]] = deque()
            for entry in self._backlog:
                if entry[0] is not door:
                    kept.append(entry)
                elif entry[2] is not None:
                    self._count(door, entry[2], -1)
                    self.stats.dropped += entry[2].count
            self._backlog = kept
        self._leave(door)

    def _forward(self, door: Door, port: int, items: CoreList | None, end: bool) -> None:
        if items is not None and items.count:
            door.passed = True
        self.emit_port(port, door.stream, items, end, b"")
        if end and door.stream.session in self.doors:
            door.open_ports -= 1
            if not door.open_ports:
                self._leave(door)

    def _leave(self, door: Door) -> None:
        session = door.stream.session
        if self.doors.pop(session, None) is not None:
            session.release(door)


class SourceStep(EntryStep):
    """A source node with a built-in unit, which opens the sessions."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node], unit_class: type[SourceUnit]) -> None:
        super().__init__(job, index, nodes)
        self.accepting = False
        self.unit = unit_class(nodes[0], Configuration(nodes[0].options), job.services)

    def open(self) -> None:
        self.unit.open()

    def forget(self, session: Session) -> None:
        """The session is over (lock held)."""

    def start(self) -> None:
        """Lets the unit begin."""
        self.accepting = True
        self.unit.start(SourceEntry(self))

    def finish_arriving(self, limit_s: float) -> None:
        """See SourceUnit.finish_arriving()."""
        self.unit.finish_arriving(limit_s)

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
        """See Entry.open()."""
        job = self.job
        if not self.accepting:
            raise ShutdownError(f"job '{job.name}' is stopping")
        if not self.has_entry_room() and not self._drop:
            error = BusyError(f"node '{self.name}': {self._waiting} buffers wait already, the graph is full")
            error.retry_after_s = 1.0
            raise error
        session = Session(job, private, on_end)
        with job.lock:
            self.open_door(session, Stream(session))
            job.admit_locked(session)
        return session

    def send(self, session: SessionView, port: str, buffers: Sequence[Buffer], *, end: bool = False) -> None:
        """See Entry.send()."""
        self.send_list(session, port, sealed_list(self.job, buffers), end=end)

    def send_list(self, session: SessionView, port: str, items: CoreList, *, end: bool = False) -> None:
        """send() for buffers that are a core list already (sealed); the list is taken over."""
        assert isinstance(session, Session)
        number = self.output_ports.index(port)
        with self.job.lock:
            self.enter(session, number, items, end)
        self.job.settle_soon()


def sealed_list(job: Job, buffers: Sequence[Buffer]) -> CoreList:
    """The buffers as a core list, ready to be sent."""
    items = new_list(len(buffers))
    for buffer in buffers:
        core = buffer.to_core(job.pool)
        lib.mb_buffer_seal(core)
        lib.mb_list_push(items, lib.mb_buffer_ref(core))
    lib.mb_list_born(items, 0, 0)
    return items


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

    def troubles(self) -> list[tuple[str, str]]:
        return self._step.job.troubles()
