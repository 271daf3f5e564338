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
from modelboxd.workers.protocol import ProtocolError

if TYPE_CHECKING:
    from modelboxd.workers.process import Worker

ENTRY_BYTES = 128  # what a value costs beside its own bytes, about
KEY_LIMIT = 4096  # characters of a key

CData = Any
Key = tuple[str, bool]  # and whether it is configuration


class Owner(Protocol):
    """A session, as far as its values are concerned."""

    def take_values(self, worker: Worker, writes: int, items: CData) -> None:
        """A call of the session has changed these values; see SessionValues.take()."""


class SessionValues:
    """The values of one session, and what each worker has seen of them. Thread-safe."""

    def __init__(self, session: int, session_id: str, limit: int) -> None:
        """`limit`: bytes of all values together."""
        self.session = session
        self.session_id = session_id
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: dict[Key, tuple[int, Worker | None, Any]] = {}  # version, who has set it, Core
        self._version = 0
        self._bytes = 0
        self._seen: dict[Worker, int] = {}
        self._heard: dict[Worker, int] = {}  # which of its writes has arrived

    def take(self, worker: Worker | None, writes: int, items: CData) -> None:
        """Values (an mb_list) that a worker, or the daemon itself, has set. Raises UnitError when they are too many,
        ProtocolError when they are no values."""
        cores = objects.of_list(address(items))
        with self._lock:
            self._version += 1
            if worker is not None:
                self._heard[worker] = max(writes, self._heard.get(worker, 0))
            for core in cores:
                key = _key(core)
                before = self._entries.get(key)
                if before is not None:
                    self._bytes -= _size(key, before[2])
                self._entries[key] = (self._version, worker, core)
                self._bytes += _size(key, core)
                if self._bytes > self._limit:
                    raise UnitError(
                        f"the values of a session need {self._bytes} bytes with '{key[0]}', at most {self._limit} "
                        "are allowed",
                        hint="[python] session_bytes",
                    )

    def news(self, worker: Worker) -> tuple[int, CData] | None:
        """What the worker has not seen (its last write that has arrived, an mb_list); None: nothing."""
        with self._lock:
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


def _key(core: Any) -> Key:
    try:
        about = meta.decode(core.meta)
    except ValueError as error:
        raise ProtocolError(f"a session's value: {error}") from None
    key, is_config = about.get("key"), about.get("config")
    if not (isinstance(key, str) and len(key) <= KEY_LIMIT and isinstance(is_config, bool)):
        raise ProtocolError("a session's value without a key")
    if not isinstance(about.get("node"), str):
        raise ProtocolError("a session's value of no node")
    return key, is_config


def _size(key: Key, core: Any) -> int:
    return ENTRY_BYTES + len(key[0]) + int(core.size)
