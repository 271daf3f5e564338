"""A worker that speaks the protocol wrongly on purpose. It opens well, waits for a call, and attacks."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any

from modelbox import meta
from modelboxd.workers import protocol
from modelboxd.workers.protocol import HEADER, MAGIC, header_only

BUFFER = struct.Struct("<BBHIIIQQQ")  # where, kind, born, meta, error, arena, offset, size, id
RESULT = struct.Struct("<IIII")  # flags, ports, status, text
PORT = struct.Struct("<II")  # buffers, meta
NONE, INLINE, LENT, BACK, HOLE = range(5)
SEALS = 0x1 | 0x2 | 0x4 | 0x10  # seal, shrink, grow, future write
MOST = (1 << 32) - 1
FAR = (1 << 64) - 64


def memfd(size: int, seals: int = SEALS, flags: int = 0) -> int:
    """A memfd as an arena is, or nearly."""
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, 1033, seals)
    return fd


def encoded(where: int, arena: int = 0, offset: int = 0, size: int = 0, number: int = 0, meta: int = 0) -> bytes:
    return BUFFER.pack(where, 0, 0, meta, 0, arena, offset, size, number)


def entry(key: bytes, value: int) -> bytes:
    """A whole number in a meta block."""
    return struct.pack("<BBHI", 1, len(key), 0, 8) + key.ljust(8, b"\0") + value.to_bytes(8, "little")


class Hostile:
    """One process."""

    def __init__(self, sock: socket.socket, order: dict[str, Any]) -> None:
        self.sock = sock
        self.order = order
        self.sequence = 0
        self.lent: list[int] = []  # ids of the last call's buffers

    def run(self) -> None:
        """Never returns."""
        try:
            self.say(header_only(protocol.READY))
            ATTACKS[self.order["config"]["attack"]][0](self)
            while True:
                signal.pause()
        except BaseException as error:
            print(f"the attack failed: {error!r}", file=sys.stderr)
        finally:
            os._exit(1)

    def say(self, message: bytes, fds: list[int] | None = None) -> None:
        if fds is None:
            self.sock.send(message)
        else:
            socket.send_fds(self.sock, [message], fds)

    def receive(self) -> tuple[int, bytes]:
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 17, 4)
        for fd in fds:
            os.close(fd)
        if not data or data[4] == protocol.STOP:
            os._exit(0)
        self.sequence = struct.unpack_from("<I", data, 8)[0]
        return data[4], data

    def call(self) -> None:
        """Waits for a call of one port and notes what it lends."""
        while True:
            kind, data = self.receive()
            if kind == protocol.CALLS:
                break
        at = HEADER.size + 64 + PORT.size
        buffers, meta = PORT.unpack_from(data, HEADER.size + 64)
        at += meta
        self.lent = []
        for _ in range(buffers):
            where, _, _, meta, error, _, _, size, number = BUFFER.unpack_from(data, at)
            at += BUFFER.size + meta + -(-error // 8) * 8 + (-(-size // 8) * 8 if where == INLINE else 0)
            if where == LENT:
                self.lent.append(number)

    def send(self, kind: int, body: bytes = b"", *, count: int = 1, released: int = 0, flags: int = 0) -> None:
        self.say(HEADER.pack(MAGIC, kind, flags, 0, self.sequence, count, released, 0) + body)

    def result(self, buffers: bytes, count: int = 1, *, released: tuple[int, ...] = ()) -> None:
        """RESULTS of one call with one port."""
        ids = b"".join(number.to_bytes(8, "little") for number in released)
        body = RESULT.pack(0, 1, 0, 0) + PORT.pack(count, 0) + buffers + ids
        self.send(protocol.RESULTS, body, released=len(released))

    def good(self) -> None:
        self.result(encoded(NONE), released=tuple(self.lent))

    def arena(self, fd: int, number: int = 7) -> None:
        self.say(header_only(protocol.ARENA, protocol.ARENA_BODY.pack(number, 0)), [fd])
        os.close(fd)


Attack = Callable[[Hostile], object]


def called(attack: Attack) -> Attack:
    """The attack answers a call."""

    def run(self: Hostile) -> None:
        self.call()
        attack(self)

    return run


def result(buffers: bytes, count: int = 1) -> Attack:
    return called(lambda self: self.result(buffers, count))


def raw(body: bytes, **header: int) -> Attack:
    return called(lambda self: self.send(protocol.RESULTS, body, **header))


def message(data: bytes) -> Attack:
    return called(lambda self: self.say(data))


def offers(make: Callable[[], int]) -> Attack:
    return called(lambda self: self.arena(make()))


def in_arena(offset: int, size: int) -> Attack:
    """A result that lies there in an arena of 64 KiB."""

    def run(self: Hostile) -> None:
        self.arena(memfd(1 << 16))
        self.result(encoded(LENT, 7, offset, size, 1))

    return called(run)


def fds_with(kind: int, count: int) -> Attack:
    def run(self: Hostile) -> None:
        read, _ = os.pipe()
        self.say(HEADER.pack(MAGIC, kind, 0, 0, self.sequence, 0, 0, 0) + bytes(8), [read] * count)

    return called(run)


def meta_of(block: bytes) -> Attack:
    return result(encoded(NONE, meta=len(block)) + block)


def arenas(size: int) -> Attack:
    """Offers arenas without end, and no list of them: each is kept by a buffer when its number is given up."""

    def run(self: Hostile) -> None:
        for number in range(1 << 20):
            self.arena(memfd(size), number)

    return called(run)


def external(body: bytes, count: int = 1) -> Attack:
    return called(lambda self: self.send(protocol.EXTERNAL, body, count=count))


def sources(self: Hostile) -> None:
    for number in range(1, 10_000):
        self.send(protocol.EXTERNAL, RESULT.pack(0, 1, number, 0) + PORT.pack(1, 0) + encoded(NONE))


def value(**about: Any) -> bytes:
    """A session's value without data; `about`: of its meta, where it is not as it should be."""
    block = meta.encode({"key": "k", "config": False, "node": "n"} | about)
    return encoded(NONE, meta=len(block)) + block


