"""Time limits of sessions: one timer per job and limit, however many sessions there are."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Session


class Limits:
    """The sessions of a job that may take only so long. Guarded by the job's lock."""

    def __init__(self, job: Job) -> None:
        self._job = job
        # By limit in seconds: when it passes, for whom; in that order, since they were added as time went by.
        self._queues: dict[float, deque[tuple[float, Session]]] = {}

    def add(self, session: Session, limit_s: float) -> None:
        """The session begins now (lock held)."""
        clock = self._job.clock
        due = clock.now() + limit_s
        queue = self._queues.get(limit_s)
        if queue is None:  # else a timer is set for the first of them
            queue = self._queues[limit_s] = deque()
            clock.call_at(due, self._ring, limit_s)
        queue.append((due, session))

    def trim(self) -> None:
        """A session has ended: what is over is not kept (lock held)."""
        for queue in self._queues.values():
            while queue and queue[0][1].ended:
                queue.popleft()

    def _ring(self, limit_s: float) -> None:
        """The timer. No lock held."""
        job = self._job
        late: list[Session] = []
        with job.lock:
            queue = self._queues[limit_s]
            # Loops round to milliseconds: a timer may ring a moment early.
            now = job.clock.now() + 0.001
            while queue and (queue[0][1].ended or queue[0][0] <= now):
                late.append(queue.popleft()[1])
            if queue:
                job.clock.call_at(queue[0][0], self._ring, limit_s)
            else:
                del self._queues[limit_s]
        for session in late:
            job.late(session, limit_s)
