"""The step of a user's Python unit: packs work for worker processes, unpacks what comes back.

Sending never blocks, so the step runs inline, on whatever thread made it ready; results arrive on the I/O
thread. A stream is pinned to one worker from its first buffer to its end.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.errors import InternalError, ModelBoxError, TimedOutError, UnitError, WorkerLostError
from modelboxd.engine.calls import Call, RuleBroken, port_metas, results
from modelboxd.engine.errors import all_seen, mark_called, merge, split
from modelboxd.engine.feed import Feed, Part
from modelboxd.engine.session import Stream
from modelboxd.engine.step import Step
from modelboxd.engine.work import Work
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.health import GroupStatus
from modelboxd.workers.place import Refuser
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model

log = logging.getLogger(__name__)

MESSAGE_CALLS = 32  # calls of one message, at most


class Trip:
    """One message to a worker and back."""

    __slots__ = ("calls", "sending", "whole", "work", "worker")

    def __init__(self, work: Work, worker: Worker | Refuser) -> None:
        self.work = work
        self.worker = worker
        self.calls: list[Call] = []
        self.sending = 0  # nanoseconds; 0: not over yet
        self.whole = True  # NORMAL: all positions were sent

    def is_wanted(self) -> bool:
        """Whether a session waits for any of it. [any thread]"""
        return any(not part.feed.stream.session.dead for part in self.work.parts)


class WorkerStep(Step):
    """One Python node, run by the processes of a WorkerGroup."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.node = nodes[0]
        self._group: WorkerGroup | None = None
        self._starved = False  # no worker has room for anything that waits; _on_room() ends it
        self._lost = False  # a worker may have died with streams pinned to it

    def open(self) -> None:
        self._group = self.job.start_workers(self.node, self._on_room)

    def close(self) -> None:
        if self._group is not None:
            self._group.close(self.job.settings.close_timeout_s)

    def trouble(self) -> str:
        return self._group.trouble() if self._group is not None else ""

    def workers(self) -> GroupStatus | None:
        return self._group.status() if self._group is not None else None

    @property
    def group(self) -> WorkerGroup:
        assert self._group is not None
        return self._group

    def _on_room(self) -> None:
        with self.job.lock:
            self._starved = False
            self._lost = True
            self.schedule()
        self.job.settle()

    # ---- forming work (lock held) ----------------------------------------------------------------------

    def batch_limit(self) -> int:
        """A batch, or less where several workers are free to share what waits."""
        if self.kind.calls:
            return MESSAGE_CALLS * self.batch_size
        free = self.group.free()
        return min(self.batch_size, max(1, -(-min(self.counts) // max(free, 1))))

    def schedule(self) -> None:
        if not self._starved:
            super().schedule()

    def mark(self, feed: Feed) -> None:
        if feed.state is None:
            self._starved = False  # a new stream may go to a worker that the waiting ones cannot use
        super().mark(feed)

    def take(self) -> Work | None:
        if self._group is None:
            return None
        self._now = perf_counter_ns()
        parts, worker = self._take_calls() if self.kind.calls else self._take_normal()
        for step in self.upstream:
            step.schedule()
        if not parts:
            self._starved = bool(self.ready) and worker is None
            return None
        if self.relief and not self.ready:
            self.relief = 0
        self.schedule()
        work = self.begin(parts)
        work.worker = worker
        return work

    def _take_normal(self) -> tuple[list[Part], Worker | Refuser | None]:
        worker = self.group.pick()
        if worker is None:
            return [], None
        return self._take_batch(), worker

    def _take_calls(self) -> tuple[list[Part], Worker | Refuser | None]:
        """Parts of several feeds that can go to one worker: new contexts to the least busy one, those that are
        pinned to their own."""
        free = self.group.free()
        if not free and not self._lost:
            return [], None
        self._lost = False
        # Every free worker gets its share of what waits, so that none idles beside a long message.
        limit = min(MESSAGE_CALLS, -(-len(self.ready) // max(free, 1)))
        chosen: Worker | Refuser | None = None
        parts: list[Part] = []
        calls = 0
        for _ in range(len(self.ready)):
            if calls >= limit or not self.ready:  # a session that fails here takes its other feeds along
                break
            feed = self.ready.popleft()
            feed.ready = False
            worker = self._worker_for(feed, chosen)
            if worker is None:
                feed.ready = True
                self.ready.append(feed)
                continue
            part = self._take_part(feed, (MESSAGE_CALLS - calls) * self.batch_size)
            if part is None:
                continue
            chosen = worker
            if self.kind.serial:
                feed.state = worker
            else:
                self.mark(feed)
            parts.append(part)
            calls += max(1, -(-part.count // self.batch_size))
        return parts, chosen

    def _worker_for(self, feed: Feed, chosen: Worker | Refuser | None) -> Worker | Refuser | None:
        pinned: Worker | Refuser | None = feed.state
        if not self.kind.serial and feed.events:
            pinned = feed.events[0].state
        if pinned is not None:
            if chosen is not None and pinned is not chosen:
                return None
            return pinned if not pinned.alive or pinned.has_room() else None
        return chosen or self.group.pick()

    # ---- sending -----------------------------------------------------------------------------------------

    def execute(self, work: Work) -> None:
        raise NotImplementedError("a worker step finishes in its own time; see turn_inline()")

    def turn_inline(self, work: Work) -> None:
        """Sends the work; complete() follows when the answer is here."""
        worker = work.worker
        assert isinstance(worker, (Worker, Refuser))
        trip = Trip(work, worker)
        try:
            if self.kind.calls:
                for part in work.parts:
                    self.kind.cut(part)
                    trip.calls += [piece for piece in part.pieces if isinstance(piece, Call)]
            else:
                self._pack_normal(trip)
        except Exception as error:
            log.exception("node '%s': cannot pack calls", self.name, extra=self.about)
            self.fail_parts(work.parts, InternalError(f"node '{self.name}': {type(error).__name__}: {error}"))
            self._finish(trip)
            return
        if trip.calls:
            if isinstance(worker, Worker):
                self._share(trip, worker)
            started = perf_counter_ns()
            orders = [self._order(call, worker) for call in trip.calls]
            worker.submit(orders, lambda answers: self._arrived(trip, answers), trip.is_wanted)
            trip.sending = perf_counter_ns() - started
        else:
            self._arrived(trip, [])

    def _share(self, trip: Trip, worker: Worker) -> None:
        """Sends what the worker does not know yet of values that other calls of the sessions have set."""
        values = {call.session.values for call in trip.calls if call.session.values is not None}
        if not values:
            return
        try:
            worker.share(values)
        except ModelBoxError as error:
            self.fail_parts(trip.work.parts, error)

    def _pack_normal(self, trip: Trip) -> None:
        inputs = trip.work.inputs
        if not all_seen(inputs, self.visible):
            trip.whole = False
            inputs = split(inputs, self.visible)
            if not inputs[0].count:
                return
        first = mark_called(trip.work.parts, trip.work.inputs, self.visible).feed
        call = Call(first.stream.session, inputs)
        call.input_metas = port_metas(self, first)
        trip.calls.append(call)

    def _order(self, call: Call, worker: Worker | Refuser) -> WorkerCall:
        """The call as the worker's message has it."""
        session = call.session
        made = WorkerCall(call.number, call.begin, call.end, session.number, session.id, call.inputs, [])
        made.event = call.event
        made.cancelled = session.dead
        made.owner = session
        if call.context is not None and call.begin:
            call.context.state = worker
        if call.input_metas is not None and any(call.input_metas):
            made.input_meta = call.input_metas
        return made

    # ---- results (I/O thread, or the sender's when the worker is gone) ------------------------------------

    def _arrived(self, trip: Trip, answers: list[WorkerResult]) -> None:
        job = self.job
        for call, answer in zip(trip.calls, answers, strict=True):
            self._take_answer(call, answer)
            if answer.keeps_session or call.more:
                with job.lock:
                    call.session.workers = (call.session.workers or set()) | {trip.worker}
        try:
            if self.kind.calls:
                for part in trip.work.parts:
                    try:
                        self.kind.join(part)
                    except ModelBoxError as error:
                        self.fail_parts([part], error)
            else:
                self._unpack_normal(trip)
        except ModelBoxError as error:
            self.fail_parts(trip.work.parts, error)
        except Exception as error:
            log.exception("node '%s': cannot unpack a worker's results", self.name, extra=self.about)
            self.fail_parts(trip.work.parts, UnitError(f"node '{self.name}': {error}"))
        self._finish(trip)

    def _finish(self, trip: Trip) -> None:
        job = self.job
        with job.lock:
            if trip.sending:
                self.stats.copy.add(trip.sending)
            self.complete(trip.work)
            job.active -= 1
            self.schedule()
            job.idle_locked()
        job.settle()

    def _take_answer(self, call: Call, answer: WorkerResult) -> None:
        error = answer.error
        call.outputs, call.metas, call.more = answer.outputs, answer.output_meta, answer.more
        call.skipped, call.reason = answer.skipped, answer.reason
        if answer.stops:
            self.job.ask_stop(f"node '{self.name}': {answer.error}")
        if error is None:
            for items in answer.outputs:
                lib.mb_list_born(items, 0, self.out_depth)
            return
        if isinstance(error, WorkerLostError):
            call.reason = "WorkerLost"
        elif isinstance(error, TimedOutError):
            call.reason = "WorkerTimedOut"
        call.error = RuleBroken(f"node '{self.name}': {error}") if answer.rule or answer.stops else error
        if not isinstance(error, WorkerLostError):
            log.warning("node '%s': %s", self.name, error, extra=self.about)

    def _unpack_normal(self, trip: Trip) -> None:
        work = trip.work
        outputs = [new_list(0) for _ in self.output_ports]
        if trip.calls:
            (call,) = trip.calls
            next(part for part in work.parts if part.called).metas = call.metas
            outputs = results(self, call, call.count)
            for port, items in zip(self.output_ports, outputs, strict=True):
                if items.count != call.count:
                    text = f"input buffer count {call.count} should equal output buffer count {items.count}"
                    raise RuleBroken(f"node '{self.name}' port '{port}': {text}")
        if not trip.whole:
            outputs = [merge(work.inputs, self.visible, items) for items in outputs]
        work.give(outputs)

    def abandon(self, context: Stream) -> None:
        """The worker forgets the context when it hears of the session's end."""
        context.state = None
