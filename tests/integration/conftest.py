"""Fixtures with real processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelbox._core.memory import Pool
from modelboxd.engine.job import JobSettings
from modelboxd.loop import IoThread
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.pool import WorkerPool
from tests.integration.graphs import Graphs
from tests.integration.obedient import OBEDIENT
from tests.integration.tasks import Rig
from tests.integration.workers import LIMIT_S, Caller, write_unit


def open_caller() -> Iterator[Caller]:
    """A pool of workers, until the generator goes on."""
    io = IoThread()
    io.start()
    memory = Pool(guard_all=True)
    pool = WorkerPool(io, memory)
    yield Caller(pool, memory)
    pool.close(LIMIT_S)
    io.stop()


@pytest.fixture
def caller() -> Iterator[Caller]:
    yield from open_caller()


@pytest.fixture(scope="module")
def shared_caller() -> Iterator[Caller]:
    """One python-master for all tests of a file."""
    yield from open_caller()


@pytest.fixture
def start(caller: Caller, tmp_path: Path) -> Iterator[Callable[..., WorkerGroup]]:
    """Starts groups of workers of the obedient unit."""
    groups: list[WorkerGroup] = []

    def made(stream: bool = False, config: dict[str, str] | None = None, **more: Any) -> WorkerGroup:
        unit = write_unit(tmp_path, f"obedient{len(groups)}", OBEDIENT, stream=stream)
        groups.append(caller.start(unit, config, **more))
        return groups[-1]

    yield made
    for group in groups:
        group.close(LIMIT_S)


@pytest.fixture
def start_graphs(tmp_path: Path) -> Iterator[Callable[..., Graphs]]:
    """Starts the units that the test has written below tmp_path."""
    started: list[Graphs] = []

    def run(settings: JobSettings | None = None) -> Graphs:
        started.append(Graphs(tmp_path, settings))
        return started[-1]

    yield run
    for graphs in started:
        graphs.close()


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Any]:
    """Starts a daemon with a job for tasks."""
    made: list[Rig] = []

    def make(config: str = "", attrs: str = "", extra: str = "") -> Rig:
        made.append(Rig(tmp_path, config, attrs, extra))
        return made[0]

    yield make
    for rig in made:
        held = os.open(rig.pipe, os.O_RDWR)  # nobody waits at it any more
        code = rig.server.stop()
        os.close(held)
        assert code == 0
