"""Watches one worker process: time limits, heartbeat, memory. I/O thread.

It sleeps while the worker has nothing to do: an idle worker costs no wake-ups. That an idle one has died or was stopped
is told by the kernel (the master's SIGCHLD, a pidfd), not asked for.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelboxd.workers import heart
from modelboxd.workers.health import evidence, memory_of, process_state, thread_of, waits_of
from modelboxd.workers.pulse import Limits, Pulse, Verdict

if TYPE_CHECKING:
    from modelboxd.graph.life import Life
    from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

TELL_S = 60.0  # a call that takes longer is told, then after twice as long each time
MEMORY_PERIOD_S = 0.25
LONG_S = 1.0  # of a call, or of the answer to a ping: then the kernel is asked about the process, too
END_S = 2.0  # within which it is known that a process has ended
DEAF = "does not listen to pings any more: the unit has closed a descriptor or ended a thread that is not its own,"
HEADLESS = "goes on without its main thread, which the unit has ended,"
HARD_MEMORY = 1.5  # times memory_limit_mb: such a worker is killed


class Watchdog:
    """`condemn(text, timed_out)` is called once at most; `on_worn(reason)` may be called again and again."""

    def __init__(
        self,
        name: str,
        life: Life,
        io: IoThread,
        about: dict[str, str],
        condemn: Callable[[str, bool], None],
        on_worn: Callable[[str], None],
    ) -> None:
        self.where = ""
        self.stopped = False  # by a signal
        self.period_s = 0.0
        self._name = name
        self._io = io
        self._about = about
        self._condemn = condemn
        self._on_worn = on_worn
        self._memory = life.memory_limit_mb << 20
        limits = Limits(life.process_timeout_ms / 1000, life.heartbeat_timeout_ms / 1000, life.orphan_timeout_ms / 1000)
        self._pulse = Pulse(limits)
        self.period_s = min(limits.period_s, MEMORY_PERIOD_S if self._memory else limits.period_s)
        self._silence_s = limits.silence_s
        self._pid = 0
        self._token = 0
        self._waiting = False  # for the answer to a ping
        self._cpu = (0.0, 0.0)  # CPU seconds used, and when that was
        self._heart = 0  # the thread that answers; 0: not known
        self._waits: tuple[dict[int, float], float] = ({}, 0.0)  # waits_of() it, and when that was
        self._tell_s = TELL_S
        self._stop_timer: Any = None
        self._end_timer: Any = None  # when it fires, what looks like the end of the process is none
        self._deaf = False  # it has closed its end of the socket
        self._over = False
        self._sock, self.remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)

    def started(self, pid: int) -> None:
        """The process exists and has its end of the socket."""
        self._pid = pid
        self.remote.close()
        self._io.loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """The worker is lost."""
        if self._over:
            return
        self._over = True
        self._io.loop.remove_reader(self._sock)
        self._sock.close()
        self.remote.close()
        for timer in (self._stop_timer, self._end_timer):
            if timer is not None:
                timer.cancel()

    # ---- work under way -------------------------------------------------------------------------------------

    def look(self, oldest: int, calls: int, wanted: bool) -> None:
        """See Pulse.look(); called every period_s while there is work, and once when there is none any more."""
        now = time.monotonic()
        if self._waiting and self._silence_s:
            self._excuse_starved(now)
        verdict = self._pulse.look(now, oldest, calls, wanted)
        if verdict is not None:
            self._judge(verdict, now)
            return
        if not oldest:
            self.where, self._tell_s = "", TELL_S
        elif self._pulse.wants_ping:
            self._ping(now)
        self._tell(now)
        if self._memory:
            self._weigh()

    def busy_s(self) -> float:
        """See Pulse.busy_s()."""
        return self._pulse.busy_s(time.monotonic())

    @property
    def is_silent(self) -> bool:
        """Whether it owes the answer to a ping for longer than Python code would, or works without a main thread."""
        now = time.monotonic()
        if self._waiting and now - self._cpu[1] > LONG_S:
            return True
        return self._pulse.busy_s(now) > LONG_S and process_state(self._pid)[0] == "Z"

    def _judge(self, verdict: Verdict, now: float) -> None:
        if verdict.silent and self._deaf:
            self._condemn(DEAF, False)
            return
        text = verdict.text
        if verdict.silent or self._waiting:
            text += f"; {evidence(self._pid, self._cpu[0], now - self._cpu[1])}"
        if self.where:
            text += f"; it was at {self.where}"
        self._condemn(text, verdict.timed_out)

    def _excuse_starved(self, now: float) -> None:
        """On a busy machine a worker may get no CPU to answer with."""
        before, since = self._waits
        self._waits = (self._look_at_waits(), now)
        starved = max(
            (waited - before[thread] for thread, waited in self._waits[0].items() if thread in before), default=0.0
        )
        self._pulse.starved(min(max(starved, 0.0), now - since))

    def _look_at_waits(self) -> dict[int, float]:
        """Of the two threads on which an answer depends. What others of the unit wait for is no excuse."""
        if not self._heart:
            self._heart = thread_of(self._pid, heart.NAME)
        return waits_of(self._pid, {self._pid, self._heart or self._pid})

    def _ping(self, now: float) -> None:
        self._cpu = (process_state(self._pid)[1], now)
        if self._silence_s:
            self._waits = (self._look_at_waits(), now)
        self._pulse.asked(now)
        if self._waiting:
            return  # for the answer to an earlier one
        self._token = (self._token + 1) & 0xFFFFFFFF
        try:
            self._sock.send(heart.PING.pack(self._token))
        except OSError as error:
            # It cannot be full, as one ping waits at most; a process that has closed its end is silent.
            log.debug("python worker %s: cannot ping: %s", self._name, error)
        self._waiting = True

    def _readable(self) -> None:
        try:
            data = self._sock.recv(heart.PONG.size + heart.WHERE_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._deaf = True
            self._io.loop.remove_reader(self._sock)
            self._end_timer = self._io.loop.call_later(END_S, self._condemn, DEAF, False)  # mostly it has ended
            return
        reply = heart.read_pong(data, self._token) if self._waiting else None
        if reply is None:
            self._condemn("sent nonsense: an answer to no ping", False)
            return
        self._waiting = False
        running_s, self.where = reply
        now = time.monotonic()
        verdict = self._pulse.replied(now, running_s)
        if verdict is not None:
            self._judge(verdict, now)
        elif process_state(self._pid)[0] == "Z" and self._end_timer is None:  # other threads of it live
            self._end_timer = self._io.loop.call_later(END_S, self._condemn, HEADLESS, False)

    def _tell(self, now: float) -> None:
        busy = self._pulse.busy_s(now)
        if busy < self._tell_s:
            return
        self._tell_s *= 2
        at = f"; it is at {self.where}" if self.where else ""
        text = "python worker %s (pid %d) has not answered for %g s%s; process_timeout_ms limits this"
        log.warning(text, self._name, self._pid, round(busy, 2), at, extra=self._about)

    def _weigh(self) -> None:
        used = memory_of(self._pid)
        if used > HARD_MEMORY * self._memory:
            text = f"uses {used >> 20} MB, more than {HARD_MEMORY:g} times memory_limit_mb = {self._memory >> 20},"
            self._condemn(text, False)
        elif used > self._memory:
            self._on_worn(f"uses {used >> 20} MB (memory_limit_mb = {self._memory >> 20})")

    # ---- stopped ------------------------------------------------------------------------------------------------

    def set_stopped(self, number: int) -> None:
        """The process was stopped by a signal; 0: it goes on."""
        self.stopped = number != 0
        if self._stop_timer is not None:
            self._stop_timer.cancel()
            self._stop_timer = None
        if self.stopped and self._silence_s:
            self._stop_timer = self._io.loop.call_later(self._silence_s, self._still_stopped, number)

    def _still_stopped(self, number: int) -> None:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        self._condemn(f"was stopped by {name} for {self._silence_s:g} s (heartbeat_timeout_ms)", False)
