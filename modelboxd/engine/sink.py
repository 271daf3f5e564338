"""The step of a built-in sink: what arrives is handed to its unit at once, without a Feed for each stream."""

from __future__ import annotations

import logging
from collections import deque
from time import perf_counter_ns
from typing import TYPE_CHECKING

from modelbox.errors import InternalError, ModelBoxError, UnitError
from modelboxd.engine.builtin import BuiltinStep
from modelboxd.engine.feed import CoreList
from modelboxd.engine.work import Work

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Session, Stream
    from modelboxd.engine.unit import SinkUnit
    from modelboxd.graph import model

log = logging.getLogger(__name__)


class Delivery:
    """A list on its way to the unit. Guarded by the job's lock."""

    __slots__ = ("count", "items", "session", "size", "step")

    def __init__(self, step: SinkStep, session: Session, items: CoreList) -> None:
        self.step = step
        self.session = session
        self.items = items
        self.count = items.count
        self.size = items.bytes

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step.forget(self)


class Deliveries(Work):
    """What one turn of a sink step hands over."""

    __slots__ = ("taken",)

    def __init__(self, taken: deque[Delivery]) -> None:
        super().__init__([], 0)
        self.taken = taken


class SinkStep(BuiltinStep):
    """A node with a SinkUnit and one edge into it. Its unit gets one list after the other."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node], unit_class: type[SinkUnit]) -> None:
        super().__init__(job, index, nodes, unit_class)
        self._waiting: deque[Delivery] = deque()
        self._busy = False

    def push(self, stream: Stream, lane: int, items: CoreList | None, end: bool, meta: bytes = b"") -> None:
        session = stream.session
        if items is None or session.dead:
            return
        delivery = Delivery(self, session, items)
        if not delivery.count:
            return
        if self.strict_inputs is not None and self._fail_misfit(self.strict_inputs[0], stream, items):
            return
        session.holders.add(delivery)
        self._waiting.append(delivery)
        self._count(delivery, 1)
        self.schedule()

    def _count(self, delivery: Delivery, sign: int) -> None:
        self.counts[0] += sign * delivery.count
        self.bytes += sign * delivery.size
        self.job.bytes += sign * delivery.size

    def waits(self) -> bool:
        return False  # nothing is behind it

    def schedule(self) -> None:
        if self._waiting and not self._busy and not self.asked:
            self.asked = True
            self.job.inline.append(self)

    def take(self) -> Work | None:
        if not self._waiting or self._busy:
            return None
        self._busy = True
        taken, self._waiting = self._waiting, deque()
        self.stats.runs += 1
        return Deliveries(taken)

    def turn_inline(self, work: Work) -> None:
        started = perf_counter_ns()
        assert isinstance(work, Deliveries)
        taken, unit = work.taken, self._sink
        assert unit is not None
        for delivery in taken:
            session = delivery.session
            if session.dead:
                continue
            try:
                unit.receive(session, delivery.items)
            except ModelBoxError as error:
                self.job.fail_session(session, UnitError(f"node '{self.name}': {error}"))
            except Exception as error:
                log.exception("step '%s' failed", self.name, extra=self.about)
                text = f"node '{self.name}': {type(error).__name__}: {error}"
                self.job.fail_session(session, InternalError(text))
        job = self.job
        with job.lock:
            self._busy = False
            self.stats.compute.add(perf_counter_ns() - started)
            for delivery in taken:
                self.stats.buffers_in += delivery.count
                self._count(delivery, -1)
                delivery.session.release(delivery)
            job.active -= 1
            self.schedule()
            for step in self.upstream:
                step.schedule()

    def forget(self, delivery: Delivery) -> None:
        """Its session failed: it is not delivered, unless that is under way (lock held)."""
        if delivery in self._waiting:
            self._waiting.remove(delivery)
            self._count(delivery, -1)
            self.stats.dropped += delivery.count
            delivery.session.release(delivery)
            for step in self.upstream:
                step.schedule()
