"""Who is judged dead, late or unwanted, and who is not. With times of the test's own."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from modelboxd.workers.health import waits_of
from modelboxd.workers.pulse import Limits, Pulse, Verdict


class Watched:
    """A worker that is looked at every period; `reply_s`: how long the call runs that it tells of, None = silent."""

    def __init__(self, **limits: float) -> None:
        self.pulse = Pulse(Limits(**limits))
        self.now = 1000.0
        self.pings = 0

    def run(
        self, seconds: float, oldest: int = 1, calls: int = 1, wanted: bool = True, reply: Any = None
    ) -> tuple[float, Verdict] | None:
        """Looks for `seconds`; what was found, and after which time. `reply()` gives the running time of the call."""
        start = self.now
        while self.now - start <= seconds:
            verdict = self.pulse.look(self.now, oldest, calls, wanted)
            if verdict is None and self.pulse.wants_ping:
                self.pings += 1
                self.pulse.asked(self.now)
                if reply is not None:
                    verdict = self.pulse.replied(self.now, reply())
            if verdict is not None:
                return self.now - start, verdict
            self.now += self.pulse.limits.period_s
        return None


def found(result: tuple[float, Verdict] | None) -> tuple[float, Verdict]:
    assert result is not None
    return result


def test_silence_is_judged_after_its_limit() -> None:
    after, verdict = found(Watched(silence_s=30).run(100))
    assert 30 <= after < 32
    assert verdict.text == "gave no sign of life for 30 s (heartbeat_timeout_ms)" and verdict.silent


def test_a_long_call_that_answers_pings_is_never_judged() -> None:
    watched = Watched(silence_s=30, orphan_s=30)
    assert watched.run(36000, reply=lambda: 1.0) is None
    assert 3000 < watched.pings <= 3600


def test_answers_are_signs_of_life_without_pings() -> None:
    watched = Watched(silence_s=30)
    for message in range(1, 200):
        assert watched.run(8, oldest=message) is None
    assert watched.pings == 0
    after, _ = found(watched.run(100, oldest=200))  # and then it is silent
    assert 30 <= after < 32


def test_no_limit_no_verdict() -> None:
    assert Watched().run(100000) is None
    assert Watched(call_s=1, silence_s=1, orphan_s=1).run(100000, oldest=0, wanted=False) is None  # idle


def test_a_single_call_over_time() -> None:
    after, verdict = found(Watched(call_s=0.2).run(10))
    assert 0.2 <= after <= 0.25 + 1e-6
    assert verdict == Verdict("did not answer within 0.2 s (process_timeout_ms)", timed_out=True)


def test_the_limit_is_of_each_call_of_a_message() -> None:
    watched = Watched(call_s=1)
    assert watched.run(15, calls=16, reply=lambda: 0.9) is None  # 16 calls of 0.9 s
    watched = Watched(call_s=1)
    start = watched.now
    after, verdict = found(watched.run(60, calls=16, reply=lambda: watched.now - start))  # the first one hangs
    assert 1 <= after <= 1.3 and verdict.timed_out
    after, verdict = found(Watched(call_s=1).run(60, calls=16))  # it cannot even say so
    assert 2 <= after <= 2.6 and verdict.timed_out
    after, _ = found(Watched(call_s=1).run(60, calls=16, reply=lambda: 0.1))  # whatever it says
    assert 16 <= after <= 16.5


def test_a_call_that_nobody_waits_for() -> None:
    watched = Watched(orphan_s=30, silence_s=30)
    assert watched.run(100, reply=lambda: 1.0) is None
    assert watched.run(20, wanted=False, reply=lambda: 1.0) is None
    assert watched.run(5, reply=lambda: 1.0) is None  # somebody waits again
    after, verdict = found(watched.run(100, wanted=False, reply=lambda: 1.0))
    assert 30 <= after < 32 and "nobody waits for" in verdict.text and verdict.timed_out
    assert Watched(silence_s=30).run(10000, wanted=False, reply=lambda: 1.0) is None  # no such limit


def test_time_in_which_the_daemon_stood_still_does_not_count() -> None:
    watched = Watched(silence_s=30, call_s=50, orphan_s=40)
    assert watched.run(12, wanted=False) is None  # asked, not answered
    watched.now += 3600
    assert watched.run(10, wanted=False) is None
    after, verdict = found(watched.run(100, wanted=False))
    assert after <= 11 and verdict.silent


def test_a_late_reply_belongs_to_the_ping_only() -> None:
    watched = Watched(silence_s=30)
    assert watched.run(12) is None
    assert watched.run(15, oldest=2) is None  # it has answered; the ping is still under way
    assert watched.pulse.replied(watched.now, 0.0) is None
    after, _ = found(watched.run(100, oldest=2))
    assert 30 <= after < 32


def test_time_without_a_cpu_is_no_silence() -> None:
    pulse = Pulse(Limits(silence_s=1.0))
    pulse.look(1000.0, 1, 1, True)
    pulse.asked(1000.4)
    looks = [1000.4 + 0.2 * number for number in range(1, 11)]
    for now in looks:
        pulse.starved(0.2)  # all the time since the last look
        assert pulse.look(now, 1, 1, True) is None
    for number in range(1, 6):  # now it runs, and says nothing
        verdict = pulse.look(looks[-1] + 0.2 * number, 1, 1, True)
    assert verdict is not None and verdict.silent


def test_a_process_that_has_a_cpu_is_not_starved_for_longer_than_it_lives() -> None:
    thread = threading.get_native_id()
    waits = waits_of(os.getpid(), [thread])
    assert list(waits) == [thread]
    assert all(0 <= seconds < time.monotonic() for seconds in waits.values())
    assert waits_of(0, [0]) == {}
