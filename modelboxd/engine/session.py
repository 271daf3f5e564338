"""Sessions and streams: what belongs together, and when it is over.

A session is everything that comes from one external input. Its root stream enters the graph at a source;
a stream keeps its identity on its way through the nodes of one level (expand, later, opens deeper ones),
which is what lets several input ports be matched by index. All fields are guarded by the job's lock.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelbox.errors import ModelBoxError

if TYPE_CHECKING:
    from modelboxd.engine.feed import Feed
    from modelboxd.engine.job import Job

_numbers = itertools.count(1)
# A version 4 UUID in form: random per process, then the session's number. Unique, and far cheaper than uuid4().
_PREFIX = "{}-{}-4{}-8{}-".format(*(secrets.token_hex(4)[:n] for n in (8, 4, 3, 3)))


class Stream:
    """Ordered buffers of one session at one level; `parent` and `index` say where a deeper level hangs."""

    __slots__ = ("index", "number", "parent", "session")

    def __init__(self, session: Session, parent: Stream | None = None, index: int = 0) -> None:
        self.session = session
        self.parent = parent
        self.index = index
        self.number = next(_numbers)


class Session:
    """One external input and all that follows from it.

    It ends when its last feed is closed (everything has left the graph), or at once when it fails. `on_end`
    is called exactly once, outside the lock.
    """

    __slots__ = ("dead", "ended", "error", "feeds", "id", "job", "live", "number", "on_end", "private", "workers")

    def __init__(self, job: Job, private: dict[str, Any] | None, on_end: Callable[[Any], None] | None) -> None:
        self.job = job
        self.number = next(_numbers)
        self.id = f"{_PREFIX}{self.number:012x}"
        self.private: dict[str, Any] = {} if private is None else private
        self.on_end = on_end
        self.error: ModelBoxError | None = None
        self.feeds: set[Feed] = set()
        self.live = 0  # open entries and feeds
        self.dead = False  # failed or cancelled: its data is dropped wherever it turns up
        self.ended = False
        self.workers: set[Any] | None = None  # workers that keep private data of this session

    def cancel(self, reason: ModelBoxError) -> None:
        """Ends the session early; `reason` becomes its error. Later calls change nothing. [any thread]"""
        self.job.fail_session(self, reason)
