"""Workers that attack the daemon: it lives, names them, kills them, and has everything back."""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from modelbox._core.memory import Pool
from modelbox.errors import TimedOutError, UnitError, WorkerLostError
from modelbox.spec import UnitSpec
from modelboxd.loop import IoThread
from modelboxd.workers import checks
from modelboxd.workers.pool import WorkerGroup, WorkerPool
from modelboxd.workers.process import Worker
from modelboxd.workers.values import Budget, SessionValues
from tests.integration.hostile import master
from tests.integration.hostile.worker import ATTACKS
from tests.integration.test_workers import ECHO
from tests.integration.workers import Caller, write_unit
from tests.waiting import wait_for

LIMIT_S = 20.0
DATA = np.arange(20_000, dtype=np.uint8)  # too large to travel inside the message
KILLED = [name for name, (_, reason) in ATTACKS.items() if reason is not None]
BORNE = [name for name, (_, reason) in ATTACKS.items() if reason is None]


class Place:
    """A pool with a good node; what a test adds must be gone after it."""

    def __init__(self, folder: Path) -> None:
        self.io = IoThread()
        self.io.start()
        self.memory = Pool(guard_all=True)
        pool = WorkerPool(self.io, self.memory)
        pool.master_module = master.MODULE
        self.caller = Caller(pool, self.memory)
        self.unit: UnitSpec = write_unit(folder, "echo", ECHO)
        self.good: WorkerGroup = self.caller.start(self.unit)
        self.check_good()

    def check_good(self) -> None:
        (got,) = self.caller.call(self.good, DATA)
        assert np.array_equal(got.numpy(), DATA)

    def attacker(self, name: str, timeout_ms: int = 0) -> WorkerGroup:
        more: dict[str, Any] = (
            {"on_external": lambda *_: None, "room": (4, 1 << 20)} if name.startswith("source") else {}
        )
        return self.caller.start(self.unit, {"attack": name}, process_timeout_ms=timeout_ms, **more)

    def close(self) -> None:
        self.good.close(LIMIT_S)
        self.caller.pool.close(LIMIT_S)
        self.io.stop()


class Shared:
    """A session as far as its values are concerned: it may have 1 MB of them."""

    def __init__(self) -> None:
        self.budget = Budget(1 << 20)
        self.values = SessionValues(1, "session", 1_000_000, self.budget)
        self.error = ""

    def take_values(self, worker: Worker, writes: int, items: Any) -> None:
        try:
            self.values.take(worker, writes, items)
        except UnitError as error:
            self.error = str(error)


def held() -> tuple[int, int, int]:
    """Descriptors of this process, mappings of shared memory, child processes."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("/memfd:"), len(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("units"))
    yield made
    made.close()


@pytest.fixture
def clean(place: Place) -> Iterator[Place]:
    """Descriptors, mappings, processes and buffers are afterwards what they were before."""
    gc.collect()
    before, live = held(), place.memory.stats().live_buffers
    yield place
    place.check_good()
    gc.collect()
    wait_for(lambda: held() == before, f"{before} before")
    wait_for(lambda: place.memory.stats().live_buffers == live, "buffers are left")


@pytest.mark.parametrize("name", KILLED)
def test_an_attacker_is_named_and_killed(
    clean: Place, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "keeps all":
        monkeypatch.setattr(checks, "HELD_BYTES", 100_000)
    monkeypatch.setattr(checks, "STALL_S", 0.2)
    monkeypatch.setattr(logging.getLogger("modelboxd.unit"), "disabled", True)
    group = clean.attacker(name, 300 if name in ("silent", "stopped") else 0)
    victim = group.workers[0]
    reason = ATTACKS[name][1]
    assert reason is not None
    wanted = re.compile(rf"python worker job/node#0 \(pid {victim.pid}\) .*{reason}")

    def verdict() -> str:
        return next((text for text in caplog.messages if f"job/node#0 (pid {victim.pid})" in text), "")

    while victim.alive:  # those that go on answering are found out after some calls
        if group.pick() is victim:
            error = clean.caller.submit(group, DATA, owner=Shared()).result(LIMIT_S).error
            assert error is None or isinstance(error, (WorkerLostError, TimedOutError)), error
    wait_for(lambda: verdict() != "", "nobody says why")
    said = verdict()
    assert wanted.match(said), said
    clean.check_good()
    wait_for(lambda: not psutil.pid_exists(victim.pid), "the attacker lives on")
    group.close(1.0)


@pytest.mark.parametrize("name", BORNE)
def test_others_go_on_beside_an_attacker(clean: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("modelboxd.unit"), "disabled", True)
    group = clean.attacker(name)
    worker = group.workers[0]
    for _ in range(5):
        assert clean.caller.submit(group, DATA).result(LIMIT_S).error is None
        clean.check_good()
    assert worker.alive and worker is group.workers[0]
    group.close(1.0)
    wait_for(lambda: not psutil.pid_exists(worker.pid), "the attacker lives on")


def test_a_flood_of_values_fails_its_session_alone(clean: Place) -> None:
    group = clean.attacker("floods values")
    worker = group.workers[0]
    sessions = [Shared() for _ in range(3)]
    for _ in range(20):
        for shared in sessions:
            assert clean.caller.submit(group, DATA, owner=shared).result(LIMIT_S).error is None
            assert 0 < shared.budget.used <= 1_000_000
        clean.check_good()
    for shared in sessions:
        assert "the values of a session need" in shared.error
        shared.values.close()
        assert shared.budget.used == 0
    assert worker.alive
    group.close(1.0)
    wait_for(lambda: not psutil.pid_exists(worker.pid), "the attacker lives on")
