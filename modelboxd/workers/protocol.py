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
    SESSIONS count x u64 sessions that have ended
    LOG      u32 level | u32 line | file NUL text
    OPEN     JSON (see worker.py); READY and STOP have no body; FAILED has UTF-8 text

A body that is too long for the socket lies in the sender's arena: flag LARGE, and the body of the message is one
encoded buffer. Both ends send ARENA before the first message that needs it. Nothing a worker sends is believed:
Reader and the core check every count and size, and raise ProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, new_error, new_list, raise_error
from modelbox.errors import ModelBoxError

CData = Any

MAGIC = b"MBW1"
HEADER = struct.Struct("<4sBBHIIII")
CALL = struct.Struct("<QQII40s")
RESULT = struct.Struct("<IIII")
PORT = struct.Struct("<II")
BUFFER = struct.Struct("<BBHIIIQQQ")  # struct mb_encoded of csrc/src/peer.c
ARENA_BODY = struct.Struct("<II")
LOG_BODY = struct.Struct("<II")

CALLS, RELEASE, ARENA, GONE, SESSIONS, STOP, OPEN = 1, 2, 3, 4, 5, 6, 7
READY, FAILED, RESULTS, LOG = 16, 17, 18, 19

LARGE = 1  # message flag
BEGIN, END = 1, 2  # call flags
ERROR, KEEPS_SESSION, DATA_PRE = 1, 2, 4  # result flags; DATA_PRE: the error is that of data_pre()
INLINE, LENT = 1, 2  # places of a buffer's data: enum mb_where of core.h

MESSAGE_LIMIT = 64 << 10  # bytes of a message on the socket
BODY_LIMIT = 64 << 20  # bytes of a body in an arena
INLINE_LIMIT = 4096  # payloads up to this many bytes travel inside the message
PORT_LIMIT = 64
ARENA_LIMIT = 1 << 34  # bytes of one arena: no number of them fills the address space
ANCILLARY = 64  # bytes for control data: one descriptor


class ProtocolError(ModelBoxError):
    """The other side sent something that makes no sense."""


@dataclass(slots=True)
class WorkerCall:
    """One process() call for a worker."""

    stream: int  # 0: NORMAL, no stream
    begin: bool  # data_pre() before
    end: bool  # data_post() after
    session: int
    session_id: str
    inputs: list[CData]  # mb_list * per input port
    input_meta: list[bytes]  # stream meta per input port; read when begin
    event: bool = False  # answers the event of its context that waits longest
    cancelled: bool = False  # the session failed: events that wait are dropped


@dataclass(slots=True)
class WorkerResult:
    """What came of one call."""

    outputs: list[CData]  # mb_list * per output port
    error: ModelBoxError | None = None
    output_meta: list[bytes] = field(default_factory=list)
    keeps_session: bool = False
    reason: str = "ProcessError"  # or "DataPreError": the second half of the error code
    more: bool = False  # events wait in the call's context
    skipped: bool = False  # not made, because an event of its context comes first


def _padded(size: int) -> int:
    return (size + 7) & ~7


