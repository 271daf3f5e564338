"""The time as jobs see it: limits of sessions and batches that wait. Tests put a clock of their own in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from modelboxd.loop import IoThread


class Clock(Protocol):
    """Seconds since some moment, and calls at a later one."""

    def now(self) -> float:
        """[any thread]"""

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        """Calls `function(*args)` once `when` has passed, on a thread that holds no lock. [any thread]"""


class IoClock:
    """The clock of the I/O loop."""

    def __init__(self, io: IoThread) -> None:
        self._io = io
        self.now = io.loop.time

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        if self._io.is_current():
            self._io.loop.call_at(when, function, *args)
        else:
            self._io.call(self._io.loop.call_at, when, function, *args)
