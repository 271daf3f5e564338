"""The step of a source in Python: a unit without inputs, which opens sessions from inside its worker."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from modelbox._core import lib
from modelbox.errors import WorkerLostError
from modelboxd.engine.calls import Call
from modelboxd.engine.feed import CoreList, Feed
from modelboxd.engine.kinds import StreamKind
from modelboxd.engine.session import Session, Stream
from modelboxd.engine.worker import WorkerStep
from modelboxd.workers.place import Refuser
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import FAILED_SOURCE, WorkerCall

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model


class PythonSourceStep(WorkerStep):
    """A Python node without inputs: its unit opens sessions, and gets what it sends there as external data."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.input_ports = ["external"]
        self.lanes = [0]
        self.capacity = [nodes[0].queue_size_external]
        self.counts = [0]
        self.batch_size = 1 << 20
        self.kind = SourceKind(self)
        self.accepting = False
        self._early: list[tuple[Worker, int, CoreList | None]] = []  # sent before the job has started
        self._sessions: dict[tuple[Worker, int], ExternalDoor] = {}
        self._numbers: dict[Session, tuple[Worker, int]] = {}
        self._failed: set[tuple[Worker, int]] = set()  # sessions that failed before the unit closed them
        self._drop = nodes[0].drop
        self._arrived_lists: deque[tuple[Feed, CoreList]] = deque()  # drop = oldest: in the order of their coming

    def open(self) -> None:
        self._group = self.job.start_workers(self.node, self._on_room, self._arrives)

    def start(self) -> None:
        """Lets in what the unit has sent from open()."""
        with self.job.lock:
            self.accepting = True
            early, self._early = self._early, []
            for worker, number, items in early:
                self._enter(worker, number, items)
        self.job.settle()

    def finish_arriving(self, limit_s: float) -> None:
        """See SourceUnit.finish_arriving(): nothing comes from outside."""

    def stop(self) -> None:
        """Lets no new session in, and ends those under way: the unit would go on for ever."""
        with self.job.lock:
            self.accepting = False
            for door in list(self._sessions.values()):
                self._leave(door)
        self.job.settle()

    def _arrives(self, worker: Worker, number: int, items: CoreList | None) -> None:
        with self.job.lock:
            if self.accepting:
                self._enter(worker, number, items)
            elif self.job.is_starting:
                self._early.append((worker, number, items))
        self.job.settle()

    def _enter(self, worker: Worker, number: int, items: CoreList | None) -> None:
        door = self._sessions.get((worker, number))
        if (worker, number) in self._failed:  # on its way when the session failed
            if items is None:
                self._failed.discard((worker, number))
            return
        if door is None:
            if items is None:
                return
            session = Session(self.job, None, None)
            session.workers = {worker}  # it has the session's context and wants to hear of its end
            door = ExternalDoor(self, Stream(session), worker, number)
            self._sessions[worker, number] = door
            self._numbers[session] = (worker, number)
            self.job.admit_locked(session)
        if items is None:
            self._leave(door)
            return
        lib.mb_list_born(items, 0, 0)
        stream = door.stream
        feed = self.feeds.get(stream)
        if feed is None:
            self.push(stream, 0, None, False)
            feed = self.feeds[stream]
            feed.state = worker
        if self._drop and not self._make_room(items.count):
            self.stats.dropped += items.count
            return
        self.push(stream, 0, items, False)
        if self._drop == "oldest":
            self._arrived_lists.append((feed, items))

    def _make_room(self, count: int) -> bool:
        """Whether so many values more may wait; with drop = oldest those that wait longest give way (lock held)."""
        order = self._arrived_lists
        while order and (self.counts[0] + count > self.capacity[0] or not _waits(*order[0])):
            feed, items = order.popleft()
            if _waits(feed, items):
                feed.queues[0].popleft()
                feed.avail[0] -= items.count
                self.counts[0] -= items.count
                self.bytes -= items.bytes
                self.job.bytes -= items.bytes
                self.stats.dropped += items.count
        if len(order) > 2 * self.capacity[0]:  # lists of other sessions that have long gone stand behind one that waits
            self._arrived_lists = deque(entry for entry in order if _waits(*entry))
        return self._drop == "oldest" or not self.counts[0] or self.counts[0] + count <= self.capacity[0]

    def _leave(self, door: ExternalDoor) -> None:
        if self._sessions.pop((door.worker, door.number), None) is not None:
            self.push(door.stream, 0, None, True)
            door.stream.session.release(door)

    def lost(self, worker: Worker) -> None:
        """The worker died: nothing more comes for its sessions."""
        with self.job.lock:
            for door in [door for door in self._sessions.values() if door.worker is worker]:
                self.job.fail_locked(door.stream.session, WorkerLostError(f"python worker {worker.name} is gone"))
            self._failed = {key for key in self._failed if key[0] is not worker}
        self.job.settle()

    def _on_room(self) -> None:
        with self.job.lock:
            workers = {worker for worker, _ in (*self._sessions, *self._failed) if not worker.alive}
        for worker in workers:
            self.lost(worker)
        super()._on_room()

    def _order(self, call: Call, worker: Worker | Refuser) -> WorkerCall:
        made = super()._order(call, worker)
        _, made.external = self._numbers.get(call.session, (worker, 0))
        return made

    def forget(self, session: Session) -> None:
        """The session is over (lock held)."""
        worker, number = self._numbers.pop(session, (None, 0))
        # With drop all of its lists may be lost: then the unit's end hears of the session here only.
        if worker is not None and (session.dead or self._drop):
            self.job.after.append(lambda: worker.end_sessions([FAILED_SOURCE | number]))


def _waits(feed: Feed, items: CoreList) -> bool:
    """Whether the list is the next one of its feed."""
    return bool(feed.queues[0]) and feed.queues[0][0] is items


class ExternalDoor:
    """One session of a Python source, until the unit closes it. Guarded by the job's lock."""

    __slots__ = ("number", "step", "stream", "worker")

    def __init__(self, step: PythonSourceStep, stream: Stream, worker: Worker, number: int) -> None:
        self.step = step
        self.stream = stream
        self.worker = worker
        self.number = number
        stream.session.holders.add(self)

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step._sessions.pop((self.worker, self.number), None)
        self.step._failed.add((self.worker, self.number))
        self.stream.session.release(self)


class SourceKind(StreamKind):
    """A source in Python: a stream unit that gets one list per call."""

    def amount(self, feed: Feed) -> int:
        return feed.queues[0][0].count if feed.queues[0] else 0
