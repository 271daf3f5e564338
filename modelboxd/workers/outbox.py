"""What the daemon sends to one worker: at once where its socket takes it, else in order when the worker reads on."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelboxd.workers import checks, protocol
from modelboxd.workers.protocol import Arenas, Peer, header_only

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

SESSIONS_AT_ONCE = 4096  # in one message


class Outbox:
    """Used under `lock`, the worker's; with [I/O thread] it takes the lock itself."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        io: IoThread,
        peer: Peer,
        lock: threading.Lock,
        condemn: Callable[[str], None],
        calls_out: Callable[[], int],
        on_empty: Callable[[], None],
    ) -> None:
        """`condemn(verdict)` is called on the I/O thread, `on_empty()` there too when all that waited has been sent;
        `calls_out()` says how many messages with calls are not answered."""
        self._name = name
        self._sock = sock
        self._io = io
        self._arenas = Arenas(peer)
        self._lock = lock
        self._condemn = condemn
        self._calls_out = calls_out
        self._on_empty = on_empty
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._ended: list[int] = []  # sessions whose end the worker has not heard of, while messages wait
        self._moved = 0  # messages that have waited and were sent
        self._stall_watched = False  # _check_stall() will be called
        self._closed = False

    def is_empty(self) -> bool:
        """Whether nothing waits. [any thread, without the lock]"""
        return not self._waiting

    def send(self, message: bytes) -> None:
        """Sends a message, before it what the worker has to know of our memory."""
        self.send_news()
        self._send_one(message, None)

    def send_news(self) -> None:
        """Sends what the worker has to know of our memory."""
        for news, fd in self._arenas.news():
            self._send_one(news, fd)

    def send_descriptor(self, message: bytes, fd: int) -> None:
        """Sends a message with a descriptor, which stays the caller's."""
        self._send_one(message, fd)

    def tell_ended(self, numbers: list[int]) -> None:
        """Tells the ends of sessions: now, or in bulk when nothing else waits."""
        self._ended += numbers
        self._send_ended()

    def close(self) -> None:
        """Drops what waits. [I/O thread]"""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for _, fd in waiting:
            if fd is not None:
                os.close(fd)
        self._io.loop.remove_writer(self._sock)

    def _send_ended(self) -> None:
        while self._ended and not self._waiting:
            numbers, self._ended = self._ended[:SESSIONS_AT_ONCE], self._ended[SESSIONS_AT_ONCE:]
            body = b"".join(number.to_bytes(8, "little") for number in numbers)
            self.send(header_only(protocol.SESSIONS, body, count=len(numbers)))

    def _send_one(self, message: bytes, fd: int | None) -> None:
        if not self._waiting and self._try_send(message, fd):
            return
        if len(self._waiting) == checks.OUTBOX:
            self._io.call(self._condemn, "does not read its messages")
            return
        try:
            # The arena's descriptor may be closed before the socket takes the message: keep one of our own.
            self._waiting.append((message, None if fd is None else os.dup(fd)))
        except OSError as error:
            self._io.call(self._condemn, f"cannot be sent memory ({error})")
            return
        self._io.call(self._watch)

    def _try_send(self, message: bytes, fd: int | None) -> bool:
        try:
            if fd is None:
                self._sock.send(message)
            else:
                socket.send_fds(self._sock, [message], [fd])
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("python worker %s: cannot send: %s", self._name, error)  # its end is noticed by the reader
        return True

    # ---- while messages wait (I/O thread) -----------------------------------------------------------------

    def _watch(self) -> None:
        if not self._closed:
            self._io.loop.add_writer(self._sock, self._writable)
            if not self._stall_watched:
                self._stall_watched = True
                self._io.loop.call_later(checks.STALL_S, self._check_stall, self._moved)

    def _writable(self) -> None:
        with self._lock:
            while self._waiting:
                message, fd = self._waiting[0]
                if not self._try_send(message, fd):
                    return
                self._waiting.popleft()
                self._moved += 1
                if fd is not None:
                    os.close(fd)
            self._send_ended()
            if self._waiting:
                return
        self._io.loop.remove_writer(self._sock)
        self._on_empty()

    def _check_stall(self, moved: int) -> None:
        """A worker that makes a call need not read; without one it has nothing else to do."""
        with self._lock:
            unsent = sum(message[4] == protocol.CALLS for message, _ in self._waiting)
            stalls = bool(self._waiting) and moved == self._moved and unsent == self._calls_out()
        self._stall_watched = bool(self._waiting) and not self._closed and not stalls
        if self._stall_watched:
            self._io.loop.call_later(checks.STALL_S, self._check_stall, self._moved)
        if stalls:
            self._condemn(f"has not read its messages for {checks.STALL_S:g} s")
