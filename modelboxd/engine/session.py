"""Sessions and streams: what belongs together, and when it is over.

A session is everything that comes from one external input. Its root stream enters the graph at a source;
a stream keeps its identity on its way through the nodes of one level, which is what lets several input ports
be matched by index. An expand node opens a stream per position of its input. All fields are guarded by the job's lock.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from modelbox.errors import ModelBoxError, UnitError
from modelboxd.workers.values import SessionValues

if TYPE_CHECKING:
    from modelboxd.engine.account import Account
    from modelboxd.engine.job import Job
    from modelboxd.workers.process import Worker

_numbers = itertools.count(1)
# A version 4 UUID in form: random per process, then the session's number. Unique, and far cheaper than uuid4().
_PREFIX = "{}-{}-4{}-8{}-".format(*(secrets.token_hex(4)[:n] for n in (8, 4, 3, 3)))


class Stream:
    """Ordered values of one session at one level; `parent` and `index` say where a deeper level hangs."""

    __slots__ = ("index", "number", "parent", "session", "state")

    def __init__(self, session: Session, parent: Stream | None = None, index: int = 0) -> None:
        self.session = session
        self.parent = parent
        self.index = index
        self.number = next(_numbers)
        self.state: Any = None  # of the expand call that makes it: see calls.py


class Round(Stream):
    """Values on one way through the body of a loop. To a loop inside of that body it is a stream as any other."""

    __slots__ = ("calls", "loop", "positions")

    def __init__(self, session: Session, parent: Stream, loop: object, positions: list[int], calls: list[int]) -> None:
        super().__init__(session, parent)
        self.loop = loop  # the step that it comes back to
        self.positions = positions  # of each value in the stream that entered the loop
        self.calls = calls  # how often the loop has been called for it


class Holder(Protocol):
    """Something at a step that keeps a session alive until it is done: input that waits, results that wait."""

    step: Any  # the Step where that is

    def drop(self) -> None:
        """The session failed: lets go of what is held (lock held)."""


class Session:
    """One external input and all that follows from it.

    It ends when nothing of it is left in the graph, or at once when it fails. `on_end` is called exactly once,
    outside the lock.
    """

    __slots__ = (
        "account",
        "dead",
        "ended",
        "error",
        "holders",
        "id",
        "job",
        "number",
        "on_end",
        "on_output",
        "private",
        "values",
        "workers",
    )

    def __init__(
        self,
        job: Job,
        private: dict[str, Any] | None,
        on_end: Callable[[Any], None] | None,
        on_output: Callable[[Any, dict[str, Any]], None] | None = None,
    ) -> None:
        self.job = job
        self.number = next(_numbers)
        self.id = f"{_PREFIX}{self.number:012x}"
        self.private: dict[str, Any] = {} if private is None else private
        self.on_end = on_end
        self.account: Account | None = None
        self.on_output = on_output  # gets what arrives at the graph's output nodes
        self.error: ModelBoxError | None = None
        self.holders: set[Holder] = set()
        self.dead = False  # failed or cancelled: its data is dropped wherever it turns up
        self.ended = False
        self.workers: set[Any] | None = None  # workers that know this session
        self.values: SessionValues | None = None  # what its Python units share

    def release(self, holder: Holder) -> None:
        """`holder` is done; the last one ends the session (lock held)."""
        self.holders.discard(holder)
        if not self.holders:
            self.job.end_locked(self)
        if self.job.held:
            self.job.ask_held_locked()

    def take_values(self, worker: Worker, writes: int, items: Any) -> None:
        """A call has set values of this session. Raises ProtocolError when they are none. [I/O thread]"""
        with self.job.lock:
            if self.dead or self.ended:
                return
            if self.values is None:
                settings = self.job.settings
                self.values = SessionValues(self.number, self.id, settings.session_bytes, settings.all_values)
            values = self.values
        try:
            values.take(worker, writes, items)
        except UnitError as error:
            self.cancel(UnitError(f"python worker {worker.name}: {error.message}", hint=error.hint))

    def cancel(self, reason: ModelBoxError) -> None:
        """Ends the session early; `reason` becomes its error. Later calls change nothing. [any thread]"""
        self.job.fail_session(self, reason)
