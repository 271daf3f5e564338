"""What a task is."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from modelbox.errors import ModelBoxError

if TYPE_CHECKING:
    from modelboxd.engine.account import Account
    from modelboxd.engine.feed import CoreList
    from modelboxd.engine.session import Session

FIRST, DEFAULT, LAST = 1, 5, 10  # priorities
_NODE = re.compile(r"node '([^']{1,200})'")


class TaskState(StrEnum):
    """Where a task is in its life; the last three are for good."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NoSuchTaskError(ModelBoxError, LookupError):
    """There is no task of this id, or no longer."""


class TaskCancelledError(ModelBoxError):
    """Somebody cancelled the task, or who waited for it has gone."""


class TaskInputError(ModelBoxError, ValueError):
    """The inputs of a task are not what its job takes. `problems`: (JSON pointer or name, what is wrong)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(f"{problems[0][0]} {problems[0][1]}".strip())
        self.problems = problems


class TaskResultError(ModelBoxError):
    """A flow unit gave errors instead of values. `unit_code` is "<unit>.<reason>"."""

    def __init__(self, message: str, *, unit_code: str = "", node: str = "") -> None:
        super().__init__(message, node=node)
        self.unit_code = unit_code


class ResultLostError(TaskResultError):
    """The process of the unit died, or none is started for a while."""


class ResultLateError(TaskResultError):
    """A call of the unit took longer than `process_timeout_ms`."""


def result_error(unit_code: str, message: str, node: str) -> TaskResultError:
    """What an error is that came in the place of a value."""
    kinds = {"WorkerLost": ResultLostError, "WorkerTimedOut": ResultLateError}
    return kinds.get(unit_code.rpartition(".")[2], TaskResultError)(message, unit_code=unit_code, node=node)


@dataclass(slots=True)
class Output:
    """A value that came out at an output node."""

    node: str
    data: bytes
    is_text: bool
    meta: dict[str, Any]
    error: tuple[str, str, str] | None = None  # "<unit>.<reason>", text, node or ""; then there is no data

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return len(self.data) + 512


@dataclass(slots=True)
class Hook:
    """Who is told of the end of a task."""

    url: str
    state: str = "waiting"  # "sending", "delivered", "failed"
    attempts: int = 0
    error: str = ""


@dataclass(slots=True, eq=False)
class Task:
    """One piece of work. Belongs to the I/O thread, but for `arrived` and `result_bytes`."""

    job: str
    inputs: list[tuple[str, CoreList]]  # by input node; gone when they were sent
    input_bytes: int
    number: int  # counts up: the order of submission
    priority: int = DEFAULT
    timeout_s: float = 0.0  # from submission to end; 0 = no limit
    hook: Hook | None = None
    keep: bool = True  # it can be asked for when it is over
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    state: TaskState = TaskState.QUEUED
    created: float = field(default_factory=time.time)  # seconds since 1970
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0
    ended_at: float = 0.0
    outputs: list[Output] = field(default_factory=list)  # in the order they came
    arrived: deque[Output] = field(default_factory=deque)  # not yet in `outputs`. [any thread]
    result_bytes: int = 0
    error: ModelBoxError | None = None
    dropped: bool = False  # its outputs are no longer kept
    gone: int = 0  # how many there were
    session: Session | None = None  # while it runs
    account: Account | None = None  # what it costs
    cancelled: ModelBoxError | None = None  # why it is being cancelled
    timer: asyncio.TimerHandle | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in (TaskState.QUEUED, TaskState.RUNNING)

    def queue_time(self, now: float) -> float:
        """Seconds that it waited for its turn."""
        return (self.started_at or self.ended_at or now) - self.queued_at

    def elapsed(self, now: float) -> float:
        """Seconds from submission to its end, or until now."""
        return (self.ended_at or now) - self.queued_at

    def wake(self) -> None:
        """Something has changed: whoever waits goes on."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        """Waits for the next change."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                self.waiters = [other for other in self.waiters if other is not waiter]

    async def end(self) -> None:
        """Waits for its end."""
        while not self.is_over:
            await self.change()


def node_of(error: ModelBoxError) -> str:
    """The node that an error is about; "" when it names none."""
    found = _NODE.search(error.message)
    return error.node or (found[1] if found else "")
