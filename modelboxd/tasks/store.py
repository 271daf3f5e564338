"""The tasks that are known, and what they hold: bounded in time, number and bytes."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelboxd.tasks.model import NoSuchTaskError, Task

if TYPE_CHECKING:
    from modelboxd.jobs.runtime import Runtime

KEPT_MAX = 10_000  # tasks that are over


class Results:
    """All tasks; those that are over for `keep_s` seconds. Where bytes get scarce the outputs of the oldest go first,
    what else is known of them stays. [I/O thread]"""

    def __init__(self, keep_s: float, limit: int, runtime: Runtime) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._runtime = runtime
        self._tasks: OrderedDict[str, Task] = OrderedDict()  # in the order they came
        self._over: OrderedDict[str, Task] = OrderedDict()  # in the order they ended
        self._full: OrderedDict[str, Task] = OrderedDict()  # those of them that hold outputs
        self._timer: asyncio.TimerHandle | None = None
        self.bytes = 0  # inputs that wait, outputs that are kept
        self._full_bytes = 0  # those of them that may go

    def add(self, task: Task) -> None:
        """A new one."""
        self._tasks[task.id] = task
        self.bytes += task.input_bytes

    def find(self, task_id: str) -> Task:
        """Raises NoSuchTaskError."""
        task = self._tasks.get(task_id)
        if task is None:
            raise NoSuchTaskError(f"there is no task '{task_id[:80]}'", hint="it may be over for long; see tasks.keep")
        return task

    def latest(self) -> Iterator[Task]:
        """All of them, the latest first."""
        return reversed(list(self._tasks.values()))

    def hold(self, task: Task, size: int) -> None:
        """Outputs of a task that runs."""
        self.bytes += size

    def release(self, size: int) -> None:
        """Inputs are gone."""
        self.bytes -= size

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes more may be held once outputs of tasks that are over are gone."""
        return self.bytes - self._full_bytes + size <= self._limit

    def make_room(self, size: int) -> bool:
        """Whether `size` bytes more may be held; outputs of tasks that are over may have to go. Where that would not
        help they stay."""
        if not self.has_room(size):
            return False
        while self._limit < self.bytes + size and self._full:
            self.drop(next(iter(self._full.values())))
        return True

    def ended(self, task: Task) -> None:
        """It is over, and kept from now on."""
        self._over[task.id] = task
        if task.outputs:
            self._full[task.id] = task
            self._full_bytes += held_by(task)
        while len(self._over) > KEPT_MAX:
            self.remove(next(iter(self._over.values())))
        self.make_room(0)
        if self._timer is None:
            self._timer = self._runtime.io.loop.call_later(self._keep_s, self._expire)

    def forget(self, task: Task) -> None:
        """It is over, and not kept; what it holds is its holder's."""
        self.bytes -= held_by(task)
        self._tasks.pop(task.id, None)

    def drop(self, task: Task) -> None:
        """Lets the outputs of a task go that is over."""
        if self._full.pop(task.id, None) is not None:
            size = held_by(task)
            self.bytes -= size
            self._full_bytes -= size
            task.gone = len(task.outputs)
            task.outputs = []
            task.dropped = True

    def remove(self, task: Task) -> None:
        """Forgets a task that is over."""
        self.drop(task)
        self._over.pop(task.id, None)
        self._tasks.pop(task.id, None)

    def _expire(self) -> None:
        """Forgets those whose time is over."""
        self._timer = None
        now = time.monotonic()
        while self._over:
            task = next(iter(self._over.values()))
            left = task.ended_at + self._keep_s - now
            if left > 0:
                self._timer = self._runtime.io.loop.call_later(left, self._expire)
                return
            self.remove(task)

    def close(self) -> None:
        """No more timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def held_by(task: Task) -> int:
    """Bytes of its outputs."""
    return sum(output.size for output in task.outputs)
