"""Sessions that a source unit opens from inside a worker: create_external_data() and what follows.

The unit numbers its sessions itself; the daemon opens the real one when the first data arrive. May be used by threads
that the unit has started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelbox.buffer import BufferList
from modelbox.context import SessionContext
from modelbox.errors import ModelBoxError
from modelbox.flowunit import ExternalData
from modelbox.status import Status, StatusCode
from modelboxd.workers import protocol
from modelboxd.workers.protocol import Writer

if TYPE_CHECKING:
    from modelbox._core.memory import Pool
    from modelboxd.workers.protocol import Peer

LIMIT = protocol.EXTERNALS  # lists that wait for their process() call
MOST = protocol.MOST_SESSIONS
OPEN = protocol.OPEN_SESSIONS


class _Open:
    """A session of the unit, until it is closed and the daemon's session is known."""

    __slots__ = ("closed", "context", "joined", "sent")

    def __init__(self) -> None:
        self.context = SessionContext("")
        self.sent = self.joined = self.closed = False


class Externals:
    """All external data of one worker."""

    def __init__(self, peer: Peer, pool: Pool, send: Callable[[bytes], None]) -> None:
        self._writer = Writer(peer)
        self._pool = pool
        self._send = send
        self._room = threading.Condition()
        self._waiting = 0
        self._last = 0
        self._open: dict[int, _Open] = {}

    def open(self) -> ExternalData:
        """A new session."""
        with self._room:
            if len(self._open) >= OPEN:
                raise RuntimeError(f"{OPEN} sessions of this unit are open")
            self._last = self._last % MOST + 1
            while self._last in self._open:
                self._last = self._last % MOST + 1
            number = self._last
            opened = self._open[number] = _Open()
        return External(self, number, opened.context)

    def send(self, number: int, items: BufferList | None) -> Status:
        """A list for the session, None for its end. Waits while too many wait for their call; on the thread that
        makes the calls it cannot wait, and says BUSY instead."""
        with self._room:
            if items is not None and self._waiting >= LIMIT:
                if threading.current_thread() is threading.main_thread():
                    return Status(StatusCode.STATUS_BUSY, f"{LIMIT} lists wait for their process() call")
                self._room.wait_for(lambda: self._waiting < LIMIT)
            self._writer.begin()
            try:
                cores = [] if items is None else [items.cores(self._pool)]
                self._writer.result(0, number, b"", cores, None)
                message = self._writer.finish(protocol.EXTERNAL, 0, 1)
            except (ModelBoxError, ValueError) as error:
                self._writer.undo()
                return Status(StatusCode.STATUS_INVALID, str(error))
            self._send(message)
            if items is not None:
                self._waiting += 1
                self._open[number].sent = True
        return Status()

    def called(self, number: int, sessions: dict[int, SessionContext], session: int, session_id: str) -> None:
        """A call with a list of the unit's session `number` begins; `session` and `session_id` are the daemon's."""
        with self._room:
            self._waiting = max(self._waiting - 1, 0)
            self._room.notify()
            opened = self._open.get(number)
            if opened is not None and not opened.joined:
                opened.joined = True
                opened.context._id = session_id
                sessions[session] = opened.context
                self._forget(number)

    def close(self, number: int) -> None:
        """The unit will send nothing more."""
        self.send(number, None)
        with self._room:
            self._open[number].closed = True
            self._forget(number)

    def _forget(self, number: int) -> None:
        opened = self._open[number]
        if opened.closed and (opened.joined or not opened.sent):
            del self._open[number]


class External(ExternalData):
    """What create_external_data() gives."""

    def __init__(self, owner: Externals, number: int, context: SessionContext) -> None:
        self._owner = owner
        self._number = number
        self._context = context
        self._closed = False

    def create_buffer_list(self) -> BufferList:
        return BufferList()

    def send(self, items: BufferList | Sequence[object]) -> Status:
        if self._closed:
            return Status(StatusCode.STATUS_STOP, "the external data is closed")
        made = items if isinstance(items, BufferList) else BufferList(list(items))  # type: ignore[arg-type]
        if not made.size():
            made = BufferList()
            made.push_back("")  # so that process() is called
        return self._owner.send(self._number, made)

    def get_session_context(self) -> SessionContext:
        return self._context

    def close(self) -> Status:
        if not self._closed:
            self._closed = True
            self._owner.close(self._number)
        return Status()
