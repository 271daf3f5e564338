"""The daemon's end of one worker process: sends calls, receives results, notices death.

Thread-safe where it says so; everything else runs on the I/O thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from modelbox import meta
from modelbox._core.memory import Pool, address
from modelbox.errors import ModelBoxError, OutOfMemoryError, TimedOutError, WorkerLostError
from modelboxd.workers import checks, protocol
from modelboxd.workers.health import how_it_ended
from modelboxd.workers.output import Output
from modelboxd.workers.protocol import (
    HEADER,
    Arenas,
    Peer,
    ProtocolError,
    Reader,
    WorkerCall,
    WorkerResult,
    Writer,
    header_only,
)
from modelboxd.workers.watchdog import Watchdog

if TYPE_CHECKING:
    from modelboxd.graph.life import Life
    from modelboxd.loop import IoThread
    from modelboxd.workers.values import SessionValues

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # messages at a worker: one that it runs, one that waits, so that it never idles
READS = 16  # messages taken from one worker before others get their turn
DRAINED = 1024  # messages read after its end, at most: a child of it may hold the socket and go on
EXIT_WAIT_S = 1.0  # how long the master may take to say how a worker ended
SESSIONS_AT_ONCE = 4096  # in one message
IDLE_RELEASE_S = 0.25  # when nothing more is sent, a worker's memory is given back after this time

Answer = Callable[[list[WorkerResult]], None]
Wanted = Callable[[], bool]  # whether anybody waits for a result of the message
# Of a source unit: worker, the unit's number for a session, a core list or None at its end.
External = Callable[["Worker", int, Any], None]
_PYTHON_LEVELS = (logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL)


class Trip:
    """One CALLS message under way."""

    __slots__ = ("calls", "done", "wanted")

    def __init__(self, calls: list[WorkerCall], done: Answer, wanted: Wanted | None) -> None:
        self.calls = calls
        self.done = done
        self.wanted = wanted


class Worker:
    """One worker process of a node."""

    def __init__(self, name: str, number: int, io: IoThread, pool: Pool, life: Life) -> None:
        self.name = name  # "JOB/NODE#N"
        self.number = number
        self.pid = 0
        self.ready = False
        self.alive = True
        self.gone = False  # the process has ended, as far as there was one
        self.failure = ""  # why open failed
        self.cause = ""  # why it is lost
        self.held = 0  # calls when it was lost
        self.clean = False  # it ended by itself, with exit code 0
        self.ending = False  # was told to stop
        self.answered = 0  # calls
        self.streams: dict[int, int] = {}  # that are pinned to it: their sessions
        self.worn_at = 0  # calls after which on_worn is called; 0: never
        self.heir: Worker | None = None  # has taken its place; new work goes there
        self.version = 0  # of its unit's files; see group.py
        self.trial = False  # loads its unit and does nothing more
        self.on_ready: Callable[[Worker], None] = lambda _: None
        self.on_lost: Callable[[Worker, str], None] = lambda _, __: None
        self.on_gone: Callable[[Worker], None] = lambda _: None  # after on_lost
        self.on_answered: Callable[[], None] | None = None
        self.on_worn: Callable[[Worker, str], None] = lambda _, __: None  # should be replaced; may come again
        self.on_room: Callable[[], None] = lambda: None
        self.on_external: External | None = None  # None: no source
        self.on_dropped: Callable[[], None] = lambda: None  # it has given memory back, which others may map still
        self.outputs = 0  # ports
        self.kill_by_master: Callable[[int], None] = lambda _: None
        self._io = io
        self._release_timer: Any = None
        self._watching = False  # _watch() will be called
        self._watch_timer: Any = None
        self._pidfd = -1
        self._innocent = False  # the loss says nothing about the unit
        self._lock = threading.Lock()
        self._trips: dict[int, Trip] = {}  # by sequence, in order
        self._sequence = 0
        self._outbox: deque[tuple[bytes, int | None]] = deque()
        self._verdict = ""  # why we killed it ourselves
        self._ended: list[int] = []  # sessions whose end it has not heard of, while the outbox is not empty
        self._over = False  # end of file
        self._stall_watched = False  # _check_stall() will be called
        self._moved = 0  # messages that have left the outbox
        self._pace = checks.Pace(checks.MESSAGES_PER_S, checks.MESSAGES_AT_ONCE)
        self._pause_s = 0.0  # until the next message is read
        self.sources = checks.Sources()
        self._max_bytes = pool.max_bytes
        self._peer = Peer(pool, private_maps=False)
        self._writer = Writer(self._peer)
        self._arenas = Arenas(self._peer)
        self._incoming = bytearray(protocol.MESSAGE_LIMIT + HEADER.size)
        self._places = [self._incoming]
        self._view = memoryview(self._incoming)
        ours, self.remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sock = ours
        self.output = Output(name, io)
        self.watchdog = Watchdog(name, life, io, self.output.about, self._condemned, self._worn)

    # ---- starting (I/O thread) ---------------------------------------------------------------------------

    def started(self, pid: int, order: bytes, pidfd: int = -1) -> None:
        """The process exists: send it OPEN and listen. `pidfd` tells of its end, and is taken over."""
        self.pid = pid
        self.remote.close()
        self.output.started()
        if pidfd >= 0:
            self._pidfd = pidfd
            self._io.loop.add_reader(pidfd, self._process_ended)
        if not self.alive:  # condemned meanwhile
            self.kill(signal.SIGKILL)
            return
        self._io.loop.add_reader(self._sock, self._readable)
        with self._lock:
            self._send_one(header_only(protocol.PULSE), self.watchdog.remote.fileno())
            self._send(header_only(protocol.OPEN, order))
        self.watchdog.started(pid)

    # ---- calls ------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether one more message may be sent. [any thread]"""
        if self._outbox or self.ending or self.watchdog.stopped:
            return False
        return self.ready and self.alive and len(self._trips) < IN_FLIGHT

    def is_at_work(self) -> bool:
        """Whether it takes work, now or when it is done with what it has, as far as is known without asking. [any
        thread]"""
        watchdog = self.watchdog
        return self.ready and self.alive and not (self.ending or watchdog.stopped or watchdog.is_silent)

    def outstanding(self) -> int:
        """Calls at this worker now. [any thread]"""
        return sum(len(trip.calls) for trip in list(self._trips.values()))

    def load(self) -> int:
        """What it has to do, and what may come: calls, and streams that are pinned to it. [any thread]"""
        return self.outstanding() + len(self.streams)

    def submit(self, calls: list[WorkerCall], done: Answer, wanted: Wanted | None = None) -> None:
        """Sends one message; `done(results)` is called exactly once, in the order of `calls`: on the I/O thread,
        or on this one when the worker is gone already or the calls cannot be sent. [any thread]"""
        trip = Trip(calls, done, wanted)
        failure: ModelBoxError | None = None
        heir: Worker | None = None
        with self._lock:
            if self.heir is not None and (self.ending or not self.alive) and not self._are_pinned(calls):
                heir = self.heir  # picked before it was told to stop
            elif not self.alive:
                failure = WorkerLostError(self._why_gone(calls))
            else:
                self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
                try:
                    message = self._encode(sequence, calls)
                except ModelBoxError as error:
                    failure = error
                else:
                    self._trips[sequence] = trip
                    self.sources.called(calls)
                    if not self._watching:
                        self._watching = True
                        self._io.call(self._watch)
                    for call in calls:
                        if call.stream and call.begin:
                            self.streams[call.stream] = call.session
                    self._send(message)
        if heir is not None:
            heir.submit(calls, done, wanted)
        elif failure is not None:
            done([WorkerResult([], failure) for _ in calls])

    def _are_pinned(self, calls: list[WorkerCall]) -> bool:
        return any(call.stream and not call.begin for call in calls)

    def _why_gone(self, calls: list[WorkerCall]) -> str:
        text = self.cause or f"python worker {self.name} is gone"
        return f"{text}; the stream's state was lost with it" if self._are_pinned(calls) else text

    def _encode(self, sequence: int, calls: list[WorkerCall]) -> bytes:
        """The message of these calls. Raises ModelBoxError; nothing is lent then."""
        writer = self._writer
        writer.begin()
        try:
            for call in calls:
                places = [address(items) for items in call.inputs]
                writer.call(call.stream, call.session, call.flags, call.session_id, places, call.input_meta or None)
            return writer.finish(protocol.CALLS, sequence, len(calls))
        except ModelBoxError:
            writer.undo()
            raise

    def share(self, values: Iterable[SessionValues]) -> None:
        """Sends what this worker has not seen of the values of sessions. Raises ModelBoxError. [any thread]"""
        with self._lock:
            if not self.alive:
                return
            told = []
            writer = self._writer
            writer.begin()
            try:
                for one in values:
                    told.append(one)
                    news = one.news(self)
                    if news is None:
                        told.pop()
                        continue
                    number, items = news
                    self._put_news(one, number, items)
                if told:
                    self._send(writer.finish(protocol.VALUES, 0, len(told)))
            except ModelBoxError:
                writer.undo()
                for one in told:
                    one.unseen(self)
                raise

    def _put_news(self, values: SessionValues, number: int, items: Any) -> None:
        """`items` is an argument so that the list outlives the call: see modelboxd/compiled.py."""
        self._writer.call(number, values.session, 0, values.session_id, [address(items)], None)

    def end_sessions(self, numbers: list[int]) -> None:
        """Tells the worker that sessions have ended. [any thread]"""
        with self._lock:
            for stream in [stream for stream, session in self.streams.items() if session in numbers]:
                del self.streams[stream]
            if self.alive:
                self._ended += numbers
                for number in numbers:
                    if number & protocol.FAILED_SOURCE:
                        self.sources.failed(number & ~protocol.FAILED_SOURCE)
                if not self._outbox:
                    self._send_ended()
        if self.heir is not None:  # it may have been waiting for the end of these
            self._io.call(self.on_room)

    def stop(self) -> None:
        """Asks the process to close its unit and exit. [any thread]"""
        with self._lock:
            self.ending = True
            if self.alive:
                self._send(header_only(protocol.STOP))

    def kill(self, number: int) -> None:
        """Sends a signal to the process. [any thread]"""
        if self._pidfd < 0:
            self.kill_by_master(number)
            return
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            signal.pidfd_send_signal(self._pidfd, number)

    def is_drained(self) -> bool:
        """Whether it has nothing to do, now or later. [any thread]"""
        return not self._trips and not self.streams

    # ---- sending (lock held) -------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        self._send_news()
        self._send_one(message, None)

    def _send_news(self) -> None:
        for news, fd in self._arenas.news():
            self._send_one(news, fd)

    def _send_ended(self) -> None:
        while self._ended and not self._outbox:
            numbers, self._ended = self._ended[:SESSIONS_AT_ONCE], self._ended[SESSIONS_AT_ONCE:]
            body = b"".join(number.to_bytes(8, "little") for number in numbers)
            self._send(header_only(protocol.SESSIONS, body, count=len(numbers)))

    def _send_one(self, message: bytes, fd: int | None) -> None:
        if not self._outbox and self._try_send(message, fd):
            return
        if len(self._outbox) == checks.OUTBOX:
            self._io.call(self.condemn, "does not read its messages")
            return
        try:
            # The arena's descriptor may be closed before the socket takes the message: keep one of our own.
            self._outbox.append((message, None if fd is None else os.dup(fd)))
        except OSError as error:
            self._io.call(self.condemn, f"cannot be sent memory ({error})")
            return
        self._io.call(self._watch_writable)

    def _try_send(self, message: bytes, fd: int | None) -> bool:
        try:
            if fd is None:
                self._sock.send(message)
            else:
                socket.send_fds(self._sock, [message], [fd])
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("python worker %s: cannot send: %s", self.name, error)  # its end is noticed by the reader
        return True

    def _watch_writable(self) -> None:
        if self.alive:
            self._io.loop.add_writer(self._sock, self._writable)
            if not self._stall_watched:
                self._stall_watched = True
                self._io.loop.call_later(checks.STALL_S, self._check_stall, self._moved)

    def _writable(self) -> None:
        with self._lock:
            while self._outbox:
                message, fd = self._outbox[0]
                if not self._try_send(message, fd):
                    return
                self._outbox.popleft()
                self._moved += 1
                if fd is not None:
                    os.close(fd)
            self._send_ended()
            if self._outbox:
                return
        self._io.loop.remove_writer(self._sock)
        self.on_room()

    def _check_stall(self, moved: int) -> None:
        """A worker that makes a call need not read; without one it has nothing else to do."""
        with self._lock:
            unsent = sum(message[4] == protocol.CALLS for message, _ in self._outbox)
            stalls = bool(self._outbox) and moved == self._moved and unsent == len(self._trips)
        self._stall_watched = bool(self._outbox) and self.alive and not stalls
        if self._stall_watched:
            self._io.loop.call_later(checks.STALL_S, self._check_stall, self._moved)
        if stalls:
            self.condemn(f"has not read its messages for {checks.STALL_S:g} s")

    # ---- receiving (I/O thread) --------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(READS):
            # Without calls under way nothing more is asked for; what comes all the same wakes us again.
            if not self._read_one():
                return
            if self._pause_s:
                self._slow_down()
                return
            if not self._trips:
                return

    def _slow_down(self) -> None:
        """It says more than it is asked: others first."""
        if self.alive and not self._over:
            self._io.loop.remove_reader(self._sock)
            self._io.loop.call_later(self._pause_s, self._listen)
        self._pause_s = 0.0

    def _listen(self) -> None:
        if self.alive and not self._over:
            self._io.loop.add_reader(self._sock, self._readable)

    def _read_one(self) -> bool:
        """Receives one message; False when there is none now, or never again."""
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into(self._places, protocol.ANCILLARY, checks.RECEIVE_FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            size, ancillary, flags = 0, [], 0
        fds = checks.descriptors(ancillary) if ancillary else []
        try:
            if not size and not fds:
                self._closed()
                return False
            checks.check_message(flags)
            reader = Reader(self._peer, self._view[:size])
            checks.check_descriptors(reader.kind, len(fds))
            self._dispatch(reader, fds)
        except ModelBoxError as error:
            checks.close_apart(fds)
            said = "sent what cannot be taken" if isinstance(error, OutOfMemoryError) else "sent nonsense"
            self.condemn(f"{said}: {error}")
            return False
        except Exception:
            checks.close_apart(fds)
            log.exception("python worker %s: a message failed", self.name, extra=self.output.about)
            self.condemn("sent what the daemon failed on")
            return False
        for fd in fds:
            os.close(fd)
        if reader.kind not in (protocol.RESULTS, protocol.EXTERNAL):
            self._pause_s = self._pace.take(1 + size // checks.MESSAGE_COST)
        return True

    def _dispatch(self, reader: Reader, fds: list[int]) -> None:
        kind = reader.kind
        if kind == protocol.RESULTS:
            self._results(reader)
        elif kind == protocol.LOG:
            self._log(reader)
        elif kind == protocol.RELEASE:
            reader.release()
        elif kind == protocol.ARENA:
            number, _ = reader.unpack(protocol.ARENA_BODY)
            reader.end()
            self._peer.map(number, fds[0])
        elif kind == protocol.GONE:
            numbers = reader.words("I")
            reader.end()
            self._peer.unmap(numbers)
            self.on_dropped()
        elif kind == protocol.EXTERNAL and self.on_external is not None:
            if reader.count != 1:
                raise ProtocolError("external data of several sessions")
            (result,) = reader.results()
            self.sources.arrived(result)
            self.on_external(self, result.number, result.outputs[0] if result.outputs else None)
        elif kind == protocol.VALUES:
            self._values(reader)
        elif kind == protocol.READY and not self.ready:
            reader.end()
            self.ready = True
            self.on_ready(self)
            self.on_room()
        elif kind == protocol.FAILED and not self.ready and not self.failure:
            self.failure = reader.rest().decode(errors="replace").replace("\n", " ") or "it does not say why"
        else:
            raise ProtocolError(f"a message of type {kind}" + (" again" if self.ready or self.failure else ""))

    def _log(self, reader: Reader) -> None:
        level, line = reader.unpack(protocol.LOG_BODY)
        file, _, text = reader.rest().decode(errors="replace").partition("\0")
        self.output.unit_log(_PYTHON_LEVELS[min(level, 5)], file, line, text)

    def _results(self, reader: Reader) -> None:
        trip = self._trips.get(reader.sequence)
        if trip is None or reader.count != len(trip.calls):
            raise ProtocolError("results that nobody asked for")
        results = reader.results()
        checks.check_results(trip.calls, results, self.outputs)
        with self._lock:
            self._trips.pop(reader.sequence, None)
            if self.streams:
                for call, result in zip(trip.calls, results, strict=True):
                    if call.end and not result.more:
                        self.streams.pop(call.stream, None)
        self.answered += len(results)
        trip.done(results)
        del results, trip
        if self.on_answered is not None:
            self.on_answered()
        if self.worn_at and self.answered >= self.worn_at:
            self._worn(f"has answered {self.answered} calls (max_requests)")
        if self._release_timer is None:
            self._release_timer = self._io.loop.call_later(IDLE_RELEASE_S, self._release_idle)
        self.on_room()

    def _values(self, reader: Reader) -> None:
        """Calls have set values of their sessions."""
        trip = self._trips.get(reader.sequence)
        if trip is None:
            raise ProtocolError("values that belong to no calls")
        for result in reader.results():
            if result.number >= len(trip.calls) or len(result.outputs) != 1 or not result.output_meta:
                raise ProtocolError("values that belong to no call")
            writes = meta.decode(result.output_meta[0]).get("writes")
            if not isinstance(writes, int):
                raise ProtocolError("values without their number")
            owner = trip.calls[result.number].owner
            if owner is not None:
                owner.take_values(self, writes, result.outputs[0])

    def _release_idle(self) -> None:
        """Gives memory back that no message has taken along."""
        self._release_timer = None
        with self._lock:
            calls = [call for trip in self._trips.values() for call in trip.calls]
        try:
            checks.check_held(self._peer.lent(), calls, self._max_bytes)
        except ProtocolError as error:
            self.condemn(f"holds {error};")
        with self._lock:
            if not self.alive or self._trips or self._outbox:
                return
            message = self._writer.release()
            if message is not None:
                self._send(message)
            else:
                self._send_news()

    def forget_gone(self) -> None:
        """Memory of others that it has seen may be gone: it should not hold on to that."""
        with self._lock:
            if self.alive and not self._outbox:
                self._send_news()

    # ---- watching (I/O thread) --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Looks after it while it has work, and once when it has none any more."""
        with self._lock:
            oldest, trip = next(iter(self._trips.items()), (0, None))
            self._watching = trip is not None and self.alive
        if not self.alive:
            return
        calls = len(trip.calls) if trip is not None else 0
        wanted = trip is None or trip.wanted is None or trip.wanted()
        del trip
        self.watchdog.look(oldest, calls, wanted)
        if self._watching and self.alive:
            self._watch_timer = self._io.loop.call_later(self.watchdog.period_s, self._watch)

    def _condemned(self, verdict: str, timed_out: bool) -> None:
        self.condemn(verdict, timed_out=timed_out)

    def _worn(self, reason: str) -> None:
        self.on_worn(self, reason)

    # ---- the end (I/O thread) ------------------------------------------------------------------------------------

    def condemn(self, verdict: str, *, timed_out: bool = False) -> None:
        """The worker misbehaves: kill it, and answer for it."""
        if not self.alive:
            return
        self._verdict = verdict
        self.kill(signal.SIGKILL)
        self._lost(f"python worker {self.name} (pid {self.pid}) {verdict} and was killed", timed_out=timed_out)

    def exited(self, code: int, number: int) -> None:
        """The master says how the process ended, and that nothing is left of it."""
        if self.alive:
            # What it sent before its end still counts.
            for _ in range(DRAINED):
                if not self.alive or not self._read_one():
                    break
            self.clean = not code and not number
            self._lost(f"python worker {self.name} (pid {self.pid}) {how_it_ended(code, number)}")
        self._went()

    def orphaned(self) -> None:
        """The python-master has died, which takes its workers along."""
        self._innocent = True
        self.kill(signal.SIGKILL)
        self._lost(f"python worker {self.name} (pid {self.pid}) died with the python-master")
        if self._pidfd < 0:
            self._went()

    def abandon(self, reason: str) -> None:
        """There will be no process for it."""
        self._innocent = True
        self._lost(f"python worker {self.name}: {reason}")
        self._went()

    @property
    def innocent(self) -> bool:
        """Whether the loss says nothing about the unit."""
        return self._innocent

    def _process_ended(self) -> None:
        """The process has ended; the master will say more in a moment."""
        self._io.loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # ours only where the master has died and we stand in for init
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if self.alive:
            self._io.loop.call_later(EXIT_WAIT_S, self._ended_unsaid)
        else:
            self._went()

    def _ended_unsaid(self) -> None:
        self._lost(f"python worker {self.name} (pid {self.pid}) ended")
        self._went()

    def _went(self) -> None:
        """Nothing is left of the process: its place may be used again."""
        if self.gone:
            return
        self.gone = True
        if self._pidfd >= 0:
            pidfd, self._pidfd = self._pidfd, -1
            self._io.loop.remove_reader(pidfd)
            os.close(pidfd)
        self.on_gone(self)

    def _closed(self) -> None:
        """End of file: the master will say more in a moment, unless the process lives on."""
        if not self._over:
            self._over = True
            self._io.loop.remove_reader(self._sock)
            self._io.loop.call_later(EXIT_WAIT_S, self.condemn, "closed its connection")

    def _lost(self, reason: str, *, timed_out: bool = False) -> None:
        with self._lock:
            if not self.alive:
                return
            self.alive = False
            trips, self._trips = list(self._trips.values()), {}
            outbox, self._outbox = self._outbox, deque()
        for _, fd in outbox:
            if fd is not None:
                os.close(fd)
        for timer in (self._release_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._release_timer = self._watch_timer = None
        self.watchdog.close()
        self.held = held = sum(len(trip.calls) for trip in trips)
        self._io.loop.remove_reader(self._sock)
        self._io.loop.remove_writer(self._sock)
        if self._verdict:
            checks.close_apart([self._sock.detach()])  # descriptors may wait in it
        else:
            self._sock.close()
        with contextlib.suppress(OSError):
            self.remote.close()
        self.output.ended()
        self._peer.close()
        text = f"{reason} while it held {held} call{'s' if held != 1 else ''}" if held else reason
        words = "" if timed_out or self.ending else self.output.last_words()
        if words:
            text += f"; its last words: {words}"
        self.cause = text
        self.on_lost(self, text)
        for trip in trips:
            error: ModelBoxError = TimedOutError(text) if timed_out else WorkerLostError(text)
            trip.done([WorkerResult([], error) for _ in trip.calls])
        self.on_room()
