"""Memory is given back once nothing has been going on for a while, by one timer that stops by itself."""

from __future__ import annotations

from modelboxd.engine.leftovers import IDLE_S, Leftovers
from tests.unit.engine.harness import FakeClock


def test_trims_once_after_the_work() -> None:
    clock = FakeClock()
    trims: list[float] = []
    leftovers = Leftovers(clock, lambda: trims.append(clock.now()))
    assert clock.timers() == 0
    for _ in range(5):
        leftovers.touch()
        leftovers.touch()
        assert clock.timers() == 1
        clock.advance(0.7 * IDLE_S)
    assert trims == []
    clock.advance(2 * IDLE_S)
    clock.advance(2 * IDLE_S)
    assert (len(trims), clock.timers()) == (1, 0)
    leftovers.touch()
    clock.advance(2 * IDLE_S)
    clock.advance(2 * IDLE_S)
    assert (len(trims), clock.timers()) == (2, 0)
