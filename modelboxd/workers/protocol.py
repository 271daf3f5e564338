"""Messages between the daemon and a worker process, over one SOCK_SEQPACKET socket.

A message is a header and a body; everything is little endian and padded to 8 bytes.

    header   4s magic | u8 type | u8 flags | u16 0 | u32 sequence | u32 count | u32 released | u32 0
    CALLS    count x call,   then released x u64 lend ids that the sender is done with
    RESULTS  count x result, then released x u64
    call     u64 stream | u64 session | u32 flags | u32 ports | 40s session id | ports x port
    result   u32 flags | u32 ports | u32 status | u32 text size | text | ports x port
    port     u32 buffers | u32 meta size | stream meta | buffers as csrc/src/core.h draws them
    RELEASE  released x u64
    ARENA    u32 arena | u32 0, the memfd in the ancillary data
    GONE     count x u32 arenas that the sender has dropped
    SESSIONS count x u64 sessions that have ended; with FAILED_SOURCE: the unit's number of a source's failed session
    VALUES   to a worker: count x call, values of its session that are new to it in one port; `stream` is how many of
             the worker's own writes the daemon has seen. From a worker, before the RESULTS of the same sequence:
             count x result, `status` is the number of a call whose session got the values in its one port; the stream
             meta has "writes". See values.py
    EXTERNAL 1 x result: a list of a source unit for a new session; `status` is the unit's number for the session,
             no ports: its end
    LOG      u32 level | u32 line | file NUL text
    PULSE    before OPEN; the worker's end of the socket for pings (heart.py) in the ancillary data
    OPEN     JSON (see worker.py); READY and STOP have no body; FAILED has UTF-8 text

A body that is too long for the socket lies in the sender's arena: flag LARGE, and the body of the message is one
encoded buffer. Both ends send ARENA before the first message that needs it. Nothing a worker sends is believed:
Reader and the core check every count and size, and raise ProtocolError. CALLS, RESULTS and RELEASE are made and
split by csrc/src/message.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib, objects
from modelbox._core.memory import Pool, address, new_error, new_list, own_list, raise_error
from modelbox.errors import ModelBoxError, OutOfMemoryError, UnitError
from modelbox.status import TEXTS, StatusCode

if TYPE_CHECKING:
    from modelboxd.workers.values import Owner

CData = Any
# (stream, session, flags, session id, Core objects per input port, stream metas per input port or None)
Call = tuple[int, int, int, str, list[list[Any]], "list[bytes] | None"]

MAGIC = b"MBW1"
HEADER = struct.Struct("<4sBBHIIII")
ARENA_BODY = struct.Struct("<II")
LOG_BODY = struct.Struct("<II")

CALLS, RELEASE, ARENA, GONE, SESSIONS, STOP, OPEN, PULSE = 1, 2, 3, 4, 5, 6, 7, 8
READY, FAILED, RESULTS, LOG, EXTERNAL = 16, 17, 18, 19, 20
VALUES = 32

LARGE = 1  # message flag
# Call flags. EVENT: no input, it answers an event; CANCEL: the session failed, events that wait are dropped. The
# upper 24 bits of a source's calls are the unit's number for the session.
BEGIN, END, EVENT, CANCEL = 1, 2, 4, 8
FAILED_SOURCE = 1 << 63
# Result flags. DATA_PRE: the error is that of data_pre(); MORE: events wait in this context; SKIPPED: not made, because
# an event of its context comes first; RULE: the error fails the session; STOPS: the unit wants the job to stop.
ERROR, KEEPS_SESSION, DATA_PRE, MORE, SKIPPED, RULE, STOPS = 1, 2, 4, 8, 16, 32, 64

MESSAGE_LIMIT = 64 << 10  # bytes of a message on the socket
BODY_LIMIT = 64 << 20  # bytes of a body in an arena
INLINE_LIMIT = 4096  # payloads up to this many bytes travel inside the message
# What of a worker's memory may be mapped in the daemon at a time. Its pool keeps to both, so that a unit gets "out of
# memory" and is not taken for a hostile one.
ARENAS = 1024
ARENA_BYTES = 1 << 34
ARENA_SIZE = ARENA_BYTES // ARENAS
ANCILLARY = 1100  # bytes for control data: all descriptors that the kernel allows, so that none is dropped unseen
OPEN_SESSIONS = 1 << 16  # that a source has open
MOST_SESSIONS = (1 << 24) - 1  # numbers for the sessions of a source: a call has 24 bits for it


class ProtocolError(ModelBoxError):
    """The other side sent something that makes no sense."""


class WorkerCall:
    """One process() call for a worker."""

    __slots__ = (
        "begin",
        "cancelled",
        "end",
        "event",
        "external",
        "input_meta",
        "inputs",
        "owner",
        "session",
        "session_id",
        "stream",
    )

    def __init__(
        self,
        stream: int,
        begin: bool,
        end: bool,
        session: int,
        session_id: str,
        inputs: list[CData],
        input_meta: list[bytes],
        external: int = 0,
    ) -> None:
        self.stream = stream  # 0: NORMAL, no stream
        self.begin = begin  # data_pre() before
        self.end = end  # data_post() after
        self.session = session
        self.session_id = session_id
        self.inputs = inputs  # mb_list * per input port
        self.input_meta = input_meta  # stream meta per input port; read when begin
        self.event = False  # answers the event of its context that waits longest
        self.cancelled = False  # the session failed: events that wait are dropped
        self.external = external  # source: the unit's number for the session
        self.owner: Owner | None = None  # the session, which takes the values that the call sets

    @property
    def flags(self) -> int:
        """The flags on the wire."""
        flags = (BEGIN if self.begin else 0) | (END if self.end else 0) | (EVENT if self.event else 0)
        return flags | (CANCEL if self.cancelled else 0) | self.external << 8


class WorkerResult:
    """What came of one call."""

    __slots__ = (
        "error",
        "keeps_session",
        "more",
        "number",
        "output_meta",
        "outputs",
        "reason",
        "rule",
        "skipped",
        "stops",
    )

    def __init__(
        self,
        outputs: list[CData],
        error: ModelBoxError | None = None,
        *,
        more: bool = False,
        skipped: bool = False,
        number: int = 0,
    ) -> None:
        self.outputs = outputs  # mb_list * per output port
        self.error = error
        self.output_meta: list[bytes] = []
        self.keeps_session = False
        self.reason = "ProcessError"  # or "DataPreError": the second half of the error code
        self.more = more  # events wait in the call's context
        self.skipped = skipped  # not made, because an event of its context comes first
        self.rule = False  # the error fails the session
        self.stops = False  # the unit wants the job to stop
        self.number = number  # EXTERNAL: the unit's number for the session; VALUES: of a call

    def is_plain(self) -> bool:
        """Whether it has no flags: so in messages that answer no call."""
        return self.error is None and not (self.keeps_session or self.more or self.skipped or self.rule or self.stops)


class Peer:
    """The core's end of a connection: what is lent to the other side and by it."""

    __slots__ = ("address", "handle", "pool")

    def __init__(self, pool: Pool, *, private_maps: bool) -> None:
        error = new_error()
        peer = lib.mb_peer_new(pool.handle, INLINE_LIMIT, private_maps, error)
        if peer == ffi.NULL:
            raise_error(error)
        self.pool = pool
        self.handle: CData = ffi.gc(peer, lib.mb_peer_free)
        self.address = address(peer)
        if not private_maps:
            lib.mb_peer_limit(peer, ARENAS, ARENA_BYTES)

    def map(self, number: int, fd: int) -> None:
        """Maps an arena of the other side; `fd` stays the caller's. Raises ProtocolError."""
        error = new_error()
        if lib.mb_peer_map(self.handle, number, fd, (1 << 64) - 1, error) < 0:
            raise ProtocolError(ffi.string(error.message).decode(errors="replace"))

    def unmap(self, numbers: Sequence[int]) -> None:
        """Forgets arenas of the other side. Raises ProtocolError."""
        for number in numbers:
            if lib.mb_peer_unmap(self.handle, number) < 0:
                raise ProtocolError(f"arena {number} is not known")

    def close(self) -> None:
        """The other side is gone: takes everything back now, not when the garbage collector comes by."""
        lib.mb_peer_close(self.handle)

    def lent(self) -> tuple[int, int]:
        """Buffers and bytes that the other side has and has not given back."""
        buffers, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.mb_peer_lent(self.handle, buffers, size)
        return int(buffers[0]), int(size[0])

    def mapped(self) -> tuple[int, int]:
        """Arenas and bytes of the other side that are mapped here."""
        arenas, size = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        lib.mb_peer_mapped(self.handle, arenas, size)
        return int(arenas[0]), int(size[0])


