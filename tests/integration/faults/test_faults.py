"""The matrix of cells.py, cell by cell; and the ends of the parents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelboxd.workers import process
from tests.integration.faults.cells import LIMIT_S, Rig, cells, quick, run_cell
from tests.integration.faults.everywhere import hang_everywhere
from tests.integration.faults.master import STATES
from tests.integration.server import TOP
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = process.EXIT_WAIT_S
    quick(process)
    made = Rig(tmp_path_factory.mktemp("units"))
    yield made
    made.close()
    process.EXIT_WAIT_S = before


@pytest.mark.parametrize(("state", "fault"), cells())
def test_a_fault_costs_what_the_worker_held(rig: Rig, state: str, fault: str) -> None:
    run_cell(rig, state, fault)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # without a parent that looks
    except psutil.NoSuchProcess:
        return True


def wait_for_ends(pids: list[int]) -> None:
    wait_for(lambda: all(map(is_gone, pids)), f"some of {pids} are there after two seconds", limit_s=2.0)


def test_no_process_survives_the_daemon(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.faults.everywhere", str(tmp_path)]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        pids = json.loads(daemon.stdout.readline())
        daemon.kill()
        assert len(pids) == 1 + 1 + 2 + len(
            STATES
        )  # master, the node beside, a parent and its child, a worker per state
        wait_for_ends(pids)


def test_no_process_survives_the_master(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Rig(tmp_path)
    master = made.pool._master
    assert master is not None
    groups = [made.beside, *hang_everywhere(made)]
    pids = [child.pid for child in psutil.Process(master.pid).children(recursive=True)]
    assert len(pids) == 1 + 2 + len(STATES)
    master.kill()
    wait_for_ends(pids)
    wait_for(lambda: all(made.whole(group, 1) for group in groups), "not all groups are whole again")
    for group in groups[2:]:
        made.check(group)
    assert any("the python-master" in text for text in caplog.messages)
    for group in groups[1:]:
        group.close(LIMIT_S)
    made.close()
