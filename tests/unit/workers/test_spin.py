"""When a worker looks for its next message and when it sleeps, on a clock of the test's own."""

from __future__ import annotations

import socket

import pytest

from modelboxd.workers import spin
from modelboxd.workers.spin import AUTO_US, Spin, microseconds

LOOK_S = 1e-6  # what one look takes


class Arrivals:
    """A socket on which messages come after pauses, counted from when the last one was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pauses_s: float) -> None:
        self.now = 0.0
        self.looks = self.sleeps = 0
        self._pauses = list(pauses_s)
        self._next = self._pauses.pop(0)
        monkeypatch.setattr(spin, "monotonic", lambda: self.now)

    def receive(self, flags: int) -> float:
        """As recvmsg() does it; gives the time."""
        if flags == socket.MSG_DONTWAIT:
            self.looks += 1
            self.now += LOOK_S
            if self.now < self._next:
                raise BlockingIOError
        else:
            self.sleeps += 1
            self.now = max(self.now, self._next)
        self._next = self.now + (self._pauses.pop(0) if self._pauses else 0.0)
        return self.now

    def counts(self) -> tuple[int, int]:
        """Looks and sleeps since the last time."""
        made, self.looks, self.sleeps = (self.looks, self.sleeps), 0, 0
        return made


def test_it_looks_while_messages_come_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals(monkeypatch, 1.0, 50e-6, 50e-6, 50e-6, 1.0, 1.0, 50e-6, 50e-6)
    waiting = Spin(100e-6)
    seen = []
    for _ in range(8):
        waiting.receive(arrivals.receive)
        looks, sleeps = arrivals.counts()
        seen.append(("looked" if looks else "") + ("slept" if sleeps else ""))
    # It looks only after one that came soon; the first pause that is too long costs one limit, no later one does.
    assert seen == ["slept", "slept", "looked", "looked", "lookedslept", "slept", "slept", "looked"]


def test_a_look_in_vain_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals(monkeypatch, 0.0, 5.0)
    waiting = Spin(100e-6)
    waiting.receive(arrivals.receive)
    arrivals.counts()
    assert waiting.receive(arrivals.receive) == pytest.approx(5.0)
    looks, sleeps = arrivals.counts()
    assert (looks, sleeps) == (pytest.approx(100, abs=1), 1)


def test_without_a_limit_it_always_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals(monkeypatch, 0.0, 0.0, 0.0)
    waiting = Spin(0.0)
    for _ in range(3):
        waiting.receive(arrivals.receive)
    assert arrivals.counts() == (0, 3)


def test_a_receive_that_ends_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for idle_s: the kernel says so with the same error, which is the caller's."""
    waiting = Spin(100e-6)
    waiting.receive(lambda _: None)

    def nothing(_: int) -> None:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        waiting.receive(nothing)


@pytest.mark.parametrize(
    ("asked", "cpus", "workers", "want"),
    [
        (-1, 1, 1, 0),
        (-1, 2, 1, AUTO_US),
        (-1, 2, 2, 0),
        (-1, 16, 15, AUTO_US),
        (-1, 16, 16, 0),
        (0, 64, 1, 0),
        (30, 1, 9, 30),
    ],
)
def test_where_it_looks(asked: int, cpus: int, workers: int, want: int) -> None:
    assert microseconds(asked, cpus=cpus, workers=workers) == want