class Writer:
    """Makes messages of calls or results; one at a time, for one peer."""

    __slots__ = ("_finish", "_pool", "begin", "call", "result", "undo")

    def __init__(self, peer: Peer) -> None:
        self._pool = peer.pool.address
        made = objects.Writer(peer, peer.address)
        self.begin = made.begin
        self.call = made.call  # (stream, session, flags, session id, addresses of lists, stream metas or None)
        self.result = made.result  # (flags, status, text, lists of Core, stream metas or None)
        self.undo = made.undo  # takes back what a message that cannot be sent has lent
        self._finish = made.finish

    def finish(self, kind: int, sequence: int, count: int) -> bytes:
        """The message; the ids that this side is done with go along. Raises ModelBoxError where it is too long or
        memory is out; undo() then frees what it refers to."""
        message: bytes = self._finish(kind, sequence, count, self._pool, MESSAGE_LIMIT, BODY_LIMIT)[0]
        return message

    def release(self) -> bytes | None:
        """A message that only gives back; None when there is nothing."""
        self.begin()
        message, ids = self._finish(RELEASE, 0, 0, self._pool, MESSAGE_LIMIT, BODY_LIMIT)
        return message if ids else None


class Reader:
    """Takes one message apart, checking everything."""

    __slots__ = ("_at", "_data", "_peer", "count", "kind", "released", "sequence", "size")

    def __init__(self, peer: Peer, data: bytes | bytearray | memoryview) -> None:
        if len(data) < HEADER.size:
            raise ProtocolError(f"a message of {len(data)} bytes")
        magic, self.kind, flags, zero, self.sequence, self.count, self.released, zero2 = HEADER.unpack_from(data)
        if magic != MAGIC or flags & ~LARGE or zero or zero2:
            raise ProtocolError("a message with an unknown header")
        self._peer = peer
        self._data: bytes | bytearray | memoryview = data
        self._at = HEADER.size
        if flags:
            if self.kind not in (CALLS, RESULTS, EXTERNAL, RELEASE, VALUES):
                raise ProtocolError(f"a large message of type {self.kind}")
            self._fetch_large()
        self.size = len(self._data)  # bytes, with a body that lies in an arena

    def _fetch_large(self) -> None:
        items, used, error = new_list(1), ffi.new("uint64_t *", self._at), new_error()
        data = ffi.from_buffer(self._data)
        if lib.mb_peer_decode(self._peer.handle, data, len(self._data), used, 1, items, error) < 0:
            raise ProtocolError(ffi.string(error.message).decode(errors="replace"))
        if used[0] != len(self._data):
            raise ProtocolError("a large message that is too long")
        self._data = _large_body(items)
        self._at = 0

    def _read(self, read: Callable[..., list[Any]], count: int) -> list[Any]:
        try:
            return read(self._peer.address, self._data, self._at, count, self.released)
        except OutOfMemoryError:
            raise  # of this side
        except ModelBoxError as error:
            raise ProtocolError(str(error)) from None

    def calls(self) -> list[Call]:
        """All calls of the message; what comes back to this side is released."""
        return self._read(objects.read_calls, self.count)

    def results(self) -> list[WorkerResult]:
        """All results of the message; what comes back to this side is released."""
        results = []
        # Nothing in this loop may fail: each list has to find its owner.
        for flags, status, text, places, metas in self._read(objects.read_results, self.count):
            result = WorkerResult([own_list(place) for place in places], number=status)
            if flags:
                result.keeps_session = bool(flags & KEEPS_SESSION)
                result.more, result.skipped = bool(flags & MORE), bool(flags & SKIPPED)
                result.rule, result.stops = bool(flags & RULE), bool(flags & STOPS)
                if flags & ERROR:
                    said = text.decode(errors="replace") or TEXTS.get(StatusCode(status % 31), "failed")
                    result.error = UnitError(said)
                    result.reason = "DataPreError" if flags & DATA_PRE else "ProcessError"
            if metas is not None:
                result.output_meta = metas
            results.append(result)
        return results

    def release(self) -> None:
        """Takes back what the other side is done with."""
        if self.count:
            raise ProtocolError("a release with results")
        self._read(objects.read_calls, 0)

    def end(self) -> None:
        """Nothing more may follow. Raises ProtocolError."""
        if self._at != len(self._data) or self.released:
            raise ProtocolError(f"a message of type {self.kind} that is too long")

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next fields."""
        return layout.unpack(self._take(layout.size))

    def rest(self) -> bytes:
        """All that follows."""
        return self._take(len(self._data) - self._at)

    def _take(self, size: int) -> bytes:
        at = self._at
        if size > len(self._data) - at:
            raise ProtocolError("a message that is cut off")
        self._at = at + size
        return bytes(self._data[at : at + size])

    def words(self, layout: str) -> Sequence[int]:
        """`count` numbers of one kind ("I" or "Q")."""
        size = self.count * struct.calcsize(f"<{layout}")
        return struct.unpack(f"<{self.count}{layout}", self._take(size))


def _large_body(items: CData) -> bytes:
    """A private copy of the body that a list refers to, since the sender could change shared memory while it is read.

    `items` is an argument so that it outlives what points into it: see modelboxd/compiled.py.
    """
    buffer = items.items[0]
    size = 0 if buffer == ffi.NULL else lib.mb_buffer_size(buffer)
    if not 0 < size <= BODY_LIMIT:
        raise ProtocolError(f"a body of {size} bytes")
    return bytes(ffi.buffer(lib.mb_buffer_data(buffer), size))


def header_only(kind: int, body: bytes = b"", *, count: int = 0, released: int = 0) -> bytes:
    """A small message without buffers."""
    return HEADER.pack(MAGIC, kind, 0, 0, 0, count, released, 0) + body


class Arenas:
    """News about arenas that must go out before the next message. One per peer; used under its sender's lock."""

    __slots__ = ("_fds", "_ids", "_peer")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._ids = ffi.new("uint32_t[64]")
        self._fds = ffi.new("int32_t[64]")

    def news(self) -> Sequence[tuple[bytes, int | None]]:
        """GONE messages, then ARENA messages with a descriptor that stays ours; mostly none."""
        if not objects.has_news(self._peer.address):
            return ()
        ids, fds, peer = self._ids, self._fds, self._peer.handle
        messages: list[tuple[bytes, int | None]] = []
        # First what is gone: the other side allows only so many.
        while count := lib.mb_peer_take_gone(peer, ids, 64):
            messages.append((header_only(GONE, bytes(ffi.buffer(ids, count * 4)), count=count), None))
        while count := lib.mb_peer_take_fds(peer, ids, fds, 64):
            messages += [(header_only(ARENA, ARENA_BODY.pack(ids[at], 0)), fds[at]) for at in range(count)]
        return messages
