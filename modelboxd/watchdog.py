"""Feeding a supervisor's watchdog, only as long as the server really makes progress."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelboxd import systemd

if TYPE_CHECKING:
    from modelboxd.engine.executor import Executor
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

LOOKS = 4  # times per watchdog period


def period_s() -> float:
    """How often the supervisor of this very process wants to hear from it, in seconds; 0 = never."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 1e6


class Watchdog:
    """Looks every quarter of the period, on a thread of its own, whether

    - the I/O loop has come round since the last look, and
    - the engine has: a thread of its pool is idle, nothing waits, or a call has ended.

    Only then the supervisor hears of us. A frozen process, a deadlock, an interpreter lock that nobody gives up and
    units that keep all threads longer than the period all end in the supervisor's hands. What stands still is logged.
    """

    def __init__(
        self, io: IoThread, executor: Executor, *, period: float, feed: Callable[[], None] | None = None
    ) -> None:
        self._io = io
        self._executor = executor
        self._every_s = period / LOOKS
        self._feed = feed or (lambda: systemd.notify("WATCHDOG=1"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="mb-watchdog", daemon=True)
        self._turned = True  # the I/O loop has answered the last question
        self._ended = -1  # calls of the engine at the last look
        self._standing = 0  # looks in a row without progress

    def start(self) -> None:
        if self._every_s > 0:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> bool:
        """One look; True when the watchdog was fed."""
        reasons = []
        if self._turned:
            self._turned = False
            self._io.call(self._answer)
        else:
            reasons.append("the I/O loop does not turn")
        ended = self._executor.ended
        if ended == self._ended and self._executor.is_stuck():
            reasons.append(f"all engine threads are busy and {self._executor.queued()} calls wait")
        self._ended = ended
        if not reasons:
            self._standing = 0
            self._feed()
            return True
        self._standing += 1
        if self._standing > 1:  # the first time it may just be slow
            log.warning("no progress since %.0f s: %s", self._standing * self._every_s, "; ".join(reasons))
        return False

    def _answer(self) -> None:
        self._turned = True