class Writer:
    """Builds one message in memory that grows; buffers are encoded by the core."""

    __slots__ = ("_capacity", "_error", "_memory", "_peer", "_spans", "_used", "view")

    def __init__(self, peer: CData) -> None:
        self._peer = peer
        self._capacity = MESSAGE_LIMIT
        self._memory = ffi.new("uint8_t[]", self._capacity)
        self.view = memoryview(ffi.buffer(self._memory))
        self._used = ffi.new("uint64_t *")
        self._error = new_error()
        self._spans: list[tuple[int, int]] = []  # where buffers are encoded, and how many

    def reset(self) -> None:
        self._used[0] = HEADER.size
        self._spans.clear()

    def undo(self) -> None:
        """Takes back what a message that cannot be sent has lent, and begins anew."""
        ids: list[int] = []
        for at, count in self._spans:
            for _ in range(count):
                where, _, _, meta, error, _, _, size, number = BUFFER.unpack_from(self.view, at)
                if where == LENT:
                    ids.append(number)
                at += BUFFER.size + meta + _padded(error) + (_padded(size) if where == INLINE else 0)
        if lib.mb_peer_release(self._peer, ffi.new("uint64_t[]", ids), len(ids), self._error) < 0:
            raise_error(self._error)
        self.reset()

    @property
    def size(self) -> int:
        return int(self._used[0])

    def _grow(self, size: int) -> None:
        while self._capacity < size:
            self._capacity *= 2
        larger = ffi.new("uint8_t[]", self._capacity)
        ffi.memmove(larger, self._memory, self._used[0])
        self._memory = larger
        self.view = memoryview(ffi.buffer(larger))

    def room(self, size: int) -> int:
        """Where the next `size` bytes go; they count as written (zeroed)."""
        at = int(self._used[0])
        end = at + _padded(size)
        if end > self._capacity:
            self._grow(end)
        self._used[0] = end
        return at

    def put(self, data: bytes) -> None:
        """Bytes, padded to 8."""
        at = self.room(len(data))
        padded = _padded(len(data))
        self.view[at : at + padded] = data + bytes(padded - len(data))

    def port(self, items: CData, meta: bytes) -> None:
        """One port: its buffers and stream meta."""
        count = items.count
        PORT.pack_into(self.view, self.room(PORT.size), count, len(meta))
        if meta:
            self.put(meta)
        done = 0
        while done < count:
            at = int(self._used[0])
            some = lib.mb_peer_encode(
                self._peer, items, done, count - done, self._memory, self._capacity, self._used, self._error
            )
            if some < 0:
                raise_error(self._error, -some)
            self._spans.append((at, some))
            done += some
            if done < count:
                self._grow(self._capacity * 2)

    def finish(self, kind: int, sequence: int, count: int, released: int, pool: Pool) -> memoryview:
        """The message, ready to be sent; a long body moves into `pool` first. Raises ModelBoxError where it does not
        fit; undo() then frees what it refers to."""
        flags = 0
        size = self.size
        if size > BODY_LIMIT:
            raise ModelBoxError(f"{size} bytes in one message to or from a worker, at most {BODY_LIMIT} are allowed")
        if size > MESSAGE_LIMIT:
            flags = LARGE
            body = pool.copy_of(self.view[HEADER.size : size])
            items = new_list(1)
            lib.mb_list_push(items, lib.mb_buffer_ref(body))
            self.reset()
            if lib.mb_peer_encode(self._peer, items, 0, 1, self._memory, self._capacity, self._used, self._error) != 1:
                raise_error(self._error)
            size = self.size
        HEADER.pack_into(self.view, 0, MAGIC, kind, flags, 0, sequence, count, released, 0)
        message = self.view[:size]
        if self._capacity > 16 * MESSAGE_LIMIT:  # do not keep the memory of one giant message
            self._capacity = MESSAGE_LIMIT
            self._memory = ffi.new("uint8_t[]", self._capacity)
            self.view = memoryview(ffi.buffer(self._memory))
        return message


