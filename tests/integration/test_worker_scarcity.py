"""Workers while the daemon has no threads or no descriptors to spare: nothing hangs, and all is well again later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelbox.errors import UnitError, WorkerLostError
from modelboxd.workers import group as group_module
from modelboxd.workers import process
from modelboxd.workers.group import WorkerGroup
from tests.integration.obedient import pid_of
from tests.integration.workers import Caller, write_unit
from tests.waiting import wait_for


class Scarce:
    """Lets something fail while it is on."""

    def __init__(self, plain: Callable[..., Any], error: Exception) -> None:
        self.plain, self.error = plain, error
        self.on = False
        self.failed = 0

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if self.on:
            self.failed += 1
            raise self.error
        return self.plain(*arguments, **more)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Scarce:
    scarce = Scarce(threading.Thread.start, RuntimeError("can't start new thread"))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: scarce(thread))
    return scarce


def test_no_thread_for_a_worker_that_is_condemned(
    start: Callable[..., WorkerGroup], caller: Caller, threads: Scarce
) -> None:
    group = start(process_timeout_ms=300)
    first = group.workers[0]
    held = caller.submit(group, "locked")
    threads.on = True
    assert "did not answer within 0.3 s" in str(held.result(30).error)
    wait_for(lambda: first.gone and threads.failed >= 2)  # the next one cannot be started either
    assert group.status().breaker == "closed"
    threads.on = False
    assert pid_of(caller, group) != first.pid


def test_no_descriptors_for_the_next_worker(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = Scarce(process.socket.socketpair, OSError(24, "Too many open files"))
    monkeypatch.setattr(process.socket, "socketpair", sockets)
    group = start()
    worn = start(max_requests=1)
    first, old = group.workers[0].pid, worn.workers[0].pid
    sockets.on = True
    with pytest.raises(WorkerLostError):
        caller.call(group, "exit 3")
    assert pid_of(caller, worn) == old
    wait_for(lambda: sockets.failed >= 3)
    assert pid_of(caller, worn) == old  # one that should be replaced goes on meanwhile
    sockets.on = False
    assert pid_of(caller, group) != first
    wait_for(lambda: pid_of(caller, worn) != old)


def test_no_descriptors_for_the_first_worker(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(group_module, "Worker", none)
    with pytest.raises(
        UnitError,
        match=r"python worker job/node#0 cannot be made: Too many open files \(is there memory left, and room",
    ):
        caller.start(write_unit(tmp_path, "unit", "class Unit: pass"))


def test_a_master_that_dies_while_it_starts(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dead_master.py").write_text("raise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(caller.pool, "master_module", "dead_master")
    with pytest.raises(UnitError, match="the python-master ended while it started"):
        caller.start(write_unit(tmp_path, "unit", "class Unit: pass"))
