"""The step of a user's Python unit: packs work for worker processes, unpacks what comes back.

Sending never blocks, so the step runs inline, on whatever thread made it ready; results arrive on the I/O
thread. A stream is pinned to one worker from its first buffer to its end.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from modelbox._core.memory import new_list
from modelbox.errors import InternalError, ModelBoxError, UnitError, WorkerLostError
from modelboxd.engine.errors import (
    error_list,
    first_bad,
    has_errors,
    merge_errors,
    runs,
    slice_list,
    split_errors,
)
from modelboxd.engine.feed import CoreList, Feed, Part, concat
from modelboxd.engine.step import Step, Work
from modelboxd.workers.pool import WorkerGroup
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model

log = logging.getLogger(__name__)

MESSAGE_CALLS = 32  # calls of one message, at most


class Trip:
    """One message to a worker and back: which call belongs to which part."""

    __slots__ = ("calls", "good", "owners", "passed", "work", "worker")

    def __init__(self, work: Work, worker: Worker) -> None:
        self.work = work
        self.worker = worker
        self.calls: list[WorkerCall] = []
        self.owners: list[Part] = []
        self.good: list[bool] | None = None  # NORMAL with error inputs: which positions were sent
        # STREAM with error inputs: what a part's outputs are made of, in order; None = the next call's result
        self.passed: dict[Part, list[CoreList | None]] = {}


class WorkerStep(Step):
    """One Python node, run by the processes of a WorkerGroup."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.node = nodes[0]
        self.sees_errors = self.node.unit.exception_visible
        self._group: WorkerGroup | None = None
        self._starved = False  # no worker has room for anything that waits; _on_room() ends it
        self._lost = False  # a worker may have died with streams pinned to it

    def open(self) -> None:
        self._group = self.job.start_workers(self.node, self._on_room)

    def close(self) -> None:
        if self._group is not None:
            self._group.close(self.job.settings.close_timeout_s)

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
        free = self.group.free()
        return min(self.batch_size, max(1, -(-min(self.counts) // max(free, 1))))

    def schedule(self) -> None:
        if not self._starved:
            super().schedule()

    def _mark(self, feed: Feed) -> None:
        if feed.state is None:
            self._starved = False  # a new stream may go to a worker that the waiting ones cannot use
        super()._mark(feed)

    def take(self) -> Work | None:
        if self._group is None:
            return None
        parts, worker = self._take_streams() if self.stream_order else self._take_normal()
        for step in self.upstream:
            step.schedule()
        if not parts:
            self._starved = bool(self.ready)
            return None
        self.schedule()
        work = _StreamWork(parts) if self.stream_order else Work(parts, len(self.counts))
        work.worker = worker
        self.stats.runs += 1
        self.stats.buffers_in += work.count
        return work

    def _take_normal(self) -> tuple[list[Part], Worker | None]:
        worker = self.group.pick()
        if worker is None:
            return [], None
        return self._take_batch(), worker

    def _take_streams(self) -> tuple[list[Part], Worker | None]:
        """Parts of several streams that can go to one worker: new streams to the least busy one, pinned
        streams to their own."""
        free = self.group.free()
        if not free and not self._lost:
            return [], None
        self._lost = False
        # Every free worker gets its share of what waits, so that none idles beside a long message.
        limit = min(MESSAGE_CALLS, -(-len(self.ready) // max(free, 1)))
        chosen: Worker | None = None
        parts: list[Part] = []
        calls = 0
        for _ in range(len(self.ready)):
            if calls >= limit:
                break
            feed = self.ready.popleft()
            feed.ready = False
            worker = self._worker_for(feed, chosen)
            if worker is None:
                feed.ready = True
                self.ready.append(feed)
                continue
            count = min(feed.matched(), (MESSAGE_CALLS - calls) * self.batch_size)
            part = self._take_part(feed, count)
            if part is None:
                continue
            feed.state = chosen = worker
            parts.append(part)
            calls += max(1, -(-part.count // self.batch_size))
        return parts, chosen

    def _worker_for(self, feed: Feed, chosen: Worker | None) -> Worker | None:
        pinned: Worker | None = feed.state
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
        assert isinstance(worker, Worker)
        trip = Trip(work, worker)
        try:
            if self.stream_order:
                for part in work.parts:
                    self._pack_stream(trip, part)
            else:
                self._pack_normal(trip)
        except Exception as error:
            log.exception("node '%s': cannot pack calls", self.name)
            self._fail_work(work, InternalError(f"node '{self.name}': {type(error).__name__}: {error}"))
            with self.job.lock:
                self.complete(work)
            return
        if trip.calls:
            worker.submit(trip.calls, lambda results: self._arrived(trip, results))
        else:
            self._arrived(trip, [])

    def _pack_normal(self, trip: Trip) -> None:
        work = trip.work
        inputs = work.inputs
        if not self.sees_errors and has_errors(inputs):
            inputs, trip.good = split_errors(inputs)
            if not inputs[0].count:
                return
        session = work.parts[0].feed.stream.session
        trip.calls.append(WorkerCall(0, False, False, session.number, session.id, inputs, []))

    def _pack_stream(self, trip: Trip, part: Part) -> None:
        stream = part.feed.stream
        session = stream.session
        pieces: list[CoreList | None] = []
        first = len(trip.calls)
        whole = not part.count or self.sees_errors or not has_errors(part.inputs)
        stretches = [(0, part.count, True)] if whole else runs(part.inputs)
        for start, count, good in stretches:
            if not good:
                pieces += [slice_list(first_bad(part.inputs, at), at, 1) for at in range(start, start + count)]
                continue
            for at in range(start, start + max(count, 1), self.batch_size):
                size = min(self.batch_size, start + count - at)
                inputs = part.inputs
                if size != part.count:
                    inputs = [slice_list(items, at, size) for items in inputs]
                trip.calls.append(WorkerCall(stream.number, False, False, session.number, session.id, inputs, []))
                trip.owners.append(part)
                pieces.append(None)
        if len(trip.calls) == first and (part.begin or part.end):
            # Only errors in this part, but the worker must hear of the stream's begin or end.
            empty = [new_list(0) for _ in self.input_ports]
            trip.calls.append(WorkerCall(stream.number, False, False, session.number, session.id, empty, []))
            trip.owners.append(part)
            pieces.append(None)
        if len(trip.calls) > first:
            if part.begin:
                trip.calls[first].begin = True
                trip.calls[first].input_meta = part.feed.metas
            trip.calls[-1].end = part.end
        trip.passed[part] = pieces

    # ---- results (I/O thread, or the sender's when the worker is gone) ------------------------------------

    def _arrived(self, trip: Trip, results: list[WorkerResult]) -> None:
        job = self.job
        failures: list[tuple[Part, ModelBoxError]] = []
        try:
            if self.stream_order:
                self._unpack_stream(trip, results, failures)
            else:
                self._unpack_normal(trip, results, failures)
        except Exception as error:
            log.exception("node '%s': cannot unpack a worker's results", self.name)
            failures = [(part, UnitError(f"node '{self.name}': {error}")) for part in trip.work.parts]
        with job.lock:
            for part, failure in failures:
                job.fail_locked(part.feed.stream.session, failure)
            for result, part in zip(results, trip.owners or trip.work.parts, strict=False):
                if result.keeps_session:
                    session = part.feed.stream.session
                    session.workers = (session.workers or set()) | {trip.worker}
            self.complete(trip.work)
            self.schedule()
        job.settle()

    def _unpack_normal(
        self, trip: Trip, results: list[WorkerResult], failures: list[tuple[Part, ModelBoxError]]
    ) -> None:
        work = trip.work
        sent = sum(trip.good) if trip.good is not None else work.count
        outputs = [new_list(0) for _ in self.output_ports]
        if results:
            outputs, error = self._outputs_of(results[0], sent)
            if error is not None:
                failures += [(part, error) for part in work.parts]
                return
        if trip.good is not None:
            outputs = [merge_errors(work.inputs, trip.good, items) for items in outputs]
        work.give(outputs)

    def _unpack_stream(
        self, trip: Trip, results: list[WorkerResult], failures: list[tuple[Part, ModelBoxError]]
    ) -> None:
        answers = iter(zip(results, trip.calls, strict=True))
        for part in trip.work.parts:
            pieces: list[list[CoreList]] = [[] for _ in self.output_ports]
            for piece in trip.passed[part]:
                if piece is not None:
                    for lists in pieces:
                        lists.append(piece)
                    continue
                result, call = next(answers)
                outputs, error = self._outputs_of(result, call.inputs[0].count)
                if error is not None:
                    failures.append((part, error))
                for lists, items in zip(pieces, outputs, strict=True):
                    lists.append(items)
                if result.output_meta and any(result.output_meta):
                    part.metas = result.output_meta
            part.outputs = [concat(lists) if lists else new_list(0) for lists in pieces]

    def _outputs_of(self, result: WorkerResult, count: int) -> tuple[list[CoreList], ModelBoxError | None]:
        """The output lists of one call; an error when the session has to fail."""
        if result.error is not None:
            return self._failed(result.error, result.reason, count)
        if not self.stream_order:
            for port, items in zip(self.output_ports, result.outputs, strict=True):
                if items.count != count:
                    text = f"input buffer count {count} should equal output buffer count {items.count}"
                    return result.outputs, UnitError(f"node '{self.name}' port '{port}': {text}")
        return result.outputs, None

    def _failed(self, error: ModelBoxError, reason: str, count: int) -> tuple[list[CoreList], ModelBoxError | None]:
        self.stats.errors += max(count, 1)
        if not isinstance(error, WorkerLostError):
            log.warning("node '%s': %s", self.name, error)
        if not self.output_ports:
            return [], error
        code = f"{self.node.unit.name}.{reason}"
        # One error per input for NORMAL units and one-to-one streams; at least one, so that nobody waits.
        lists = [error_list(max(count, 1), code, str(error)) for _ in self.output_ports]
        return lists, None


class _StreamWork(Work):
    """Parts of several streams side by side in one message; nothing is joined."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.count = sum(part.count for part in parts)
        self.worker = None
        self.inputs = []
