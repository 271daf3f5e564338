"""A worker process: runs one Python flow unit and answers the daemon's calls.

Started by the python-master, which forks; run() never returns. Nothing here is trusted by the daemon.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
import sys
import threading
from functools import partial
from typing import Any

from modelbox import buffer as buffer_module
from modelbox import log as unit_log
from modelbox._core import lib
from modelbox._core.memory import Pool
from modelbox.configuration import Configuration
from modelbox.device import Device
from modelbox.errors import ModelBoxError
from modelbox.status import StatusCode
from modelboxd.workers import ends, heart, protocol, threads
from modelboxd.workers.calling import Caller
from modelboxd.workers.external import Externals
from modelboxd.workers.loading import load_unit
from modelboxd.workers.outcome import CallFailed, returned, to_status
from modelboxd.workers.protocol import HEADER, Arenas, Peer, ProtocolError, Reader, Writer, header_only
from modelboxd.workers.sharing import Sharing
from modelboxd.workers.spin import Spin
from modelboxd.workers.trace import describe, tell


def run(sock: socket.socket) -> None:
    """Serves the daemon until it says STOP or goes away; ends the process."""
    code = 1
    threads.limit()
    try:
        worker = Worker(sock)
        os.register_at_fork(after_in_child=worker.became_child)
        code = worker.serve()
    except (BrokenPipeError, ConnectionResetError):
        code = 0  # the daemon went away
    except BaseException as error:
        ends.print_last_words(error)
    finally:
        ends.end_process(code)


class Worker:
    """The process' only object: socket, memory, unit, streams and sessions."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pool = Pool(arena_size=protocol.ARENA_SIZE, max_bytes=protocol.ARENA_BYTES, keep_bytes=64 << 20)
        buffer_module.allow_pickle()
        self.peer = Peer(self.pool, private_maps=True)
        self.writer = Writer(self.peer)
        self.arenas = Arenas(self.peer)
        self.sending = threading.Lock()  # a source unit may send from threads of its own
        self.externals = Externals(self.peer, self.pool, self.send)
        self.sharing = Sharing(self.peer, self.pool)
        self.incoming = bytearray(protocol.MESSAGE_LIMIT + HEADER.size)
        self.places = [self.incoming]
        self.caller = Caller(self.pool, self.writer, self.externals, self.sharing)
        self.spin = Spin(0.0)  # until OPEN says otherwise
        self.idle_s = 0.0  # see trim(); 0: never
        self.may_trim = False  # there was something to do since the last trim(); receive() then waits for idle_s only
        self.enter()

    def enter(self) -> None:
        """Makes this the worker that the SDK's functions of this process belong to."""
        buffer_module.set_default_pool(self.pool)
        unit_log.set_sink(self.send_log)

    # ---- processes that the unit forks -------------------------------------------------------------------

    def became_child(self) -> None:
        """This is a process that the unit has forked: no worker, so it must not speak for one."""
        with contextlib.suppress(OSError):  # the unit has closed it
            self.sock.close()  # of the worker's two, this process' own
        ends.heed()
        self.sending = threading.Lock()  # one that was held would stay so
        self.caller.forked = ends.leave
        unit_log.set_sink(ends.print_log)

    # ---- socket ----------------------------------------------------------------------------------------

    def receive(self) -> Reader | None:
        """The next message; None when the daemon is gone."""
        take = partial(self.sock.recvmsg_into, self.places, protocol.ANCILLARY)
        try:
            size, ancillary, _, _ = self.spin.receive(take)
        except BlockingIOError:  # nothing for idle_s
            self.trim()
            size, ancillary, _, _ = take()
        if not self.may_trim and self.idle_s:
            self.may_trim = True
            self.limit_wait(self.idle_s)
        if not size:
            return None
        reader = Reader(self.peer, memoryview(self.incoming)[:size])
        if ancillary and reader.kind == protocol.PULSE:
            heart.start(socket.socket(fileno=_descriptors(ancillary)[0]), lambda: self.caller.begun)
        elif ancillary:
            self._map_arena(reader, ancillary)
        return reader

    def _map_arena(self, reader: Reader, ancillary: list[tuple[int, int, bytes]]) -> None:
        fds = _descriptors(ancillary)
        number, _ = reader.unpack(protocol.ARENA_BODY)
        self.peer.map(number, fds[0])
        for fd in fds:
            os.close(fd)

    def limit_wait(self, seconds: float) -> None:
        """How long receive() waits for a message; 0 = for ever. The kernel counts, so it costs nothing per message."""
        whole = int(seconds)
        limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def trim(self) -> None:
        """There was nothing to do for a while after work: gives memory back that is kept for more work, once."""
        self.may_trim = False
        self.limit_wait(0.0)
        self.pool.trim()
        lib.mb_trim_malloc()
        with self.sending:
            self._send_news()

    def send(self, message: bytes) -> None:
        with self.sending:
            self._send_news()
            self.sock.send(message)

    def _send_news(self) -> None:
        for news, fd in self.arenas.news():
            if fd is None:
                self.sock.send(news)
            else:
                socket.send_fds(self.sock, [news], [fd])

    def send_log(self, level: int, file: str, line: int, text: str) -> None:
        body = f"{file}\0{text}".encode("utf-8", "replace")[:32768]
        self.sock.send(header_only(protocol.LOG, protocol.LOG_BODY.pack(level, line) + body))

    # ---- life --------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """The main loop; returns the exit code."""
        code = None
        while code is None:
            code = self.serve_one()
        return code

    def serve_one(self) -> int | None:
        """Waits for a message and does what it says; the exit code when that was the last one."""
        reader = self.receive()
        if reader is None:
            return 0
        if reader.kind == protocol.CALLS:
            self.answer(reader)
        elif reader.kind == protocol.RELEASE:
            reader.release()
        elif reader.kind == protocol.GONE:
            self.peer.unmap(reader.words("I"))
        elif reader.kind == protocol.SESSIONS:
            self.forget(set(reader.words("Q")))
        elif reader.kind == protocol.VALUES:
            self.sharing.receive(reader, self.caller.sessions)
        elif reader.kind == protocol.OPEN:
            if not self.open(json.loads(reader.rest())):
                return 3
        elif reader.kind == protocol.STOP:
            self.close()
            return 0
        return None

    def open(self, order: dict[str, Any]) -> bool:
        """Imports the unit, makes it, opens it; tells the daemon how it went."""
        caller = self.caller
        caller.prepare(order)
        self.idle_s = order["idle_s"]
        self.spin = Spin(order["spin_us"] / 1e6)
        try:
            # Python tells a file that was changed twice within a second by its size alone.
            sys.dont_write_bytecode = sys.dont_write_bytecode or order["reload"]
            unit = load_unit(order["toml"], order["entry"])
            if order["trial"]:
                self.sock.send(header_only(protocol.READY))
                return True
            caller.use(unit)
            # Whatever its number among those of the server, it is the only one that this process sees.
            unit._device = Device(order["device"], "0")
            unit._external_data = self.externals.open if order["role"] == "source" else None
            self.externals.limit(*order["room"])
            result = unit.open(Configuration(order["config"]))
            caller.use(unit)  # open() may have set data_pre() or data_post()
            status = to_status(result, f"open() of {order['entry']}")
            if not status:
                raise CallFailed(status.code(), returned("open", status))
        except BaseException as error:
            if not isinstance(error, CallFailed):
                tell(error)
            text = str(error) if isinstance(error, CallFailed) else describe(error, order["toml"])
            self.sock.send(header_only(protocol.FAILED, text.encode("utf-8", "replace")[:32768]))
            return False
        self.sock.send(header_only(protocol.READY))
        return True

    def forget(self, numbers: set[int]) -> None:
        """Sessions have ended."""
        self.caller.forget(numbers)
        for number in numbers:
            if number & protocol.FAILED_SOURCE:
                self.externals.fail(number & ~protocol.FAILED_SOURCE)

    def close(self) -> None:
        try:
            self.caller.unit.close()
        except BaseException as error:
            unit_log.warn(f"close() failed: {describe(error)}")

    # ---- calls ----------------------------------------------------------------------------------------------

    def answer(self, reader: Reader) -> None:
        """Runs the calls of one message and sends their results as one message."""
        writer = self.writer
        writer.begin()
        try:
            calls = reader.calls()
            calls.reverse()
            self.caller.begin_message()
            while calls:  # nothing holds on to one that was answered
                self.caller.answer(*calls.pop(), reader.count - len(calls) - 1)
            values = self.sharing.message(reader.sequence)
            if values is not None:
                self.send(values)
            message = writer.finish(protocol.RESULTS, reader.sequence, reader.count)
        except ProtocolError:
            raise
        except ModelBoxError as error:
            message = self._refuse(reader, error)
        self.caller.begun = 0.0
        self.send(message)

    def _refuse(self, reader: Reader, error: ModelBoxError) -> bytes:
        """The results cannot be sent: the same answer, which says why, to every call of the message."""
        writer = self.writer
        writer.undo()
        text = str(error).encode("utf-8", "replace")[:1024]
        for _ in range(reader.count):
            writer.result(protocol.ERROR, StatusCode.STATUS_FAULT, text, [], None)
        return writer.finish(protocol.RESULTS, reader.sequence, reader.count)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)
