"""The daemon's end of one worker process: sends calls, receives results, notices death.

Thread-safe where it says so; everything else runs on the I/O thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from modelbox._core.memory import Pool
from modelbox.errors import ModelBoxError, TimedOutError, WorkerLostError
from modelboxd.workers import checks, protocol
from modelboxd.workers.encode import encode_calls, encode_news
from modelboxd.workers.health import how_it_ended
from modelboxd.workers.inbox import Inbox
from modelboxd.workers.outbox import Outbox
from modelboxd.workers.output import Output
from modelboxd.workers.pidfd import PidFd
from modelboxd.workers.protocol import Peer, ProtocolError, Reader, WorkerCall, WorkerResult, Writer, header_only
from modelboxd.workers.trips import Answer, Trip, Trips, Wanted
from modelboxd.workers.watchdog import Watchdog

if TYPE_CHECKING:
    from modelboxd.graph.life import Life
    from modelboxd.loop import IoThread
    from modelboxd.workers.values import SessionValues

log = logging.getLogger(__name__)

ROOM_HINT = "is there memory left, and room in TasksMax=, `ulimit -u` and `ulimit -n`?"  # where none can be started
IN_FLIGHT = 2  # messages at a worker: one that it runs, one that waits, so that it never idles
DRAINED = 1024  # messages read after its end, at most: a child of it may hold the socket and go on
EXIT_WAIT_S = 1.0  # how long the master may take to say how a worker ended
IDLE_RELEASE_S = 0.25  # when nothing more is sent, a worker's memory is given back after this time

# Of a source unit: worker, the unit's number for a session, a core list or None at its end.
External = Callable[["Worker", int, Any], None]
_PYTHON_LEVELS = (logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL)


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
        self.worn_at = 0  # calls after which on_worn is called; 0: never
        self.heir: Worker | None = None  # has taken its place; new work goes there
        self.version = 0  # of its unit's files; see succession.py
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
        self._timers: list[asyncio.TimerHandle] = []  # of later()
        self._release_timer: Any = None
        self._watching = False  # _watch() will be called
        self._watch_timer: Any = None
        self._pidfd = PidFd(io, self._process_ended)
        self._ready_at = 0.0
        self._innocent = False  # the loss says nothing about the unit
        self._lock = threading.Lock()
        self._trips = Trips()
        self.streams = self._trips.streams  # that are pinned to it: their sessions
        self._verdict = ""  # why we killed it ourselves
        self._stopped_because = ""  # why it was told to end
        self.sources = checks.Sources()
        self._max_bytes = pool.max_bytes
        self._peer = Peer(pool, private_maps=False)
        self._writer = Writer(self._peer)
        ours, self.remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sock = ours
        self.output = Output(name, io)
        about = self.output.about
        self.inbox = Inbox(
            name, ours, io, self._peer, about, self._dispatch, self._trips.is_asked, self.condemn, self._closed
        )
        self._outbox = Outbox(name, ours, io, self._peer, self._lock, self.condemn, self._trips.count, self._emptied)
        self.watchdog = Watchdog(name, life, io, about, self.condemn, self._worn)

    # ---- starting (I/O thread) ---------------------------------------------------------------------------

    def started(self, pid: int, order: bytes, pidfd: int = -1) -> None:
        """The process exists: send it OPEN and listen. `pidfd` tells of its end, and is taken over."""
        self.pid = pid
        self.remote.close()
        if pidfd >= 0:
            self._pidfd.watch(pidfd)
        if not self.alive:  # condemned meanwhile
            self.kill(signal.SIGKILL)
            return
        self.output.started()
        self.inbox.listen()
        with self._lock:
            self._outbox.send_descriptor(header_only(protocol.PULSE), self.watchdog.remote.fileno())
            self._outbox.send(header_only(protocol.OPEN, order))
        self.watchdog.started(pid)

    # ---- calls ------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether one more message may be sent. [any thread]"""
        if self.ending or self.watchdog.stopped or not self._outbox.is_empty():
            return False
        return self.ready and self.alive and self._trips.count() < IN_FLIGHT

    def is_at_work(self) -> bool:
        """Whether it takes work, now or when it is done with what it has. Asks the kernel where a call takes long. [any
        thread]"""
        watchdog = self.watchdog
        return self.ready and self.alive and not (self.ending or watchdog.stopped or watchdog.is_silent)

    def ready_s(self) -> float:
        """How long it has been ready. I/O thread."""
        return self._io.loop.time() - self._ready_at if self.ready else 0.0

    def outstanding(self) -> int:
        """Calls at this worker now. [any thread]"""
        return self._trips.outstanding()

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
                sequence = self._trips.next_sequence()
                try:
                    message = encode_calls(self._writer, sequence, calls)
                except ModelBoxError as error:
                    failure = error
                else:
                    self._trips.add(sequence, trip)
                    self.sources.called(calls)
                    if not self._watching:
                        self._watching = True
                        self._io.call(self._watch)
                    self._outbox.send(message)
        if heir is not None:
            heir.submit(calls, done, wanted)
        elif failure is not None:
            done([WorkerResult([], failure) for _ in calls])

    def _are_pinned(self, calls: list[WorkerCall]) -> bool:
        return any(call.stream and not call.begin for call in calls)

    def _why_gone(self, calls: list[WorkerCall]) -> str:
        text = self.cause or f"python worker {self.name} is gone"
        return f"{text}; the stream's state was lost with it" if self._are_pinned(calls) else text

    def share(self, values: Iterable[SessionValues]) -> None:
        """Sends what this worker has not seen of the values of sessions. Raises ModelBoxError. [any thread]"""
        with self._lock:
            message = encode_news(self._writer, self, values) if self.alive else None
            if message is not None:
                self._outbox.send(message)

    def end_sessions(self, numbers: list[int]) -> None:
        """Tells the worker that sessions have ended. [any thread]"""
        with self._lock:
            self._trips.forget_sessions(numbers)
            if self.alive:
                for number in numbers:
                    if number & protocol.FAILED_SOURCE:
                        self.sources.failed(number & ~protocol.FAILED_SOURCE)
                self._outbox.tell_ended(numbers)
        if self.heir is not None:  # it may have been waiting for the end of these
            self._io.call(self.on_room)

    def stop(self, why: str = "") -> None:
        """Asks the process to close its unit and exit; `why`: the cause, where it is not how the process ends. [any
        thread]"""
        with self._lock:
            self.ending = True
            self._stopped_because = why
            if self.alive:
                self._outbox.send(header_only(protocol.STOP))

    def kill(self, number: int) -> None:
        """Sends a signal to the process. [any thread]"""
        if self._pidfd.is_there():
            self._pidfd.kill(number)
        else:
            self.kill_by_master(number)

    def is_drained(self) -> bool:
        """Whether it has nothing to do, now or later. [any thread]"""
        return not self._trips.is_asked() and not self.streams

    # ---- receiving (I/O thread) --------------------------------------------------------------------------------

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
            self._trips.take_values(reader, self)
        elif kind == protocol.READY and not self.ready:
            reader.end()
            self.ready = True
            self._ready_at = self._io.loop.time()
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
        trip, results = self._trips.match(reader, self.outputs)
        with self._lock:
            self._trips.answered(reader.sequence, trip, results)
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

    def _release_idle(self) -> None:
        """Gives memory back that no message has taken along."""
        self._release_timer = None
        with self._lock:
            calls = self._trips.calls()
        try:
            checks.check_held(self._peer.lent(), calls, self._max_bytes)
        except ProtocolError as error:
            self.condemn(f"holds {error};")
        with self._lock:
            if not self.alive or self._trips.is_asked() or not self._outbox.is_empty():
                return
            message = self._writer.release()
            if message is not None:
                self._outbox.send(message)
            else:
                self._outbox.send_news()

    def forget_gone(self) -> None:
        """Memory of others that it has seen may be gone: it should not hold on to that."""
        with self._lock:
            if self.alive and self._outbox.is_empty():
                self._outbox.send_news()

    # ---- watching (I/O thread) --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Looks after it while it has work, and once when it has none any more."""
        with self._lock:
            oldest, trip = self._trips.oldest()
            self._watching = trip is not None and self.alive
        if not self.alive:
            return
        calls = len(trip.calls) if trip is not None else 0
        wanted = trip is None or trip.wanted is None or trip.wanted()
        del trip
        self.watchdog.look(oldest, calls, wanted)
        if self._watching and self.alive:
            self._watch_timer = self._io.loop.call_later(self.watchdog.period_s, self._watch)

    def _emptied(self) -> None:
        self.on_room()

    def _worn(self, reason: str) -> None:
        self.on_worn(self, reason)

    # ---- the end (I/O thread) ------------------------------------------------------------------------------------

    def condemn(self, verdict: str, timed_out: bool = False) -> None:
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
                if not self.alive or not self.inbox.read_one():
                    break
            self.clean = not code and not number
            how = self._stopped_because if self.clean and self._stopped_because else how_it_ended(code, number)
            self._lost(f"python worker {self.name} (pid {self.pid}) {how}")
        self._went()

    def orphaned(self) -> None:
        """The python-master has died, which takes its workers along."""
        self._innocent = True
        self.kill(signal.SIGKILL)
        self._lost(f"python worker {self.name} (pid {self.pid}) died with the python-master")
        if not self._pidfd.is_there():
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

    def later(self, seconds: float, call: Callable[[Worker], None]) -> None:
        """Calls with this worker when it is still there then: a timer of its own would keep one that is gone. [I/O
        thread]"""
        if not self.gone:
            self._timers.append(self._io.loop.call_later(seconds, call, self))

    def _process_ended(self) -> None:
        """The process has ended; the master will say more in a moment."""
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
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._pidfd.close()
        self.on_gone(self)

    def _closed(self) -> None:
        """End of file: the master will say more in a moment, unless the process lives on."""
        self._io.loop.call_later(EXIT_WAIT_S, self.condemn, "closed its connection")

    def _lost(self, reason: str, *, timed_out: bool = False) -> None:
        if not self.alive:  # only this thread changes it
            return
        self.output.ended()
        words = "" if timed_out or self.ending else self.output.last_words()
        with self._lock:
            trips = self._trips.drop()
            self.held = held = sum(len(trip.calls) for trip in trips)
            text = f"{reason} while it held {held} call{'s' if held != 1 else ''}" if held else reason
            # Before `alive`: whoever sees that it is lost can say why.
            self.cause = text = f"{text}; its last words: {words}" if words else text
            self.alive = False
        for timer in (self._release_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._release_timer = self._watch_timer = None
        self.watchdog.close()
        self.inbox.close()
        self._outbox.close()
        if self._verdict:
            checks.close_apart([self._sock.detach()])  # descriptors may wait in it
        else:
            self._sock.close()
        with contextlib.suppress(OSError):
            self.remote.close()
        self._peer.close()
        self.on_lost(self, text)
        for trip in trips:
            error: ModelBoxError = TimedOutError(text) if timed_out else WorkerLostError(text)
            trip.done([WorkerResult([], error) for _ in trip.calls])
        self.on_room()
