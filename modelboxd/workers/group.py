"""The workers of one Python node: started, picked, replaced when they end or are worn, and how they are.

Each worker has a place, numbered from 0. A place holds the worker that gets new work, at times its heir, which is being
started to take over, and the old one that finishes its streams. What is to happen after a loss is decided by
supervision.py. Runs on the I/O thread where it does not say otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelbox.errors import ModelBoxError, UnitError, WorkerLostError
from modelbox.spec import FlowType, UnitSpec
from modelboxd.cpus import cpu_count
from modelboxd.graph.life import AUTO, Life
from modelboxd.workers import environment
from modelboxd.workers.health import GroupStatus, WorkerState, WorkerStatus, memory_of, process_state
from modelboxd.workers.process import External, Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from modelboxd.workers.reload import Watcher
from modelboxd.workers.supervision import LAST_DELAY_S, Breaker, Supervision
from modelboxd.workers.trips import Answer, Wanted

if TYPE_CHECKING:
    from modelboxd.workers.pool import WorkerPool

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.5  # when a worker could not be started at all, as while the python-master is being replaced
CLOSE_LIMIT_S = 10.0  # how long a recycled worker may take to close its unit
MOST_OLD = 8  # replaced workers of a place that finish their streams; changed files wait for the end of one then
GONE_LIMIT_S = 10.0  # a killed process that is still there is told
IDLE_S = 30.0  # a worker that has heard nothing for so long after work gives back the memory that it keeps for more


class Refuser:
    """Stands for a worker where there is none and will be none soon: answers at once with the reason."""

    alive = False

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def has_room(self) -> bool:
        """Always."""
        return True

    def submit(self, calls: list[WorkerCall], done: Answer, wanted: Wanted | None = None) -> None:
        """Fails the calls. [any thread]"""
        done([WorkerResult([], WorkerLostError(self.reason)) for _ in calls])

    def end_sessions(self, numbers: list[int]) -> None:
        """It keeps none."""


class Place:
    """One of the node's workers, over all its processes."""

    __slots__ = ("heir", "not_before", "number", "old", "restarts", "timer", "wait_s", "worker")

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.heir: Worker | None = None  # is being started, and takes over when it is ready
        self.old: list[Worker] = []  # have been replaced, and finish what they have
        self.restarts = 0
        self.wait_s: float | None = None  # until the next start; None: there is none
        self.timer: Any = None
        self.not_before = 0.0  # the next try to start an heir, as the loop counts time

    def all(self) -> list[Worker]:
        """The worker that gets the work, its heir, the old ones."""
        return [worker for worker in (self.worker, self.heir, *self.old) if worker is not None]


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
        reread: Callable[[], tuple[UnitSpec, dict[str, str]]] | None = None,
    ) -> None:
        self._reread = reread
        self._device_ids = device_ids
        self._pool = pool
        self._on_external = on_external
        self._outputs = len(unit.outputs)
        self._source_lists = room[0]
        self._unit = unit
        self._node = node
        self._job = job
        self._about = {"job": job, "node": node}  # fields of log lines
        self._life = life
        self._open_timeout_s = open_timeout_s
        self._on_room = on_room
        self._changed = threading.Condition()
        self._closing = False
        self._open = False
        self._failure: str | None = None
        count = cpu_count() if life.workers == AUTO else life.workers
        self._places = [Place(number) for number in range(count)]
        self._supervision = Supervision(life)
        self._answered = 0  # calls, by workers that are gone
        self._answered_before = 0  # calls, until the last loss
        self._refuser: Refuser | None = None
        self.workers: list[Worker] = []  # those that get new work, also when they are lost and not yet replaced
        self.recycled = 0
        self._source = not unit.inputs
        self._room_of_source = room
        self._config = config
        self._watcher: Watcher | None = None
        self._version = 0  # of the unit's files: how often they have changed
        self._opened_version = 0  # that a worker has opened
        self._refused_version = -1  # that one could not

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of lost ones."""
        return self._supervision.restarts

    # ---- starting (not on the I/O thread) -------------------------------------------------------------------

    def start(self) -> None:
        """Starts all workers and waits until every one has opened its unit. Raises UnitError with the unit's reason."""
        timeout_s = self._open_timeout_s
        if self._life.reload:
            self._watcher = Watcher(os.path.dirname(self._unit.path), self._files_changed)
        try:
            for place in self._places:
                place.worker = self._make(place)
                self.workers = [*self.workers, place.worker]
                self._spawn(place.worker)
            with self._changed:
                arrived = self._changed.wait_for(
                    lambda: self._failure is not None or all(worker.ready for worker in self.workers), timeout_s
                )
            if self._failure is not None:
                raise UnitError(f"node '{self._node}': unit '{self._unit.name}' did not open: {self._failure}")
            if not arrived:
                raise UnitError(
                    f"node '{self._node}': unit '{self._unit.name}' did not open within {timeout_s:g} s",
                    hint="[python] open_timeout",
                )
        except BaseException:
            self.close(1.0)
            raise
        self._open = True
        self._pool.io.call(self._renew)  # files that have changed meanwhile

    def _make(self, place: Place) -> Worker:
        name = f"{self._job}/{self._node}#{place.number}"
        worker = Worker(name, place.number, self._pool.io, self._pool.memory, self._life)
        worker.version = self._version
        worker.worn_at = self._life.max_requests
        worker.on_ready = self._ready
        worker.on_lost = self._lost
        worker.on_gone = self._gone
        worker.on_room = self._room
        worker.on_worn = self._worn
        worker.on_external = self._on_external
        worker.on_dropped = self._pool.dropped
        worker.outputs = self._outputs
        worker.sources.most = self._source_lists
        return worker

    def _spawn(self, worker: Worker) -> None:
        count = len(self._places)
        env = environment.of_worker(
            self._unit, worker.number, cpus=cpu_count(), workers=count, device_ids=self._device_ids
        )
        self._pool.spawn(worker, self._order(worker), f"modelbox: python-worker {worker.name}", env)

    def _order(self, worker: Worker) -> bytes:
        """The body of its OPEN message."""
        unit = self._unit
        order = {
            "node": self._node,
            "unit": unit.name,
            "device": unit.device,
            "toml": unit.path,
            "entry": unit.entry,
            "config": self._config,
            "inputs": [port.name for port in unit.inputs],
            "outputs": [port.name for port in unit.outputs],
            "role": unit.role if unit.inputs else "source",
            "framed": unit.flow_type is FlowType.STREAM or unit.collapse,
            "room": self._room_of_source,
            "idle_s": IDLE_S,
            "reload": self._life.reload,
            "trial": worker.trial,
        }
        return json.dumps(order).encode()

    # ---- replacing --------------------------------------------------------------------------------------------

    def _begin(self, place: Place, *, as_heir: bool = False) -> None:
        """Starts a process for the place."""
        place.timer = None
        place.wait_s = None
        if self._closing:
            return
        worker = self._make(place)
        if as_heir:
            place.heir = worker
            worker.trial = self._source  # two of them would both produce
        else:
            self._put(place, worker)
            place.restarts += 1
        self._pool.io.loop.call_later(self._open_timeout_s, self._check_open, worker)
        # Starting may wait for the master, which the I/O thread must not do.
        threading.Thread(target=self._spawn_or_fail, args=(worker,), name="mb-respawn", daemon=True).start()

    def _spawn_or_fail(self, worker: Worker) -> None:
        try:
            self._spawn(worker)
        except ModelBoxError as error:
            log.error("node '%s': cannot start a worker: %s", self._node, error, extra=self._about)
            self._pool.io.call(worker.abandon, str(error))

    def _check_open(self, worker: Worker) -> None:
        if worker.alive and not worker.ready:
            worker.condemn(f"did not open within {self._open_timeout_s:g} s ([python] open_timeout)")

    def _put(self, place: Place, worker: Worker) -> None:
        """`worker` gets the new work of the place."""
        place.worker = worker
        self.workers = [other for other in self.workers if other.number != place.number] + [worker]

    def _wait(self, place: Place, delay_s: float) -> None:
        """A new process for the place, after `delay_s`, and not before the last one is gone."""
        place.wait_s = delay_s
        if place.worker is None or place.worker.gone:
            self._arm(place)
        else:
            self._pool.io.loop.call_later(GONE_LIMIT_S, self._tell_not_gone, place.worker)

    def _arm(self, place: Place) -> None:
        if place.wait_s is not None and place.timer is None:
            place.timer = self._pool.io.loop.call_later(place.wait_s, self._begin, place)

    def _tell_not_gone(self, worker: Worker) -> None:
        if not worker.gone and not self._closing:
            text = "python worker %s (pid %d) was killed and is still there; its place waits for its end"
            log.error(text, worker.name, worker.pid, extra=self._of(worker))

    def _try_again(self) -> None:
        """The breaker's cool-down is over."""
        if self._closing:
            return
        if self._supervision.try_again():
            place = next((place for place in self._places if not _is_alive(place.worker)), None)
            if place is None:  # others live still, and are as good a trial
                for worker in self.workers:
                    worker.on_answered = self._proved
                return
            log.info("node '%s': one worker is tried again", self._node, extra=self._about)
            self._wait(place, 0.0)
        elif self._supervision.breaker is Breaker.OPEN:
            self._pool.io.loop.call_later(max(self._supervision.retry_in(), 0.01), self._try_again)

    # ---- called by workers ------------------------------------------------------------------------------------

    def _room(self) -> None:
        if not self._closing:
            for place in self._places:
                for old in place.old:
                    self._end_drained(old)
            self._on_room()

    def _of(self, worker: Worker) -> dict[str, str]:
        """Fields of log lines about a worker."""
        return {**self._about, "worker": worker.name}

    def _ready(self, worker: Worker) -> None:
        log.info("python worker %s is ready (pid %d)", worker.name, worker.pid, extra=self._of(worker))
        place = self._places[worker.number]
        if worker.version == self._version:
            self._opened_version = self._version
        if worker is place.heir and worker.trial:
            self._tried(place, worker)
        elif worker is place.heir:
            self._inherit(place, worker)
        if self._open:
            self._renew()
        if self._supervision.breaker is Breaker.HALF_OPEN:
            worker.on_answered = self._proved
        self._judge()
        with self._changed:
            self._changed.notify_all()

    def _proved(self) -> None:
        """A call was answered while the breaker was half open."""
        for worker in self.workers:
            worker.on_answered = None
        if self._supervision.answered():
            log.info("node '%s': its workers answer again", self._node, extra=self._about)
            for place in self._places:
                if not _is_alive(place.worker) and place.wait_s is None:
                    self._wait(place, 0.0)

    def _lost(self, worker: Worker, cause: str) -> None:
        place = self._places[worker.number]
        answered, self._answered_before = self._take_answered(worker)
        if self._closing or not self._open:
            with self._changed:
                self._failure = self._failure or worker.failure or cause
                self._changed.notify_all()
            return
        if worker in place.old or (worker is place.worker and worker.ending):
            self._lost_old(place, worker, cause)
            return
        heir_of = place.worker if worker is place.heir else None
        if heir_of is not None and heir_of.alive and heir_of.version != worker.version:
            self._lost_newer(place, worker, cause)
            return
        cause = f"{cause}: {worker.failure}" if worker.failure else cause
        was = self._supervision.breaker
        if worker.innocent:
            delay = self._supervision.innocent(cause)
        else:
            delay = self._supervision.lost(cause, answered=answered, clean=worker.clean and not worker.held)
        if worker.innocent and delay is not None:
            delay = max(delay, RETRY_DELAY_S)
        if worker is place.heir:
            place.heir = None
            place.not_before = self._pool.io.loop.time() + (delay or 0.0)
        if _is_alive(place.worker):
            log.error("%s; the worn one that it should have replaced goes on", cause, extra=self._of(worker))
        elif delay is not None and place.heir is None:
            log.error("%s; it is replaced in %.1f s", cause, delay, extra=self._of(worker))
            self._wait(place, delay)
        else:
            log.error("%s", cause, extra=self._of(worker))
        if self._supervision.breaker is Breaker.OPEN and was is not Breaker.OPEN:
            self._opened()
        self._judge()

    def _take_answered(self, worker: Worker) -> tuple[bool, int]:
        """Whether any call was answered since the last loss, and how many there are now."""
        self._answered += worker.answered
        known = [other for place in self._places for other in place.all()]
        now = self._answered + sum(other.answered for other in known if other.alive)
        return now > self._answered_before, now

    def _opened(self) -> None:
        """The breaker has opened: nothing more is started before a trial."""
        retry_s = self._supervision.retry_in()
        text = "node '%s': %d crashes in a row; its buffers fail until a worker is tried again in %.0f s (max_restarts)"
        log.error(text, self._node, self._supervision.crashes, retry_s, extra=self._about)
        for place in self._places:
            if place.timer is not None:
                place.timer.cancel()
            place.timer, place.wait_s = None, None
        self._pool.io.loop.call_later(retry_s, self._try_again)

    def _gone(self, worker: Worker) -> None:
        place = self._places[worker.number]
        if worker is place.worker:
            self._arm(place)
        with self._changed:
            self._changed.notify_all()

    def _judge(self) -> None:
        """Whether there is anybody for new work, now or soon."""
        breaker = self._supervision.breaker
        refuser: Refuser | None = None
        if not any(worker.alive and (worker.ready or breaker is Breaker.CLOSED) for worker in self.workers) and (
            breaker is not Breaker.CLOSED or not any(place.wait_s is not None or place.heir for place in self._places)
        ):
            why = self._supervision.last_cause
            if breaker is Breaker.CLOSED:
                text = f"node '{self._node}' has no workers left (restart = {self._life.restart}): {why}"
            else:
                text = (
                    f"node '{self._node}' is out of service after {self._supervision.crashes} crashes in a row: {why}"
                )
            refuser = Refuser(f"{self._job}/{self._node}", text)
        self._refuser = refuser
        if refuser is not None:
            self._on_room()

    # ---- recycling --------------------------------------------------------------------------------------------

    def _worn(self, worker: Worker, reason: str) -> None:
        place = self._places[worker.number]
        if self._closing or not self._open or worker is not place.worker or worker.ending:
            return
        if place.heir is not None or place.old or self._supervision.breaker is not Breaker.CLOSED:
            return
        if self._pool.io.loop.time() < place.not_before:
            return
        log.info(
            "python worker %s (pid %d) %s: it is replaced", worker.name, worker.pid, reason, extra=self._of(worker)
        )
        if self._source:  # two of them would both produce
            self._end(worker)
        else:
            self._begin(place, as_heir=True)

    def _inherit(self, place: Place, heir: Worker) -> None:
        """The heir is ready: new work goes to it, the old one finishes its streams."""
        old, place.heir = place.worker, None
        self._put(place, heir)
        self.recycled += 1
        if old is not None and old.alive:
            old.heir = heir
            place.old.append(old)
            self._end_drained(old)

    def _end_drained(self, old: Worker) -> None:
        if old.is_drained() and not old.ending:
            self._end(old)

    def _end(self, worker: Worker) -> None:
        """Lets a worn worker close its unit."""
        worker.stop()
        self._pool.io.loop.call_later(CLOSE_LIMIT_S, self._check_end, worker)

    def _check_end(self, worker: Worker) -> None:
        if worker.alive and not self._closing:
            worker.condemn(f"did not close its unit within {CLOSE_LIMIT_S:g} s")

    def _lost_old(self, place: Place, worker: Worker, cause: str) -> None:
        """A worn worker has ended, mostly because it was told to."""
        if not (worker.clean and worker.ending):
            log.error("%s", cause, extra=self._about)
        if worker in place.old:
            place.old.remove(worker)
            self._renew()  # it may have waited for the end of this one
        else:
            self.recycled += 1
            self._wait(place, 0.0)

    # ---- changed files (reload) -------------------------------------------------------------------------------

    def _files_changed(self, files: list[str]) -> None:
        """Some of the unit's files are others now. [the watcher's thread]"""
        try:
            news = self._reread() if self._reread is not None else None
        except ModelBoxError as error:
            log.error("node '%s': its workers go on as they are: %s", self._node, error, extra=self._about)
            return
        log.info("node '%s': %s changed, its workers are replaced", self._node, ", ".join(files), extra=self._about)
        self._pool.io.call(self._take_change, news)

    def _take_change(self, news: tuple[UnitSpec, dict[str, str]] | None) -> None:
        if self._closing:
            return
        self._version += 1
        if news is not None:
            self._unit, self._config = news
        if not self._open:  # start() looks again
            return
        self._supervision.renew()
        for place in self._places:
            if place.heir is not None:
                place.heir.condemn("has an older version of its unit's files")
            elif not _is_alive(place.worker) and self._supervision.breaker is Breaker.CLOSED:
                if place.timer is not None:
                    place.timer.cancel()
                    place.timer = None
                self._wait(place, 0.0)
        if self._supervision.breaker is Breaker.OPEN:
            self._try_again()
        self._renew()

    def _renew(self) -> None:
        """Starts heirs of workers that have an older version of the unit's files: one, and all others when that has
        opened."""
        if self._closing or self._refused_version == self._version:
            return
        for place in self._places:
            worker = place.worker
            if place.heir is None:
                if worker is None or not worker.alive or not worker.ready or worker.ending:
                    continue
                if worker.version == self._version or len(place.old) >= MOST_OLD:
                    continue
                self._begin(place, as_heir=True)
            if self._opened_version != self._version:
                return

    def _tried(self, place: Place, trial: Worker) -> None:
        """The changed files of a source can be loaded."""
        place.heir = None
        place.old.append(trial)
        self._end(trial)
        worker = place.worker
        if worker is not None and worker.alive and not worker.ending and trial.version == self._version:
            self._end(worker)

    def _lost_newer(self, place: Place, heir: Worker, cause: str) -> None:
        """A worker with changed files has not opened; the one that it should have replaced goes on."""
        place.heir = None
        place.not_before = self._pool.io.loop.time() + LAST_DELAY_S
        if heir.version != self._version:  # they have changed once more
            self._renew()
        elif heir.innocent:
            self._pool.io.loop.call_later(RETRY_DELAY_S, self._renew)
        else:
            self._refused_version = self._version
            text = "node '%s': the changed files are not used, its old workers go on: %s"
            log.error(text, self._node, heir.failure or cause, extra=self._about)

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
        workers = [made for place in self._places for made in self._statuses(place)]
        at_work = sum(made.state in (WorkerState.READY, WorkerState.BUSY) for made in workers)
        if self._closing:
            state = "stopped"
        elif not self._open:
            state = "starting"
        elif at_work >= len(self._places):
            state = "ready"
        else:
            state = "degraded" if at_work else "down"
        supervision = self._supervision
        return GroupStatus(
            self._node,
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
            return ""  # without a look at /proc
        status = self.status()
        if status.state != "down":
            return ""
        if status.breaker == Breaker.OPEN.value:
            return f"its workers have crashed {status.crashes} times in a row; next try in {status.retry_in_s:.0f} s"
        states = sorted({worker.state.value for worker in status.workers})
        return f"no worker process takes work ({', '.join(states)})"

    def _statuses(self, place: Place) -> list[WorkerStatus]:
        made = [self._status(place, place.worker)]
        made += [self._status(place, worker) for worker in place.all() if worker is not place.worker]
        return made

    def _status(self, place: Place, worker: Worker | None) -> WorkerStatus:
        state = self._state(place, worker)
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
            worker.cause or (self._supervision.last_cause if place.restarts else ""),
        )

    def _state(self, place: Place, worker: Worker | None) -> WorkerState:
        if worker is None or not worker.alive:
            if worker is not None and not worker.gone:
                return WorkerState.STUCK
            if place.wait_s is not None or not self._open:
                return WorkerState.BACKING_OFF
            return WorkerState.ENDED if self._supervision.breaker is Breaker.CLOSED else WorkerState.BREAKER_OPEN
        if not worker.pid:
            return WorkerState.STARTING
        if worker.watchdog.stopped or process_state(worker.pid)[0] in ("", "T", "Z"):
            return WorkerState.STUCK
        if not worker.ready:
            return WorkerState.OPENING
        if worker in place.old or worker.ending:
            return WorkerState.RECYCLING
        if worker.watchdog.is_silent:
            return WorkerState.STUCK
        return WorkerState.BUSY if worker.outstanding() else WorkerState.READY

    # ---- the end (not on the I/O thread) ----------------------------------------------------------------------------

    def close(self, timeout_s: float) -> None:
        """Lets the workers close their units, kills what is still there after `timeout_s`."""
        self._closing = True
        if self._watcher is not None:
            self._watcher.close()
        if self._pool.io.is_current():
            raise RuntimeError("close() would wait for its own thread")
        workers = [worker for place in self._places for worker in place.all()]
        for worker in workers:
            worker.stop()
        with self._changed:
            self._changed.wait_for(lambda: not any(worker.alive for worker in workers), timeout_s)
        for worker in workers:
            if worker.alive:
                text = "python worker %s (pid %d) did not end within %.1f s"
                log.warning(text, worker.name, worker.pid, timeout_s, extra=self._of(worker))
                worker.kill(signal.SIGKILL)
        with self._changed:
            self._changed.wait_for(lambda: all(worker.gone or not worker.pid for worker in workers), timeout_s)


def _is_alive(worker: Worker | None) -> bool:
    return worker is not None and worker.alive
