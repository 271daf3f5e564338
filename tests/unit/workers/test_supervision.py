"""When lost workers are replaced: back-off, the breaker, what `restart` says. With a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from modelboxd.graph.life import Life
from modelboxd.workers.supervision import LAST_DELAY_S, Breaker, Supervision


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **life: Any) -> Supervision:
    return Supervision(Life(**life), clock or Clock())


def crash(supervision: Supervision, cause: str = "x", **more: bool) -> float | None:
    return supervision.lost(cause, **{"answered": False, **more})


def test_delays_double_up_to_a_limit_and_begin_anew_after_an_answer() -> None:
    supervision = make(max_restarts=0)
    delays = [crash(supervision) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LAST_DELAY_S, LAST_DELAY_S, LAST_DELAY_S]
    assert crash(supervision, answered=True) == 0.1
    assert crash(supervision) == 0.2
    for _ in range(5000):
        assert crash(supervision) is not None
    assert supervision.breaker is Breaker.CLOSED  # max_restarts = 0


def test_the_tenth_crash_in_a_row_opens_the_breaker() -> None:
    supervision = make()
    for _ in range(20):  # answers in between: never
        assert crash(supervision, answered=True) is not None
    delays = [crash(supervision, f"crash {number}") for number in range(1, 10)]
    assert delays[-1] is None and None not in delays[:-1]
    assert supervision.breaker is Breaker.OPEN
    assert (supervision.crashes, supervision.last_cause) == (10, "crash 9")
    assert supervision.too_many == "10 crashes in a row"
    assert supervision.restarts == 28


def test_crashes_within_the_window_open_it_too() -> None:
    clock = Clock()
    supervision = make(clock, max_restarts=3, restart_window_s=60)
    for _ in range(5):
        assert crash(supervision, answered=True) is not None
        clock.now += 31
    assert crash(supervision, answered=True) is not None
    clock.now += 28
    assert crash(supervision, answered=True) is None  # the third within 59 s
    assert supervision.breaker is Breaker.OPEN
    assert (supervision.crashes, supervision.too_many) == (1, "3 crashes within 60 s")


def test_a_trial_that_answers_closes_it() -> None:
    clock = Clock()
    supervision = make(clock, max_restarts=2, restart_cooldown_s=10)
    crash(supervision)
    crash(supervision)
    assert supervision.retry_in() == 10
    clock.now += 9.9
    assert not supervision.try_again()
    clock.now += 0.1
    assert supervision.try_again()
    assert supervision.breaker is Breaker.HALF_OPEN
    assert not supervision.try_again()  # one only
    assert supervision.answered()
    assert not supervision.answered()
    assert (supervision.breaker, supervision.crashes, supervision.retry_in()) == (Breaker.CLOSED, 0, 0)
    assert crash(supervision) == 0.1


def test_trials_that_fail_are_made_ever_more_rarely() -> None:
    clock = Clock()
    supervision = make(clock, max_restarts=1, restart_cooldown_s=10)
    assert crash(supervision) is None
    waits = []
    for _ in range(8):
        waits.append(supervision.retry_in())
        clock.now += supervision.retry_in()
        assert supervision.try_again()
        assert crash(supervision) is None
    assert waits == [10, 20, 40, 80, 160, 320, 320, 320]


def test_losses_while_it_is_open_start_nothing() -> None:
    supervision = make(max_restarts=1)
    assert crash(supervision) is None
    retry = supervision.retry_in()
    assert crash(supervision) is None  # another worker of the node, which was alive still
    assert supervision.innocent("the master died") is None
    assert supervision.retry_in() == retry


@pytest.mark.parametrize(
    ("restart", "crashed", "clean", "innocent"),
    [("never", None, None, None), ("on-failure", 0.1, None, 0.1), ("always", 0.1, 0.1, 0.1)],
)
def test_what_restart_says(restart: str, crashed: float | None, clean: float | None, innocent: float | None) -> None:
    assert crash(make(restart=restart)) == crashed
    assert crash(make(restart=restart), clean=True) == clean
    supervision = make(restart=restart)
    assert supervision.innocent("x") == innocent
    assert (supervision.crashes, supervision.breaker) == (0, Breaker.CLOSED)
