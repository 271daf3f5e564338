"""The engine's thread pool: one run queue by priority, named threads, optional CPU binding."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from modelbox._core import lib
from modelbox.errors import ModelBoxError

log = logging.getLogger(__name__)

Priority = tuple[int, int]


class Executor:
    """Runs callables on `threads` threads; the smallest priority first, equal ones in order of arrival."""

    def __init__(self, threads: int, *, cpus: Sequence[int] = (), name: str = "mb-engine") -> None:
        self.threads = threads
        self._cpus = list(cpus)
        self._queue: list[tuple[Priority, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition(threading.Lock())
        self._idle = 0
        self._since = [0.0] * threads  # since when each thread is at one call; 0 = it is not
        self.ended = 0  # calls that are over; a sign of life, no exact count
        self._closed = False
        self._threads = [
            threading.Thread(target=self._main, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Raises ModelBoxError when the system gives fewer threads."""
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                self.stop()
                text = f"only {number} of {self.threads} engine threads could be started: {error}"
                raise ModelBoxError(text, hint="less in engine.threads, or more processes for this user") from None

    def stop(self, timeout_s: float | None = None) -> bool:
        """Ends the threads once the queue is empty; False when one still ran after `timeout_s` in all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def post(self, priority: Priority, function: Callable[[], None]) -> None:
        """Queues `function`. It must not raise; what it raises all the same is logged. [any thread]"""
        with self._changed:
            heapq.heappush(self._queue, (priority, next(self._order), function))
            if self._idle:
                self._changed.notify()

    def stalled(self, limit_s: float) -> list[tuple[int, float]]:
        """(number, seconds) of each thread that is at one call for longer than that, while other calls wait."""
        if not self._queue:
            return []
        now = time.monotonic()
        return [(number, now - since) for number, since in enumerate(self._since) if since and now - since > limit_s]

    def queued(self) -> int:
        """How many calls wait for a thread."""
        return len(self._queue)

    def is_stuck(self) -> bool:
        """Whether calls wait although no thread takes one: all are busy. A moment's look; see Watchdog."""
        return bool(self._queue) and not self._idle

    def _main(self, number: int) -> None:
        lib.mb_name_thread(threading.current_thread().name.encode())
        if self._cpus:
            os.sched_setaffinity(threading.get_native_id(), {self._cpus[number % len(self._cpus)]})
        while True:
            with self._changed:
                self._since[number] = 0.0
                while not self._queue:
                    if self._closed:
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                self._since[number] = time.monotonic()
                function = heapq.heappop(self._queue)[2]
            try:
                function()
            except Exception:
                log.exception("internal error on engine thread %d", number)
            self.ended += 1
            del function  # keeps no job alive while idle
