"""What the daemon allows a worker beyond what its messages say: descriptors, how often it may speak, what it may hold.

docs/python-workers.md lists all limits. The limits of memory that both ends keep are in protocol.py.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Sequence

from modelboxd.workers import protocol
from modelboxd.workers.protocol import ProtocolError, WorkerCall, WorkerResult

log = logging.getLogger(__name__)

RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC)  # what arrives is not for programs that are started meanwhile
OUTBOX = 1024  # messages that wait until the worker reads
STALL_S = 10.0  # how long a worker without calls may leave them there
MESSAGES_PER_S, MESSAGES_AT_ONCE = 5000, 2000  # other than results and data of sources
MESSAGE_COST = 512  # bytes of a message that count as one more
PRINTED_PER_S, PRINTED_AT_ONCE = 4 << 20, 1 << 20  # bytes of its output, with LINE_COST for each line
LINE_COST = 512
LEAST_PAUSE_S = 0.02
HELD_BYTES = 4 << 30  # inputs of calls it has answered; half of [memory] max where that is less
HELD_BUFFERS = 1 << 20


class Pace:
    """How often something may happen: so much in a second, and so much at once after a silence."""

    __slots__ = ("_at", "_left", "_most", "_per_s")

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = self._left = most
        self._at = time.monotonic()

    def take(self, amount: float) -> float:
        """Counts `amount`; returns the seconds to wait before the next one, mostly 0."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s) - amount
        self._at = now
        return 0.0 if self._left >= 0 else max(-self._left / self._per_s, LEAST_PAUSE_S)


# ---- descriptors ---------------------------------------------------------------------------------------------------


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Those that came with a message; they are the caller's."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return list(fds)


def check_message(flags: int) -> None:
    """The flags that came with a message. Raises ProtocolError."""
    if flags & socket.MSG_TRUNC:
        raise ProtocolError("a message that is too long")
    if flags & socket.MSG_CTRUNC:
        raise ProtocolError("descriptors of which some are lost (too many, or this process can have no more)")


def check_descriptors(kind: int, count: int) -> None:
    """An arena comes with its descriptor, nothing else with any. Raises ProtocolError."""
    if count != (kind == protocol.ARENA):
        raise ProtocolError(f"{count} descriptors with a message of type {kind}")


def close_apart(fds: Sequence[int]) -> None:
    """Closes descriptors of a worker that misbehaves, on a thread of its own: closing what may be a socket with a
    linger time or a file of a slow file system may take long."""

    def close() -> None:
        for fd in fds:
            try:
                os.close(fd)
            except OSError as error:
                log.debug("closing what a worker sent: %s", error)  # it is closed all the same

    if fds:
        try:
            threading.Thread(target=close, name="mb-close", daemon=True).start()
        except RuntimeError:  # there may be no more threads just now: better late than never
            close()


# ---- results -------------------------------------------------------------------------------------------------------


def check_results(calls: Sequence[WorkerCall], results: Sequence[WorkerResult], ports: int) -> None:
    """Whether results fit their calls: as many ports as the unit has outputs, none where there is an error; a call may
    only be skipped because one of the same context before it has left an event. Raises ProtocolError."""
    waiting: set[int] = set()
    for call, result in zip(calls, results, strict=True):
        failed = result.error is not None
        wanted = 0 if failed or result.skipped else ports
        # Behind the error of a stream's last call may stand what data_post() has given.
        if len(result.outputs) != wanted and not (failed and call.end and len(result.outputs) == ports):
            raise ProtocolError(f"a result with {len(result.outputs)} ports instead of {wanted}")
        if result.skipped and call.stream not in waiting:
            raise ProtocolError("a call skipped without reason")
        if result.more:
            waiting.add(call.stream)


class Sources:
    """What a source unit has sent: lists that wait for their call, and sessions that are open."""

    __slots__ = ("_closed", "_failed", "_lists", "_open", "most")

    def __init__(self) -> None:
        self.most = 0  # lists that may wait; 0: any number, the engine drops what is too much
        self._lists = 0  # that wait
        self._open: dict[int, int] = {}  # sessions, and how many lists of each wait
        self._closed: set[int] = set()  # those of them whose end has come
        self._failed: set[int] = set()  # sessions that have failed here; the unit has not closed them

    def arrived(self, result: WorkerResult) -> None:
        """A list, or the end of a session. Raises ProtocolError."""
        number = result.number
        if not result.is_plain() or len(result.outputs) > 1:
            raise ProtocolError("external data with a result")
        if not 0 < number <= protocol.MOST_SESSIONS:
            raise ProtocolError(f"external data for session {number}")
        if not result.outputs:
            self._failed.discard(number)
            if number in self._open:
                self._closed.add(number)
                self._forget(number)
            return
        if number in self._failed:
            return
        self._open[number] = self._open.get(number, 0) + 1
        self._lists += 1
        if 0 < self.most < self._lists:
            raise ProtocolError(f"more than {self.most} lists of external data that wait for their calls")
        if len(self._open) + len(self._failed) > protocol.OPEN_SESSIONS:
            raise ProtocolError(f"more than {protocol.OPEN_SESSIONS} sessions at a time")

    def called(self, calls: Sequence[WorkerCall]) -> None:
        """Calls go out."""
        for call in calls:
            if call.external and call.inputs and self._open.get(call.external):
                self._open[call.external] -= 1
                self._lists -= 1
                self._forget(call.external)

    def failed(self, number: int) -> None:
        """A session has failed here: what waits for it was dropped, and so is what is on its way."""
        if number in self._open:
            self._lists -= self._open.pop(number)
            if number not in self._closed:
                self._failed.add(number)
            self._closed.discard(number)

    def _forget(self, number: int) -> None:
        if number in self._closed and not self._open[number]:
            self._closed.discard(number)
            del self._open[number]


def check_held(lent: tuple[int, int], calls: Iterable[WorkerCall], max_bytes: int) -> None:
    """Whether the worker keeps too much of what it has got, `calls` being those under way. Raises ProtocolError."""
    most = min(HELD_BYTES, max_bytes // 2) if max_bytes else HELD_BYTES
    buffers, size = lent
    if buffers <= HELD_BUFFERS and size <= most:
        return
    for call in calls:
        buffers -= sum(int(items.count) for items in call.inputs)
        size -= sum(int(items.bytes) for items in call.inputs)
    if buffers > HELD_BUFFERS or size > most:
        raise ProtocolError(
            f"{buffers} buffers with {size >> 20} MiB that it does not give back (at most {HELD_BUFFERS} with "
            f"{most >> 20} MiB); does the unit keep its inputs?"
        )
