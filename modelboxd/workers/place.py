"""A place for a worker, over all the processes that fill it one after the other; what stands there when none may."""

from __future__ import annotations

from typing import Any

from modelbox.errors import WorkerLostError
from modelboxd.workers.health import WorkerState, process_state
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from modelboxd.workers.supervision import Breaker
from modelboxd.workers.trips import Answer, Wanted


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

    def has_live_worker(self) -> bool:
        """Whether new work has somebody to go to, now or when it is ready."""
        return self.worker is not None and self.worker.alive

    def cancel(self) -> None:
        """No start is under way any more."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.wait_s = None

    def state(self, worker: Worker | None, breaker: Breaker, *, is_open: bool) -> WorkerState:
        """How one of its workers is, in a group with this breaker that has started (`is_open`) or not. Asks the kernel
        too."""
        if worker is None or not worker.alive:
            if worker is not None and not worker.gone:
                return WorkerState.STUCK
            if self.wait_s is not None or not is_open:
                return WorkerState.BACKING_OFF
            return WorkerState.ENDED if breaker is Breaker.CLOSED else WorkerState.BREAKER_OPEN
        if not worker.pid:
            return WorkerState.STARTING
        if worker.watchdog.stopped or process_state(worker.pid)[0] in ("", "T", "Z"):
            return WorkerState.STUCK
        if not worker.ready:
            return WorkerState.OPENING
        if worker in self.old or worker.ending:
            return WorkerState.RECYCLING
        if worker.watchdog.is_silent:
            return WorkerState.STUCK
        return WorkerState.BUSY if worker.outstanding() else WorkerState.READY