def values(*buffers: bytes, call: int = 0, writes: Any = 1, flags: int = 0, block: bytes | None = None) -> bytes:
    """The values of one call."""
    stream = meta.encode({"writes": writes}) if block is None else block
    return RESULT.pack(flags, 1, call, 0) + PORT.pack(len(buffers), len(stream)) + stream + b"".join(buffers)


def sets(body: bytes, count: int = 1) -> Attack:
    return called(lambda self: self.send(protocol.VALUES, body, count=count))


def values_twice(self: Hostile) -> None:
    for _ in range(2):
        self.send(protocol.VALUES, values(value()))


def floods_values(self: Hostile) -> None:
    """Each call sets values that no other has set."""
    number = 0
    while True:
        self.call()
        number += 300
        items = [value(key=f"{number + at}", node="n" * 100) for at in range(300)]
        self.send(protocol.VALUES, values(*items, writes=number))
        self.good()


def pipe_end() -> int:
    return os.pipe()[0]


def replayed(self: Hostile) -> None:
    self.good()
    self.good()


def release_twice(self: Hostile) -> None:
    ids = b"".join(number.to_bytes(8, "little") for number in self.lent)
    for _ in range(2):
        self.send(protocol.RELEASE, ids, count=0, released=len(self.lent))


def back_after_release(self: Hostile) -> None:
    ids = b"".join(number.to_bytes(8, "little") for number in self.lent)
    self.send(protocol.RELEASE, ids, count=0, released=len(self.lent))
    self.result(encoded(BACK, size=10, number=self.lent[0]))


def next_generation(self: Hostile) -> None:
    self.result(encoded(BACK, size=10, number=self.lent[0] + (1 << 32)))


def never_reads(self: Hostile) -> None:
    """Answers calls that it has not read: one can see how much waits, and their sequence can be guessed."""
    self.call()
    self.good()
    self.lent = []
    seen = 0
    while True:
        waiting = struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4)))[0]
        if waiting >= seen + HEADER.size + 64 + BUFFER.size:  # no other message is that long
            seen = waiting
            self.sequence += 1
            self.good()


def flood(data: bytes) -> Attack:
    def run(self: Hostile) -> None:
        self.call()
        self.good()

        def speak() -> None:
            while True:
                self.say(data)

        threading.Thread(target=speak, daemon=True).start()
        while True:
            self.call()
            self.good()

    return run


