"""Nothing of the daemon keeps a worker that is gone, however it went."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from modelbox.errors import WorkerLostError
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.place import Place
from modelboxd.workers.process import Worker
from tests.integration.obedient import send
from tests.integration.workers import LIMIT_S, Caller
from tests.waiting import wait_for


def workers() -> int:
    gc.collect()
    return sum(type(one) is Worker for one in gc.get_objects())


def test_lost_ones(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(max_restarts=0)
    before = workers()
    for order in ("exit 3", "signal SIGKILL", "exit 0"):
        with pytest.raises(WorkerLostError):
            caller.call(group, order)
    wait_for(lambda: group.status().state == "ready")
    wait_for(lambda: workers() == before)


def test_recycled_ones(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(stream=True, max_requests=2)
    before = workers()
    for stream in range(5, 8):
        (old,) = group.workers
        for begin in (True, False):
            send(old, caller, "pid", stream, begin=begin).result(LIMIT_S)
        wait_for(lambda number=stream - 4: group.recycled == number)  # with the stream under way
        send(old, caller, "pid", stream, begin=False, end=True).result(LIMIT_S)
        del old
        wait_for(lambda: [worker.state.value for worker in group.status().workers] == ["ready"])
    wait_for(lambda: workers() == before)


def test_a_worker_that_is_made_while_its_job_closes(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = start()
    arrived, go_on = threading.Event(), threading.Event()
    make = group._make

    def made(place: Place, *, as_heir: bool) -> Worker:
        arrived.set()
        assert go_on.wait(LIMIT_S)
        return make(place, as_heir=as_heir)

    monkeypatch.setattr(group, "_make", made)
    with pytest.raises(WorkerLostError):
        caller.call(group, "signal SIGKILL")
    assert arrived.wait(LIMIT_S)  # the I/O thread is just there
    closing = threading.Thread(target=group.close, args=(LIMIT_S,))
    closing.start()
    wait_for(group.is_closing)
    go_on.set()
    closing.join(LIMIT_S)
    assert not closing.is_alive() and not any(worker.alive for worker in group.workers)
    wait_for(lambda: caller.pool.count() == 0)
