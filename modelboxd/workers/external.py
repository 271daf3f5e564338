"""Sessions that a source unit opens from inside a worker: create_external_data() and what follows.

The unit numbers its sessions itself; the daemon opens the real one when the first data arrive. May be used by threads
that the unit has started.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelbox.buffer import BufferList
from modelbox.errors import ModelBoxError
from modelbox.flowunit import ExternalData
from modelbox.session import SessionContext
from modelbox.status import Status, StatusCode
from modelboxd.workers import protocol
from modelboxd.workers.protocol import Writer

if TYPE_CHECKING:
    from modelbox._core.memory import Pool
    from modelboxd.workers.protocol import Peer

MOST = protocol.MOST_SESSIONS
OPEN = protocol.OPEN_SESSIONS


class _Open:
    """A session of the unit, until it is closed and all that was sent has had its call."""

    __slots__ = ("closed", "context", "failed", "joined", "sent", "sizes")

    def __init__(self) -> None:
        self.context = SessionContext("")
        self.sent = self.joined = self.closed = self.failed = False
        self.sizes: deque[int] = deque()  # bytes of each list that waits for its call


class Externals:
    """All external data of one worker."""

    def __init__(self, peer: Peer, pool: Pool, send: Callable[[bytes], None]) -> None:
        self._writer = Writer(peer)
        self._pool = pool
        self._send = send
        self._room = threading.Condition()
        self._lists = self._bytes = 0  # that wait for their calls
        self._most_lists = self._most_bytes = 0
        self._last = 0
        self._open: dict[int, _Open] = {}

    def limit(self, lists: int, size: int) -> None:
        """How many lists, and how many bytes in them, may wait for their process() calls; 0: the daemon drops what is
        too much."""
        self._most_lists, self._most_bytes = lists, size

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
            opened = self._open[number]
            if items is not None:
                if self._is_full() and threading.current_thread() is threading.main_thread():
                    return Status(StatusCode.STATUS_BUSY, f"{self._lists} lists wait for their process() call")
                self._room.wait_for(lambda: opened.failed or not self._is_full())
                if opened.failed:
                    return Status(StatusCode.STATUS_STOP, "the session has failed")
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
                opened.sent = True
            if items is not None and self._most_lists:
                opened.sizes.append(items.get_bytes())
                self._lists += 1
                self._bytes += opened.sizes[-1]
        return Status()

    def _is_full(self) -> bool:
        return bool(self._most_lists) and (self._lists >= self._most_lists or self._bytes >= self._most_bytes)

    def called(self, number: int, sessions: dict[int, SessionContext], session: int, session_id: str) -> None:
        """A call with a list of the unit's session `number` begins; `session` and `session_id` are the daemon's."""
        with self._room:
            opened = self._open.get(number)
            if opened is None:
                return
            if opened.sizes:
                self._lists -= 1
                self._bytes -= opened.sizes.popleft()
                self._room.notify_all()
            if not opened.joined:
                opened.joined = True
                opened.context._id = session_id
                sessions[session] = opened.context
            self._forget(number)

    def fail(self, number: int) -> None:
        """The daemon's session has failed: what waits is dropped there, and nothing more is taken."""
        with self._room:
            opened = self._open.get(number)
            if opened is None:
                return
            self._lists -= len(opened.sizes)
            self._bytes -= sum(opened.sizes)
            opened.sizes.clear()
            opened.failed = True
            self._room.notify_all()
            self._forget(number)

    def close(self, number: int) -> None:
        """The unit will send nothing more."""
        self.send(number, None)
        with self._room:
            self._open[number].closed = True
            self._forget(number)

    def _forget(self, number: int) -> None:
        opened = self._open[number]
        if opened.closed and not opened.sizes and (opened.failed or opened.joined or not opened.sent):
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
