"""Nothing of the daemon keeps a worker that is gone, however it went."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from modelbox.errors import WorkerLostError
from modelboxd.workers.group import WorkerGroup
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
