"""What one worker sends to the daemon: received, checked as a whole, handed on one by one. I/O thread."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelbox.errors import ModelBoxError, OutOfMemoryError
from modelboxd.workers import checks, protocol
from modelboxd.workers.protocol import HEADER, Peer, Reader

if TYPE_CHECKING:
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

ASKED = (protocol.RESULTS, protocol.VALUES, protocol.EXTERNAL)  # what calls and queues bound
READS = 16  # messages taken from one worker before others get their turn


class Inbox:
    """The receiving half of a worker's socket."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        io: IoThread,
        peer: Peer,
        about: dict[str, str],
        take: Callable[[Reader, list[int]], None],
        is_asked: Callable[[], bool],
        condemn: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        """`take(reader, descriptors)` gets each message, and raises ModelBoxError for one that makes no sense;
        `is_asked()` says whether answers are expected; `on_end()` tells the end of file, once."""
        self._name = name
        self._sock = sock
        self._io = io
        self._peer = peer
        self._about = about
        self._take = take
        self._is_asked = is_asked
        self._condemn = condemn
        self._on_end = on_end
        self._incoming = bytearray(protocol.MESSAGE_LIMIT + HEADER.size)
        self._places = [self._incoming]
        self._view = memoryview(self._incoming)
        self._pace = checks.Pace(checks.MESSAGES_PER_S, checks.MESSAGES_AT_ONCE)
        self._pause_s = 0.0  # until the next message is read
        self._over = False  # end of file, or closed

    def listen(self) -> None:
        """From now on messages are read when they come."""
        if not self._over:
            self._io.loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Nothing more is read."""
        self._over = True
        self._io.loop.remove_reader(self._sock)
        # A lost worker is remembered for a while, by timers and by who asks for its cause: not with its buffer.
        self._incoming = bytearray()
        self._places = [self._incoming]
        self._view = memoryview(self._incoming)

    def _readable(self) -> None:
        for _ in range(READS):
            # Without calls under way nothing more is asked for; what comes all the same wakes us again.
            if not self.read_one():
                return
            if self._pause_s:
                self._slow_down()
                return
            if not self._is_asked():
                return

    def _slow_down(self) -> None:
        """It says more than it is asked: others first."""
        if not self._over:
            self._io.loop.remove_reader(self._sock)
            self._io.loop.call_later(self._pause_s, self.listen)
        self._pause_s = 0.0

    def read_one(self) -> bool:
        """Receives one message; False when there is none now, or never again."""
        try:
            size, ancillary, flags, _ = self._receive()
        except BlockingIOError:
            return False
        except OSError:
            size, ancillary, flags = 0, [], 0
        fds = checks.descriptors(ancillary) if ancillary else []
        try:
            if not size and not fds:
                self._ended()
                return False
            checks.check_message(flags)
            reader = Reader(self._peer, self._view[:size])
            checks.check_descriptors(reader.kind, len(fds))
            self._take(reader, fds)
        except ModelBoxError as error:
            checks.close_apart(fds)
            said = "sent what cannot be taken" if isinstance(error, OutOfMemoryError) else "sent nonsense"
            self._condemn(f"{said}: {error}")
            return False
        except Exception:
            checks.close_apart(fds)
            log.exception("python worker %s: a message failed", self._name, extra=self._about)
            self._condemn("sent what the daemon failed on")
            return False
        for fd in fds:
            os.close(fd)
        if reader.kind not in ASKED:
            self._pause_s = self._pace.take(1 + reader.size // checks.MESSAGE_COST)
        return True

    def _receive(self) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        try:
            return self._sock.recvmsg_into(self._places, protocol.ANCILLARY, checks.RECEIVE_FLAGS)
        except ConnectionResetError:
            # It ended with messages unread, which the kernel tells first; what it had sent is there all the same.
            return self._sock.recvmsg_into(self._places, protocol.ANCILLARY, checks.RECEIVE_FLAGS)

    def _ended(self) -> None:
        """End of file."""
        if not self._over:
            self.close()
            self._on_end()
