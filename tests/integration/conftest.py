"""Fixtures with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelbox._core.memory import Pool
from modelboxd.loop import IoThread
from modelboxd.workers.pool import WorkerPool
from tests.integration.workers import LIMIT_S, Caller


@pytest.fixture
def caller() -> Iterator[Caller]:
    io = IoThread()
    io.start()
    memory = Pool(guard_all=True)
    pool = WorkerPool(io, memory)
    yield Caller(pool, memory)
    pool.close(LIMIT_S)
    io.stop()
