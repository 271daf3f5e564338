"""The watchdog is fed while the server makes progress, and only then."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from modelboxd import watchdog
from modelboxd.engine.executor import Executor
from modelboxd.loop import IoThread

LIMIT_S = 30.0


@pytest.fixture
def io() -> Iterator[IoThread]:
    made = IoThread()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def executor() -> Iterator[Executor]:
    made = Executor(1)
    made.start()
    yield made
    assert made.stop(LIMIT_S)


def turn(io: IoThread) -> None:
    """Returns when the loop has done all that it was asked before."""
    done = threading.Event()
    io.call(done.set)
    assert done.wait(LIMIT_S)


def test_the_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog.period_s() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog.period_s() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog.period_s() == 30
    monkeypatch.setenv("WATCHDOG_PID", "1")  # meant for somebody else
    assert watchdog.period_s() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "-1")
    assert watchdog.period_s() == 0


def test_it_feeds_a_server_that_is_idle(io: IoThread, executor: Executor) -> None:
    fed = threading.Event()
    dog = watchdog.Watchdog(io, executor, period=0.01, feed=fed.set)
    dog.start()
    assert fed.wait(LIMIT_S)
    fed.clear()
    assert fed.wait(LIMIT_S)  # again and again
    dog.stop()


def test_without_a_period_there_is_no_thread(io: IoThread, executor: Executor) -> None:
    dog = watchdog.Watchdog(io, executor, period=0)
    dog.start()
    assert "mb-watchdog" not in [thread.name for thread in threading.enumerate()]
    dog.stop()


def test_a_loop_that_stands_still_is_not_fed(
    io: IoThread, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    dog = watchdog.Watchdog(io, executor, period=40, feed=lambda: None)
    assert dog.look()
    turn(io)
    assert dog.look()
    turn(io)
    go_on = threading.Event()
    io.call(go_on.wait)
    assert dog.look()  # its question is not answered yet
    with caplog.at_level(logging.WARNING):
        assert not dog.look()
        assert not dog.look()
    assert "no progress since 20 s: the I/O loop does not turn" in caplog.text
    go_on.set()
    turn(io)
    assert dog.look()


def test_an_engine_that_stands_still_is_not_fed(
    io: IoThread, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    dog = watchdog.Watchdog(io, executor, period=40, feed=lambda: None)
    busy, first, second = (threading.Event() for _ in range(3))

    def call(end: threading.Event) -> None:
        busy.set()
        assert end.wait(LIMIT_S)

    executor.post((5, 0), lambda: call(first))
    assert busy.wait(LIMIT_S)
    assert dog.look()  # one long call, and nobody waits
    turn(io)
    assert dog.look()
    turn(io)
    executor.post((5, 0), lambda: call(second))
    with caplog.at_level(logging.WARNING):
        assert not dog.look()
        turn(io)
        assert not dog.look()
    assert "all engine threads are busy and 1 calls wait" in caplog.text
    busy.clear()
    first.set()
    assert busy.wait(LIMIT_S)
    executor.post((5, 0), lambda: None)
    turn(io)
    assert dog.look()  # stuck again, but a call has ended since the last look
    second.set()
