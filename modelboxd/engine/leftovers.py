"""Memory that work has left behind: given back to the system once nothing has been going on for a while.

malloc is told to keep what it frees (page faults rule native work), so a burst of large requests would stay
resident for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from modelboxd.engine.clock import Clock

IDLE_S = 30.0


class Leftovers:
    """Calls `trim` when the last touch() was IDLE_S to 2 * IDLE_S ago. One timer while there is work, none after."""

    def __init__(self, clock: Clock, trim: Callable[[], object]) -> None:
        self._clock = clock
        self._trim = trim
        self._armed = False
        self._touched = False

    def touch(self) -> None:
        """A job has nothing to do now. Cheap. [any thread]"""
        self._touched = True
        if not self._armed:  # two threads may both arm it: one call too many does no harm
            self._armed = True
            self._clock.call_at(self._clock.now() + IDLE_S, self._look)

    def _look(self) -> None:
        self._armed = self._touched
        self._touched = False
        if self._armed:
            self._clock.call_at(self._clock.now() + IDLE_S, self._look)
        else:
            self._trim()
