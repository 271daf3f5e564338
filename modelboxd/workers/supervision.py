"""When a worker that has ended is replaced: back-off, and a breaker for units that crash again and again.

Pure: no process, no timer. The group tells what has happened and asks what to do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from modelboxd.graph.life import Life

FIRST_DELAY_S, LAST_DELAY_S = 0.1, 5.0
STEADY_S = 60.0  # a worker that has waited so long for work begins a new row of crashes
MOST_COOLDOWNS = 32  # times restart_cooldown_s, at most, until the next trial


class Breaker(Enum):
    """CLOSED: workers that crash are replaced. OPEN: none is started. HALF_OPEN: one is tried, until it answers."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Supervision:
    """The restarts of one node's workers."""

    def __init__(self, life: Life, clock: Callable[[], float] = time.monotonic) -> None:
        self.breaker = Breaker.CLOSED
        self.crashes = 0  # in a row: no call was answered in between
        self.too_many = ""  # why the breaker has opened, in words
        self.restarts = 0
        self.last_cause = ""
        self._life = life
        self._clock = clock
        self._times: deque[float] = deque(maxlen=max(life.max_restarts, 1))
        self._trials = 0  # since the breaker has opened
        self._retry_at = 0.0

    def lost(self, cause: str, *, answered: bool, clean: bool = False) -> float | None:
        """A worker has ended by itself or was killed for what it did; `answered`: calls were answered since the last
        one did, or it had nothing to do for STEADY_S at least; `clean`: it ended with exit code 0 and held no call.
        Returns the seconds until its replacement may start, None when there is to be none (now: see `breaker`).
        """
        now = self._clock()
        self.last_cause = cause
        self.crashes = 1 if answered else self.crashes + 1
        self._times.append(now)
        if self._life.restart == "never" or (self._life.restart == "on-failure" and clean):
            return None
        if self.breaker is Breaker.HALF_OPEN:
            self._open(now)
        elif self.breaker is Breaker.CLOSED and (why := self._why_open(now)):
            self.too_many = why
            self._trials = 0
            self._open(now)
        if self.breaker is Breaker.OPEN:
            return None
        self.restarts += 1
        return min(FIRST_DELAY_S * 2.0 ** min(self.crashes - 1, 16), LAST_DELAY_S)

    def innocent(self, cause: str) -> float | None:
        """A worker has ended through no fault of its unit, as with the python-master. Returns as lost() does."""
        self.last_cause = cause
        if self._life.restart == "never" or self.breaker is Breaker.OPEN:
            return None
        self.restarts += 1
        return FIRST_DELAY_S

    def renew(self) -> None:
        """The unit's code has changed: what it has done before says nothing any more, and a trial may start at once."""
        self.crashes = 0
        self._times.clear()
        self._trials = 0
        self._retry_at = self._clock()

    def retry_in(self) -> float:
        """Seconds until a trial may start; 0 when the breaker is not open."""
        return max(0.0, self._retry_at - self._clock()) if self.breaker is Breaker.OPEN else 0.0

    def try_again(self) -> bool:
        """Whether a trial may start now; the breaker is half open then."""
        if self.breaker is not Breaker.OPEN or self.retry_in() > 0:
            return False
        self.breaker = Breaker.HALF_OPEN
        self.restarts += 1
        self._trials += 1
        return True

    def answered(self) -> bool:
        """A call was answered. True when that has closed the breaker."""
        if self.breaker is not Breaker.HALF_OPEN:
            return False
        self.breaker = Breaker.CLOSED
        self.crashes = 0
        self._times.clear()
        return True

    def _why_open(self, now: float) -> str:
        """Which limit of crashes is reached, in words; "" = none."""
        most, window = self._life.max_restarts, self._life.restart_window_s
        if not most:
            return ""
        if self.crashes >= most:
            return f"{self.crashes} crashes in a row"
        if window > 0 and len(self._times) == most and now - self._times[0] <= window:
            return f"{most} crashes within {window:g} s"
        return ""

    def _open(self, now: float) -> None:
        self.breaker = Breaker.OPEN
        self._retry_at = now + self._life.restart_cooldown_s * min(2**self._trials, MOST_COOLDOWNS)
