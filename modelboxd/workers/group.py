"""The workers of one Python node: started, picked, replaced when they have ended, and how they are.

Each worker has a place, numbered from 0 (place.py). What is to happen after a loss is decided by supervision.py;
succession.py replaces workers that live. Runs on the I/O thread where it does not say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelbox.errors import UnitError
from modelbox.spec import UnitSpec
from modelboxd.cpus import cpu_count
from modelboxd.graph.life import AUTO, Life
from modelboxd.workers.health import GroupStatus, WorkerState, WorkerStatus, memory_of
from modelboxd.workers.place import Place, Refuser
from modelboxd.workers.process import ROOM_HINT, External, Worker
from modelboxd.workers.starter import Starter
from modelboxd.workers.succession import RETRY_DELAY_S, Reread, Succession
from modelboxd.workers.supervision import STEADY_S, Breaker, Supervision

if TYPE_CHECKING:
    from modelboxd.loop import IoThread
    from modelboxd.workers.pool import WorkerPool

log = logging.getLogger(__name__)

GONE_LIMIT_S = 10.0  # a killed process that is still there is told


class WorkerGroup:
    """The workers of one node."""

    def __init__(
        self,
        pool: WorkerPool,
        unit: UnitSpec,
        node: str,
        job: str,
        config: dict[str, str],
        life: Life,
        open_timeout_s: float,
        on_room: Callable[[], None],
        on_external: External | None = None,
        room: tuple[int, int] = (0, 0),
        device_ids: Sequence[str] = (),
        reread: Reread | None = None,
    ) -> None:
        self.node = node
        self.about = {"job": job, "node": node}  # fields of log lines
        self.io: IoThread = pool.io
        self.workers: list[Worker] = []  # those that get new work, also when they are lost and not yet replaced
        count = cpu_count() if life.workers == AUTO else life.workers
        self.places = [Place(number) for number in range(count)]
        self.supervision = Supervision(life)
        self.starter = Starter(pool, unit, node, config, life, count, open_timeout_s, room, device_ids)
        self.succession = Succession(
            self, is_source=not unit.inputs, reread=reread, retire_s=life.retire_timeout_ms / 1000
        )
        self._pool = pool
        self._unit = unit
        self._job = job
        self._life = life
        self._open_timeout_s = open_timeout_s
        self._room_of_source = room
        self._on_room = on_room
        self._on_external = on_external
        self._changed = threading.Condition()
        self._closing = False
        self._open = False
        self._failure: str | None = None
        self._answered = 0  # calls, by workers that are gone
        self._answered_before = 0  # calls, until the last loss
        self._refuser: Refuser | None = None

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of lost ones."""
        return self.supervision.restarts

    @property
    def recycled(self) -> int:
        """Workers that were replaced while they lived."""
        return self.succession.recycled

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That of the I/O thread."""
        return self.io.loop

    def is_closing(self) -> bool:
        """Whether no worker is to be started any more. [any thread]"""
        return self._closing

    def is_open(self) -> bool:
        """Whether start() is over and close() has not begun. [any thread]"""
        return self._open and not self._closing

    # ---- starting (not on the I/O thread) -------------------------------------------------------------------

    def start(self) -> None:
        """Starts all workers and waits until every one has opened its unit. Raises UnitError with the unit's reason."""
        timeout_s = self._open_timeout_s
        if self._life.reload:
            self.succession.watch(self._unit.path)
        try:
            for place in self.places:
                place.worker = self._make(place, as_heir=False)
                self.workers = [*self.workers, place.worker]
                try:
                    self.starter.start(place.worker)
                except UnitError as error:
                    self.io.call(place.worker.abandon, str(error))
                    raise
            with self._changed:
                arrived = self._changed.wait_for(
                    lambda: self._failure is not None or all(worker.ready for worker in self.workers), timeout_s
                )
                self._open = arrived and self._failure is None  # from now on _lost() replaces workers
            if self._failure is not None:
                raise UnitError(f"node '{self.node}': unit '{self._unit.name}' did not open: {self._failure}")
            if not arrived:
                raise UnitError(
                    f"node '{self.node}': unit '{self._unit.name}' did not open within {timeout_s:g} s",
                    hint="[python] open_timeout",
                )
        except BaseException:
            self.close(1.0)
            raise
        self.io.call(self.succession.renew)  # files that have changed meanwhile

    def _make(self, place: Place, *, as_heir: bool) -> Worker:
        name = f"{self._job}/{self.node}#{place.number}"
        try:
            worker = Worker(name, place.number, self.io, self._pool.memory, self._life)
        except OSError as error:
            raise UnitError(f"python worker {name} cannot be made: {error.strerror}", hint=ROOM_HINT) from None
        self.succession.made(worker, as_heir=as_heir)
        worker.worn_at = self._life.max_requests
        worker.on_ready = self._ready
        worker.on_lost = self._lost
        worker.on_gone = self._gone
        worker.on_room = self._room
        worker.on_worn = self.succession.worn
        worker.on_external = self._on_external
        worker.on_dropped = self._pool.dropped
        worker.outputs = len(self._unit.outputs)
        worker.sources.most = self._room_of_source[0]
        return worker

    # ---- replacing --------------------------------------------------------------------------------------------

    def begin(self, place: Place, *, as_heir: bool = False) -> None:
        """Starts a process for the place."""
        place.timer = None
        if self._closing:
            place.wait_s = None
            return
        try:
            worker = self._make(place, as_heir=as_heir)
        except UnitError as error:
            log.error("%s; it is tried again in %.1f s", error, RETRY_DELAY_S, extra=self.about)
            place.not_before = self.loop.time() + RETRY_DELAY_S
            if not as_heir:
                self.wait(place, RETRY_DELAY_S)
            return
        if as_heir:
            place.heir = worker
        else:
            self.put(place, worker)
            place.restarts += 1
        place.wait_s = None  # last: status() may look at the place meanwhile
        self.starter.start_apart(worker)

    def put(self, place: Place, worker: Worker) -> None:
        """`worker` gets the new work of the place."""
        place.worker = worker
        self.workers = [other for other in self.workers if other.number != place.number] + [worker]

    def wait(self, place: Place, delay_s: float) -> None:
        """A new process for the place, after `delay_s`, and not before the last one is gone."""
        place.wait_s = delay_s
        if place.worker is None or place.worker.gone:
            self._arm(place)
        else:
            place.worker.later(GONE_LIMIT_S, self._tell_not_gone)

    def _arm(self, place: Place) -> None:
        if place.wait_s is not None and place.timer is None:
            place.timer = self.loop.call_later(place.wait_s, self.begin, place)

    def _tell_not_gone(self, worker: Worker) -> None:
        if not self._closing:
            text = "python worker %s (pid %d) was killed and is still there; its place waits for its end"
            log.error(text, worker.name, worker.pid, extra=worker.output.about)

    def try_again(self) -> None:
        """The breaker's cool-down is over."""
        if self._closing:
            return
        if self.supervision.try_again():
            place = next((place for place in self.places if not place.has_live_worker()), None)
            if place is None:  # others live still, and are as good a trial
                for worker in self.workers:
                    worker.on_answered = self._proved
                return
            log.info("node '%s': one worker is tried again", self.node, extra=self.about)
            self.wait(place, 0.0)
        elif self.supervision.breaker is Breaker.OPEN:
            self.loop.call_later(max(self.supervision.retry_in(), 0.01), self.try_again)

    # ---- called by workers ------------------------------------------------------------------------------------

    def _room(self) -> None:
        if not self._closing:
            self.succession.end_drained()
            self._on_room()

    def _ready(self, worker: Worker) -> None:
        log.info("python worker %s is ready (pid %d)", worker.name, worker.pid, extra=worker.output.about)
        self.succession.ready(self.places[worker.number], worker)
        if self.supervision.breaker is Breaker.HALF_OPEN:
            worker.on_answered = self._proved
        self._judge()
        with self._changed:
            self._changed.notify_all()

    def _proved(self) -> None:
        """A call was answered while the breaker was half open."""
        for worker in self.workers:
            worker.on_answered = None
        if self.supervision.answered():
            log.info("node '%s': its workers answer again", self.node, extra=self.about)
            for place in self.places:
                if not place.has_live_worker() and place.wait_s is None:
                    self.wait(place, 0.0)

    def _lost(self, worker: Worker, cause: str) -> None:
        place = self.places[worker.number]
        answered, self._answered_before = self._take_answered(worker)
        with self._changed:
            if self._closing or not self._open:
                self._failure = self._failure or worker.failure or cause
                self._changed.notify_all()
                return
        if self.succession.lost(place, worker, cause):
            return
        cause = f"{cause}: {worker.failure}" if worker.failure else cause
        was = self.supervision.breaker
        if worker.innocent:
            delay = self.supervision.innocent(cause)
        else:
            idle = not worker.held
            delay = self.supervision.lost(
                cause, answered=answered or (idle and worker.ready_s() >= STEADY_S), clean=idle and worker.clean
            )
        if worker.innocent and delay is not None:
            delay = max(delay, RETRY_DELAY_S)
        if worker is place.heir:
            place.heir = None
            place.not_before = self.loop.time() + (delay or 0.0)
        if place.has_live_worker():
            log.error("%s; the worn one that it should have replaced goes on", cause, extra=worker.output.about)
        elif delay is not None and place.heir is None:
            log.error("%s; it is replaced in %.1f s", cause, delay, extra=worker.output.about)
            self.wait(place, delay)
        else:
            log.error("%s", cause, extra=worker.output.about)
        if self.supervision.breaker is Breaker.OPEN and was is not Breaker.OPEN:
            self._opened()
        self._judge()

    def _take_answered(self, worker: Worker) -> tuple[bool, int]:
        """Whether any call was answered since the last loss, and how many there are now."""
        self._answered += worker.answered
        now = self._answered + sum(other.answered for other in self._all() if other.alive)
        return now > self._answered_before, now

    def _opened(self) -> None:
        """The breaker has opened: nothing more is started before a trial."""
        retry_s = self.supervision.retry_in()
        text = "node '%s': %s; its buffers fail until a worker is tried again in %.0f s (max_restarts)"
        log.error(text, self.node, self.supervision.too_many, retry_s, extra=self.about)
        for place in self.places:
            place.cancel()
        self.loop.call_later(retry_s, self.try_again)

    def _gone(self, worker: Worker) -> None:
        place = self.places[worker.number]
        if worker is place.worker:
            self._arm(place)
        with self._changed:
            self._changed.notify_all()

    def _judge(self) -> None:
        """Whether there is anybody for new work, now or soon."""
        breaker = self.supervision.breaker
        refuser: Refuser | None = None
        if not any(worker.alive and (worker.ready or breaker is Breaker.CLOSED) for worker in self.workers) and (
            breaker is not Breaker.CLOSED or not any(place.wait_s is not None or place.heir for place in self.places)
        ):
            why = self.supervision.last_cause
            if breaker is Breaker.CLOSED:
                text = f"node '{self.node}' has no workers left (restart = {self._life.restart}): {why}"
            else:
                text = f"node '{self.node}' is out of service after {self.supervision.too_many}: {why}"
            refuser = Refuser(f"{self._job}/{self.node}", text)
        self._refuser = refuser
        if refuser is not None:
            self._on_room()

    # ---- for the engine [any thread] ------------------------------------------------------------------------------

    def pick(self) -> Worker | Refuser | None:
        """The worker with room and the least to do; None when none has room now."""
        best: Worker | None = None
        least = 0
        for worker in self.workers:
            if worker.has_room():
                load = worker.load()
                if best is None or load < least:
                    best, least = worker, load
        return self._refuser if best is None else best

    def free(self) -> int:
        """How many workers have room."""
        return sum(worker.has_room() for worker in self.workers) or int(self._refuser is not None)

    def status(self) -> GroupStatus:
        """How the workers are at this moment; asks the kernel too."""
        workers = [made for place in self.places for made in self._statuses(place)]
        at_work = sum(made.state in (WorkerState.READY, WorkerState.BUSY) for made in workers)
        if self._closing:
            state = "stopped"
        elif not self._open:
            state = "starting"
        elif at_work >= len(self.places):
            state = "ready"
        else:
            state = "degraded" if at_work else "down"
        supervision = self.supervision
        return GroupStatus(
            self.node,
            self._unit.name,
            state,
            supervision.breaker.value,
            supervision.restarts,
            self.recycled,
            supervision.crashes,
            round(supervision.retry_in(), 3),
            supervision.last_cause,
            tuple(workers),
        )

    def trouble(self) -> str:
        """Why no work can go on here for now, in words for everybody; "" when it can."""
        if any(worker.is_at_work() for worker in self.workers):
            return ""  # mostly without a look at /proc
        status = self.status()
        if status.state != "down":
            return ""
        if status.breaker == Breaker.OPEN.value:
            return f"its workers are given up after {self.supervision.too_many}; next try in {status.retry_in_s:.0f} s"
        states = sorted({worker.state.value for worker in status.workers})
        return f"no worker process takes work ({', '.join(states)})"

    def _statuses(self, place: Place) -> list[WorkerStatus]:
        made = [self._status(place, place.worker)]
        made += [self._status(place, worker) for worker in place.all() if worker is not place.worker]
        return made

    def _status(self, place: Place, worker: Worker | None) -> WorkerStatus:
        state = place.state(worker, self.supervision.breaker, is_open=self._open)
        if worker is None or (worker.gone and not worker.alive):
            cause = worker.cause if worker is not None else ""
            return WorkerStatus(place.number, state, restarts=place.restarts, last_cause=cause)
        return WorkerStatus(
            place.number,
            state,
            worker.pid,
            place.restarts,
            worker.answered,
            worker.outstanding(),
            len(worker.streams),
            round(worker.watchdog.busy_s(), 3),
            worker.watchdog.where,
            memory_of(worker.pid) if worker.pid else 0,
            worker.cause or (self.supervision.last_cause if place.restarts else ""),
        )

    # ---- the end (not on the I/O thread) ----------------------------------------------------------------------------

    def close(self, timeout_s: float) -> None:
        """Lets the workers close their units, kills what is still there after `timeout_s`."""
        self._closing = True
        self.succession.close()
        if self.io.is_current():
            raise RuntimeError("close() would wait for its own thread")
        try:
            workers = self.io.run(self._known(), timeout_s)
        except TimeoutError:  # that thread is busy beyond measure
            workers = self._all()
        for worker in workers:
            worker.stop()
        with self._changed:
            self._changed.wait_for(lambda: not any(worker.alive for worker in workers), timeout_s)
        for worker in workers:
            if worker.alive:
                text = "python worker %s (pid %d) did not end within %.1f s"
                log.warning(text, worker.name, worker.pid, timeout_s, extra=worker.output.about)
                self.io.call(worker.condemn, f"did not end within {timeout_s:.1f} s")  # also one that is yet to start
        with self._changed:
            self._changed.wait_for(lambda: all(worker.gone or not worker.pid for worker in workers), timeout_s)

    async def _known(self) -> list[Worker]:
        """All workers; on the I/O thread, where begin() has either made one before or sees that we close."""
        return self._all()

    def _all(self) -> list[Worker]:
        return [worker for place in self.places for worker in place.all()]