def prints(self: Hostile) -> None:
    self.call()
    self.good()
    text = ("x" * 100 + "\n") * 600

    def speak() -> None:
        while True:
            os.write(2, text.encode())

    threading.Thread(target=speak, daemon=True).start()
    while True:
        self.call()
        self.good()


def keeps(self: Hostile) -> None:
    while True:
        self.call()
        self.result(encoded(NONE))


def hole(self: Hostile) -> None:
    """Tries to take the memory away after the daemon has mapped it."""
    self.call()
    fd = memfd(1 << 16, 0)
    os.write(fd, b"x" * (1 << 16))
    fcntl.fcntl(fd, 1033, SEALS & ~0x10 | 0x10)
    kept = os.dup(fd)
    self.arena(fd)
    for size in (0, 4096, 1 << 20):
        try:
            os.ftruncate(kept, size)
        except PermissionError:
            continue
        raise SystemError("the seal does not hold")
    self.result(encoded(LENT, 7, 0, 1 << 16, 1), released=tuple(self.lent))
    while True:
        self.call()
        self.good()


def children(self: Hostile) -> None:
    """Ends; its child holds the socket and prints on."""
    self.call()
    if os.fork() == 0:
        while True:
            os.write(2, b"still here\n" * 1000)
    os._exit(0)