class Reader:
    """Takes one message apart, checking everything."""

    __slots__ = ("_at", "_cdata", "_data", "_error", "_peer", "_used", "count", "kind", "released", "sequence")

    def __init__(self, peer: CData, data: bytes | bytearray | memoryview) -> None:
        if len(data) < HEADER.size:
            raise ProtocolError(f"a message of {len(data)} bytes")
        magic, self.kind, flags, zero, self.sequence, self.count, self.released, zero2 = HEADER.unpack_from(data)
        if magic != MAGIC or flags & ~LARGE or zero or zero2:
            raise ProtocolError("a message with an unknown header")
        self._peer = peer
        self._error = new_error()
        self._used = ffi.new("uint64_t *")
        self._data: bytes | bytearray | memoryview = data
        self._cdata = ffi.from_buffer(data)
        self._at = HEADER.size
        if flags & LARGE:
            self._fetch_large()

    def _fetch_large(self) -> None:
        items = self._buffers(1)
        buffer = items.items[0]
        size = 0 if buffer == ffi.NULL else lib.mb_buffer_size(buffer)
        if not 0 < size <= BODY_LIMIT:
            raise ProtocolError(f"a body of {size} bytes")
        # A private copy, since the sender could change shared memory while it is read.
        self._data = bytes(ffi.buffer(lib.mb_buffer_data(buffer), size))
        self._cdata = ffi.from_buffer(self._data)
        self._at = 0

    def take(self, size: int) -> int:
        """Where the next `size` bytes (padded to 8) begin."""
        at = self._at
        if size > len(self._data) - at:
            raise ProtocolError("a message that is cut off")
        self._at = min(at + _padded(size), len(self._data))
        return at

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack_from(self._data, self.take(layout.size))

    def raw(self, size: int) -> bytes:
        at = self.take(size)
        return bytes(self._data[at : at + size])

    def rest(self) -> bytes:
        return self.raw(len(self._data) - self._at)

    def _buffers(self, count: int) -> CData:
        items = new_list(min(count, 1024))
        if count:
            self._used[0] = self._at
            if lib.mb_peer_decode(self._peer, self._cdata, len(self._data), self._used, count, items, self._error) < 0:
                raise ProtocolError(ffi.string(self._error.message).decode(errors="replace"))
            self._at = int(self._used[0])
        return items

    def port(self) -> tuple[CData, bytes]:
        """One port: its buffers and stream meta."""
        count, meta_size = self.unpack(PORT)
        meta = b""
        if meta_size:
            meta = self.raw(meta_size)
            if lib.mb_meta_check(ffi.from_buffer(meta), meta_size) < 0:
                raise ProtocolError("damaged stream meta")
        return self._buffers(count), meta

    def ports(self, count: int) -> tuple[list[CData], list[bytes]]:
        if count > PORT_LIMIT:
            raise ProtocolError(f"{count} ports")
        lists: list[CData] = []
        metas: list[bytes] = []
        for _ in range(count):
            items, meta = self.port()
            lists.append(items)
            metas.append(meta)
        return lists, metas

    def release(self) -> None:
        """Takes back what the other side is done with."""
        if not self.released:
            return
        at = self.take(self.released * 8)
        ids = ffi.cast("uint64_t *", self._cdata + at)
        if lib.mb_peer_release(self._peer, ids, self.released, self._error) < 0:
            raise ProtocolError(ffi.string(self._error.message).decode(errors="replace"))

    def words(self, layout: str) -> Sequence[int]:
        """`count` numbers of one kind ("I" or "Q")."""
        size = self.count * struct.calcsize(f"<{layout}")
        return struct.unpack(f"<{self.count}{layout}", self.raw(size))


def header_only(kind: int, body: bytes = b"", *, count: int = 0, released: int = 0) -> bytes:
    """A small message without buffers."""
    return HEADER.pack(MAGIC, kind, 0, 0, 0, count, released, 0) + body


class Done:
    """Lend ids that this side is done with: they go back with the next message. One per peer, under its lock."""

    __slots__ = ("_ids", "_kept", "_peer")

    def __init__(self, peer: CData) -> None:
        self._peer = peer
        self._ids = ffi.new("uint64_t[1024]")
        self._kept = b""

    def take(self) -> bytes:
        """All ids, 8 bytes each; mostly some."""
        ids, self._kept = self._kept, b""
        while True:
            count = lib.mb_peer_take_done(self._peer, self._ids, 1024)
            if count:
                ids += bytes(ffi.buffer(self._ids, count * 8))
            if count < 1024:
                return ids

    def keep(self, ids: bytes) -> None:
        """Their message could not be made: they go with the next one."""
        self._kept += ids


class Arenas:
    """News about arenas that must go out before the next message. One per peer; used under its sender's lock."""

    __slots__ = ("_fds", "_ids", "_peer")

    def __init__(self, peer: CData) -> None:
        self._peer = peer
        self._ids = ffi.new("uint32_t[64]")
        self._fds = ffi.new("int32_t[64]")

    def news(self) -> list[tuple[bytes, int | None]]:
        """ARENA messages with a descriptor that stays ours, and a GONE message; mostly none."""
        ids, fds = self._ids, self._fds
        messages: list[tuple[bytes, int | None]] = []
        while True:
            count = lib.mb_peer_take_fds(self._peer, ids, fds, 64)
            messages += [(header_only(ARENA, ARENA_BODY.pack(ids[at], 0)), fds[at]) for at in range(count)]
            if count < 64:
                break
        count = lib.mb_peer_take_gone(self._peer, ids, 64)
        if count:
            messages.append((header_only(GONE, bytes(ffi.buffer(ids, count * 4)), count=count), None))
        return messages
