"""Values of sessions on their way to and from worker processes; the daemon's end, which keeps them.

A worker sends what its calls have changed before their results, so that a later call, wherever it runs, finds it.
What a worker has not seen goes out before the next call of the session that it gets. Nothing is unpacked here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from modelbox import meta
from modelbox._core import objects
from modelbox._core.memory import address, own_list
from modelbox.errors import UnitError
from modelbox.session import KEY_LIMIT
from modelboxd.workers.protocol import ProtocolError

if TYPE_CHECKING:
    from modelboxd.workers.process import Worker

ENTRY_BYTES = 512  # what a value costs beside its own bytes and its meta, about
MOST_KEYS = 1 << 16  # of a session
META_LIMIT = 32 << 10  # bytes of the meta of a value: the key and the node
MOST_WRITES = (1 << 63) - 1

CData = Any
Key = tuple[str, bool]  # and whether it is configuration


class Owner(Protocol):
    """A session, as far as its values are concerned."""

    def take_values(self, worker: Worker, writes: int, items: CData) -> None:
        """A call of the session has changed these values; see SessionValues.take()."""


class Budget:
    """What the values of all sessions together may need. Thread-safe."""

    def __init__(self, limit: int = 0) -> None:
        """`limit`: bytes; 0: no limit."""
        self.used = 0
        self.limit = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether so many bytes more are within the limit; they count then. A negative number gives bytes back."""
        with self._lock:
            if self.limit and size > 0 and self.used + size > self.limit:
                return False
            self.used += size
            return True


class SessionValues:
    """The values of one session, and what each worker has seen of them. Thread-safe."""

    def __init__(self, session: int, session_id: str, limit: int, budget: Budget) -> None:
        """`limit`: bytes of all values together; `budget`: what they share with those of other sessions."""
        self.session = session
        self.session_id = session_id
        self._limit = limit
        self._budget = budget
        self._lock = threading.Lock()
        self._entries: dict[Key, tuple[int, Worker | None, Any]] = {}  # version, who has set it, Core
        self._version = 0
        self._bytes = 0
        self._seen: dict[Worker, int] = {}
        self._heard: dict[Worker, int] = {}  # which of its writes has arrived
        self._closed = False

    def take(self, worker: Worker | None, writes: int, items: CData) -> None:
        """Values (an mb_list) that a worker, or the daemon itself, has set. Raises UnitError when they are too many,
        and takes none from there on; ProtocolError when they are no values."""
        cores = objects.of_list(address(items))
        with self._lock:
            if self._closed:
                return
            self._version += 1
            if worker is not None:
                self._forget_lost(worker)
                self._heard[worker] = max(writes, self._heard.get(worker, 0))
            for core in cores:
                self._take_one(worker, core)

    def _take_one(self, worker: Worker | None, core: Any) -> None:
        key = _key(core)
        before = self._entries.get(key)
        more = _size(core) - (_size(before[2]) if before is not None else 0)
        hint = "[python] session_bytes"
        if before is None and len(self._entries) >= MOST_KEYS:
            raise UnitError(f"a session can have {MOST_KEYS} values, '{key[0]}' is one more")
        if self._bytes + more > self._limit:
            text = f"the values of a session need {self._bytes + more} bytes with '{key[0]}', at most {self._limit} "
            raise UnitError(f"{text}are allowed", hint=hint)
        if not self._budget.take(more):
            text = f"the values of all sessions need more than {self._budget.limit} bytes with '{key[0]}'"
            raise UnitError(text, hint="half of [memory] max")
        self._bytes += more
        self._entries[key] = (self._version, worker, core)

    def _forget_lost(self, worker: Worker) -> None:
        """A session may outlive many workers: what those that are lost have seen is nobody's concern."""
        if worker in self._seen:
            return
        for lost in [one for one in self._seen.keys() | self._heard.keys() if not one.alive]:
            self._seen.pop(lost, None)
            self._heard.pop(lost, None)
            for key, (version, setter, core) in self._entries.items():
                if setter is lost:
                    self._entries[key] = (version, None, core)

    def close(self) -> None:
        """The session has ended."""
        with self._lock:
            self._closed = True
            self._budget.take(-self._bytes)
            self._bytes = 0
            self._entries.clear()

    def news(self, worker: Worker) -> tuple[int, CData] | None:
        """What the worker has not seen (its last write that has arrived, an mb_list); None: nothing."""
        with self._lock:
            self._forget_lost(worker)
            seen = self._seen.get(worker, 0)
            self._seen[worker] = self._version
            if seen == self._version:
                return None
            cores = [
                core for version, setter, core in self._entries.values() if version > seen and setter is not worker
            ]
            return (self._heard.get(worker, 0), own_list(objects.to_list(cores))) if cores else None

    def unseen(self, worker: Worker) -> None:
        """What news() gave could not be sent."""
        with self._lock:
            self._seen.pop(worker, None)

    def workers(self) -> set[Worker]:
        """Those that have values of the session."""
        with self._lock:
            return set(self._seen)


def writes_of(block: bytes) -> int:
    """The number of the worker's last write, from the stream meta of its values. Raises ProtocolError."""
    writes = _meta(block).get("writes")
    if not (isinstance(writes, int) and 0 < writes <= MOST_WRITES):
        raise ProtocolError("values without their number")
    return writes


def _meta(block: bytes) -> dict[str, Any]:
    if len(block) > META_LIMIT:
        raise ProtocolError(f"a session's value with {len(block)} bytes of meta")
    try:
        return meta.decode(block)
    except ValueError as error:
        raise ProtocolError(f"a session's value: {error}") from None


def _key(core: Any) -> Key:
    about = _meta(core.meta)
    key, is_config = about.get("key"), about.get("config")
    if not (isinstance(key, str) and len(key) <= KEY_LIMIT and isinstance(is_config, bool)):
        raise ProtocolError("a session's value without a key")
    if not isinstance(about.get("node"), str):
        raise ProtocolError("a session's value of no node")
    return key, is_config


def _size(core: Any) -> int:
    error = core.error
    return ENTRY_BYTES + len(core.meta) + int(core.size) + (len(error[0]) + len(error[1]) if error is not None else 0)
