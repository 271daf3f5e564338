"""Whether a worker with work is still alive: a state machine over what was seen of it. Pure: no process, no timer.

While a worker holds messages it is looked at every `period_s`. What counts as a sign of life is an answer, or the
reply to a ping. The ping is answered by a thread of the worker that needs the interpreter for it, so a stopped process
and C code that keeps the interpreter locked are silent, while Python code and C code that lets go of it answer, however
long they take. Nothing is judged earlier than the limits say; time in which the daemon itself did not run is not
counted, nor as silence the time in which the worker waited for a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_PERIOD_S, SHORTEST_PERIOD_S = 1.0, 0.02
ASK_S = 10.0  # a call that takes longer is asked how it goes, at least so often
LEAST_REPLY_S = 1.0  # how long a reply may take, at least, before it says something about a single call


@dataclass(frozen=True, slots=True)
class Limits:
    """0 = none."""

    call_s: float = 0.0  # of one process() call
    silence_s: float = 0.0  # without a sign of life
    orphan_s: float = 0.0  # of a call whose result nobody waits for

    @property
    def period_s(self) -> float:
        """How often a worker with work is looked at."""
        shortest = min((limit for limit in (self.call_s, self.silence_s, self.orphan_s) if limit), default=4.0)
        return min(max(shortest / 4, SHORTEST_PERIOD_S), LONGEST_PERIOD_S)

    @property
    def ask_s(self) -> float:
        """After which silence a worker is pinged."""
        return min(self.silence_s / 3, ASK_S) if self.silence_s else ASK_S


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the worker has to go; "silent" ones are worth looking for evidence."""

    text: str
    timed_out: bool = False
    silent: bool = False


class Pulse:
    """What is known of one worker."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.wants_ping = False  # after look()
        self._oldest = 0  # sequence of the message that it works on
        self._seen = 0.0  # the last look
        self._since = 0.0  # the oldest message: first seen
        self._call_since = 0.0  # the call that runs began then or later
        self._sign = 0.0  # the last sign of life
        self._asked = 0.0  # when the ping that is not answered yet was sent; 0: none
        self._orphaned = 0.0  # since when nobody waits; 0: somebody does

    def look(self, now: float, oldest: int, calls: int, wanted: bool) -> Verdict | None:
        """`oldest`: sequence of the message it works on, 0 = none, which holds `calls` calls; `wanted`: somebody waits
        for a result of it."""
        self._excuse(now)
        self.wants_ping = False
        if oldest != self._oldest:
            self._oldest = oldest
            self._since = self._call_since = self._sign = now
            self._asked = self._orphaned = 0.0
        if not oldest:
            return None
        limits = self.limits
        if limits.call_s and now - self._since >= limits.call_s * calls:
            return over_time(limits.call_s * calls)
        if limits.call_s and self._asked and now - self._asked >= max(limits.call_s, LEAST_REPLY_S):
            return over_time(limits.call_s)  # what runs has kept the interpreter locked for so long
        if limits.silence_s and self._asked and now - self._sign >= limits.silence_s:
            return Verdict(f"gave no sign of life for {limits.silence_s:g} s (heartbeat_timeout_ms)", silent=True)
        if wanted:
            self._orphaned = 0.0
        elif not self._orphaned:
            self._orphaned = now
        elif limits.orphan_s and now - self._orphaned >= limits.orphan_s:
            text = f"went on for {limits.orphan_s:g} s with a call that nobody waits for (orphan_timeout_ms)"
            return Verdict(text, timed_out=True)
        late = limits.call_s and calls > 1 and now - self._call_since >= limits.call_s
        self.wants_ping = not self._asked and (bool(late) or now - self._sign >= limits.ask_s)
        return None

    def starved(self, seconds: float) -> None:
        """A thread of the worker was ready to run for so long and had no CPU: that is no silence."""
        self._sign += seconds

    def asked(self, now: float) -> None:
        """A ping has gone out."""
        self._asked = now

    def replied(self, now: float, running_s: float) -> Verdict | None:
        """The ping was answered; the call under way has run for `running_s`, 0 = none runs."""
        self._asked = 0.0
        self._sign = now
        self._call_since = now - running_s
        if self.limits.call_s and self._oldest and running_s >= self.limits.call_s:
            return over_time(self.limits.call_s)
        return None

    def busy_s(self, now: float) -> float:
        """How long it has worked on the message that it works on, as far as is known."""
        return now - self._since if self._oldest else 0.0

    def _excuse(self, now: float) -> None:
        """When looks come late, the daemon did not run: that is no silence of the worker."""
        late = now - self._seen - 2 * self.limits.period_s if self._seen and self._oldest else 0.0
        self._seen = now
        if late > 0:
            self._since += late
            self._call_since += late
            self._sign += late
            self._asked += late if self._asked else 0.0
            self._orphaned += late if self._orphaned else 0.0


def over_time(limit_s: float) -> Verdict:
    return Verdict(f"did not answer within {limit_s:g} s (process_timeout_ms)", timed_out=True)