# name: what it does, and what the daemon must say (None: it may go on, and others must not suffer)
ATTACKS: dict[str, tuple[Attack, str | None]] = {
    "random bytes": (message(bytes(range(256)) * 2), "an unknown header"),
    "four bytes": (message(b"MBW1"), "a message of 4 bytes"),
    "empty message": (message(b""), "closed its connection"),
    "closed socket": (called(lambda self: self.sock.close()), "closed its connection"),
    "shut down": (called(lambda self: self.sock.shutdown(socket.SHUT_WR)), "closed its connection"),
    "too long": (message(header_only(protocol.LOG, bytes(70_000))), "too long"),
    "header only": (raw(b""), "cut off"),
    "half a message": (raw(RESULT.pack(0, 1, 0, 0) + PORT.pack(1, 0) + encoded(NONE)[:16]), "do not fit|cut off"),
    "bytes after it": (result(encoded(NONE) * 2), "too long for what it says"),
    "unknown type": (called(lambda self: self.send(99)), "a message of type 99"),
    "a call": (called(lambda self: self.send(protocol.CALLS)), "a message of type 1"),
    "ready twice": (called(lambda self: self.send(protocol.READY)), "type 16 again"),
    "failed when ready": (called(lambda self: self.send(protocol.FAILED, b"no")), "type 17 again"),
    "unknown flags of a message": (raw(b"", flags=2), "an unknown header"),
    "large log": (called(lambda self: self.send(protocol.LOG, flags=1)), "a large message of type 19"),
    "large, nowhere": (raw(encoded(LENT, 99, 0, 64, 1), flags=1), "arena 99 is not known"),
    "large, empty": (raw(encoded(NONE), flags=1), "a body of 0 bytes"),
    "large, and more": (raw(encoded(NONE) * 2, flags=1), "a large message that is too long"),
    "never asked for": (called(lambda self: setattr(self, "sequence", 99) or self.good()), "nobody asked for"),
    "answered twice": (called(replayed), "nobody asked for"),
    "too few results": (raw(b"", count=0), "nobody asked for"),
    "too many results": (raw(b"", count=MOST), "nobody asked for"),
    "no ports": (raw(RESULT.pack(0, 0, 0, 0)), "0 ports instead of 1"),
    "two ports": (raw(RESULT.pack(0, 2, 0, 0) + PORT.pack(0, 0) * 2), "2 ports instead of 1"),
    "many ports": (raw(RESULT.pack(0, MOST, 0, 0)), "4294967295 ports"),
    "ports of an error": (raw(RESULT.pack(1, 1, 3, 0) + PORT.pack(0, 0)), "1 ports instead of 0"),
    "unknown flags of a result": (raw(RESULT.pack(1 << 30, 1, 0, 0)), "a result with flags"),
    "skipped": (raw(RESULT.pack(16, 0, 0, 0)), "a call skipped without reason"),
    "text of nothing": (raw(RESULT.pack(0, 1, 0, 8) + bytes(8)), "a text without an error"),
    "endless text": (raw(RESULT.pack(1, 0, 3, MOST)), "a text of 4294967295 bytes"),
    "many buffers": (result(encoded(NONE), MOST), "4294967295 buffers do not fit"),
    "endless stream meta": (raw(RESULT.pack(0, 1, 0, 0) + PORT.pack(0, MOST)), "cut off"),
    "damaged stream meta": (raw(RESULT.pack(0, 1, 0, 0) + PORT.pack(0, 16) + b"\xff" * 16), "damaged stream meta"),
    "endless meta": (result(encoded(NONE, meta=MOST - 7)), "does not fit"),
    "damaged meta": (meta_of(b"\xff" * 24), "damaged meta"),
    "a key twice": (meta_of(entry(b"key", 1) + entry(b"key", 2)), "damaged meta"),
    "many keys": (meta_of(b"".join(entry(b"%d" % (n % 900), n) for n in range(1000))), "damaged meta"),
    "unknown place": (result(encoded(9)), "unknown values"),
    "inline beyond the end": (result(encoded(INLINE, size=1 << 40)), "does not fit"),
    "inline that overflows": (result(encoded(INLINE, size=(1 << 64) - 4)), "does not fit"),
    "unknown arena": (result(encoded(LENT, 99, 0, 64, 1)), "arena 99 is not known"),
    "beyond the arena": (in_arena(1 << 16, 64), "outside arena 7"),
    "across the arena's end": (in_arena((1 << 16) - 64, 65), "outside arena 7"),
    "offset and size overflow": (in_arena(FAR, 128), "outside arena 7"),
    "size overflows": (in_arena(64, (1 << 64) - 1), "outside arena 7"),
    "no size": (in_arena(0, 0), "outside arena 7"),
    "crooked offset": (in_arena(8, 64), "outside arena 7"),
    "back, never lent": (result(encoded(BACK, size=8, number=12345)), "came back that was not lent"),
    "back, after its release": (called(back_after_release), "came back that was not lent"),
    "back, of the future": (called(next_generation), "came back that was not lent"),
    "back, larger": (called(lambda self: self.result(encoded(BACK, size=1 << 40, number=self.lent[0]))), "not lent"),
    "released, never lent": (
        called(lambda self: self.send(protocol.RELEASE, b"\x55" * 8, count=0, released=1)),
        "given back that was not lent",
    ),
    "released twice": (called(release_twice), "given back that was not lent"),
    "many released": (called(lambda self: self.send(protocol.RELEASE, b"", count=0, released=MOST)), "cut off"),
    "arena without descriptor": (
        called(lambda self: self.say(header_only(protocol.ARENA, bytes(8)))),
        "0 descriptors with a message of type 3",
    ),
    "arena cut off": (fds_with(protocol.ARENA, 2), "2 descriptors with a message of type 3"),
    "many descriptors": (fds_with(protocol.ARENA, 250), "250 descriptors with a message of type 3"),
    "results with a descriptor": (fds_with(protocol.RESULTS, 1), "1 descriptors with a message of type 18"),
    "log with descriptors": (fds_with(protocol.LOG, 100), "100 descriptors with a message of type 19"),
    "not sealed": (offers(lambda: memfd(1 << 16, 0)), "not sealed"),
    "may grow": (offers(lambda: memfd(1 << 16, 0x2 | 0x10)), "not sealed"),
    "may be written": (offers(lambda: memfd(1 << 16, 0x2 | 0x4)), "not sealed"),
    "empty arena": (offers(lambda: memfd(0)), "has 0 bytes"),
    "huge arena": (offers(lambda: memfd(1 << 40)), "has 1099511627776 bytes"),
    "huge pages": (offers(lambda: memfd(0, 0x1 | 0x2 | 0x4, os.MFD_HUGETLB)), "no shared memory of ordinary pages"),
    "a pipe": (offers(pipe_end), "no shared memory"),
    "endless zeros": (offers(lambda: os.open("/dev/zero", os.O_RDWR)), "no shared memory"),
    "a file": (offers(lambda: os.open(__file__, os.O_RDONLY)), "no shared memory"),
    "a folder": (offers(lambda: os.open("/", os.O_RDONLY)), "no shared memory"),
    "a socket": (offers(lambda: socket.socket().detach()), "no shared memory"),
    "an arena twice": (called(lambda self: [self.arena(memfd(4096)) for _ in range(2)]), "offered twice"),
    "many arenas": (arenas(4096), "more than 1024 arenas"),
    "large arenas": (arenas(1 << 30), "has 1073741824 bytes, allowed are 1 to 0"),
    "unknown arena gone": (
        called(lambda self: self.say(header_only(protocol.GONE, bytes(4), count=1))),
        "arena 0 is not known",
    ),
    "many arenas gone": (called(lambda self: self.send(protocol.GONE, count=MOST)), "cut off"),
    "external data of no source": (called(lambda self: self.send(protocol.EXTERNAL)), "a message of type 20"),
    "source, no number": (external(RESULT.pack(0, 0, 0, 0)), "external data for session 0"),
    "source, large number": (external(RESULT.pack(0, 0, 1 << 24, 0)), "external data for session 16777216"),
    "source, an error": (external(RESULT.pack(1, 0, 1, 0)), "external data with a result"),
    "source, two ports": (external(RESULT.pack(0, 2, 1, 0) + PORT.pack(0, 0) * 2), "external data with a result"),
    "source, two sessions": (external(RESULT.pack(0, 0, 1, 0) * 2, 2), "external data of several sessions"),
    "source, endless": (called(sources), "more than 4 lists of external data"),
    "values of no calls": (
        called(lambda self: setattr(self, "sequence", 99) or self.send(protocol.VALUES, values(value()))),
        "values that belong to no calls",
    ),
    "values twice": (called(values_twice), "values that belong to no calls"),
    "values of many calls": (sets(b"", MOST), "values of 4294967295 calls instead of 1"),
    "values cut off": (sets(values(value())[:-8]), "does not fit"),
    "values of another call": (sets(values(value(), call=1)), "values that belong to no call"),
    "values of no call": (sets(values(value(), call=MOST)), "values that belong to no call"),
    "values and a result": (sets(values(value(), flags=2)), "values that belong to no call"),
    "values, no port": (sets(RESULT.pack(0, 0, 0, 0)), "values without their number"),
    "values, two ports": (sets(RESULT.pack(0, 2, 0, 0) + PORT.pack(0, 0) * 2), "values without their number"),
    "values, endless": (sets(RESULT.pack(0, 1, 0, 0) + PORT.pack(MOST, 0)), "4294967295 buffers do not fit"),
    "values, no number": (sets(values(value(), block=b"")), "values without their number"),
    "values, write 0": (sets(values(value(), writes=0)), "values without their number"),
    "values, negative write": (sets(values(value(), writes=-1)), "values without their number"),
    "values, huge write": (sets(values(value(), writes=1 << 200)), "values without their number"),
    "values, write in words": (sets(values(value(), writes="1")), "values without their number"),
    "values, damaged write": (
        sets(values(value(), block=struct.pack("<BBHI", 10, 6, 0, 8) + b"writes\0\0" + b"Z" * 8)),
        "a session's value: ",
    ),
    "values, no key": (sets(values(value(key=None))), "a session's value without a key"),
    "values, long key": (sets(values(value(key="k" * 4097))), "a session's value without a key"),
    "values, no kind": (sets(values(value(config=1))), "a session's value without a key"),
    "values, no node": (sets(values(value(node=5))), "a session's value of no node"),
    "values, long node": (sets(values(value(node="n" * 40_000))), "a session's value with 40[0-9]{3} bytes of meta"),
    "keeps all": (keeps, "does the unit keep its inputs"),
    "never reads": (never_reads, "has not read its messages"),
    "silent": (called(lambda self: None), "did not answer within"),
    "stopped": (called(lambda self: os.kill(os.getpid(), signal.SIGSTOP)), "did not answer within"),
    "child goes on": (children, "ended with exit code 0"),
    "floods logs": (flood(header_only(protocol.LOG, protocol.LOG_BODY.pack(2, 1) + b"a.py\0" + b"x" * 200)), None),
    "floods releases": (flood(header_only(protocol.RELEASE)), None),
    "floods values": (floods_values, None),
    "prints": (prints, None),
    "hole": (hole, None),
}
