"""What a unit has started ends with its worker, and everything with the daemon."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelbox.errors import WorkerLostError
from modelboxd.workers import marks
from modelboxd.workers.group import WorkerGroup
from tests.integration.obedient import is_there, pid_of, send, text_of
from tests.integration.workers import LIMIT_S, Caller
from tests.waiting import wait_for

KINDS = ["child", "child apart", "program", "program apart"]  # that a unit starts


def test_children_of_a_worker_end_with_it(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start()
    worker = pid_of(caller, group)
    caller.call(group, "child")
    (child,) = wait_for(lambda: _children(worker))
    with pytest.raises(WorkerLostError):
        caller.call(group, "signal SIGKILL")
    wait_for(lambda: not is_there(child))
    assert not is_there(worker)


def _children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return found + [deeper for child in found for deeper in _descendants(child)]


DAEMON = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {top!r})
from modelbox._core.memory import Pool
from modelboxd.loop import IoThread
from modelboxd.workers.pool import WorkerPool
from tests.integration.obedient import OBEDIENT
from tests.integration.workers import Caller, write_unit
io = IoThread()
io.start()
memory = Pool()
pool = WorkerPool(io, memory)
caller = Caller(pool, memory)
group = caller.start(write_unit(Path({folder!r}), "obedient", OBEDIENT), workers=4)
caller.call(group, "child")
caller.call(group, "child apart")
locked = group.workers[0].pid
caller.submit(group, "locked")
print(pool._master.pid, *[worker.pid for worker in group.workers], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stopped", ["nobody", "worker", "master", "both"])
def test_nothing_survives_the_daemon(tmp_path: Path, stopped: str) -> None:
    top = str(Path(__file__).resolve().parents[2])
    code = DAEMON.format(top=top, folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        master, *workers = [int(word) for word in daemon.stdout.readline().split()]
        wait_for(lambda: len(_descendants(master)) == 6)  # 4 workers, a child, and one that has gone apart
        everybody = [master, *_descendants(master)]
        assert set(workers) < set(everybody)
        fds = [os.pidfd_open(pid) for pid in everybody]
        if stopped in ("worker", "both"):
            os.kill(workers[1], signal.SIGSTOP)
        if stopped in ("master", "both"):
            os.kill(master, signal.SIGSTOP)
        daemon.kill()
        daemon.wait()
    # A pidfd is readable when its process has ended. The time is not measured, but bounded as it is promised.
    limit = time.monotonic() + 2.0
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while fds and (left := limit - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            os.close(fd)
            fds.remove(fd)
    assert not fds, f"{len(fds)} of {everybody} are still there"


def test_a_master_that_is_killed_takes_all_along_and_is_replaced(
    start: Callable[..., WorkerGroup], caller: Caller
) -> None:
    group = start(workers=2)
    first = {pid_of(caller, group), *(worker.pid for worker in group.workers)}
    caller.call(group, "child")
    assert caller.pool._master is not None
    master = caller.pool._master.pid
    everybody = [master, *_descendants(master)]
    assert len(everybody) == 4
    os.kill(master, signal.SIGKILL)
    wait_for(lambda: not any(is_there(pid) for pid in everybody))
    wait_for(lambda: group.status().state == "ready")
    assert not first & {worker.pid for worker in group.workers}
    assert group.status().crashes == 0  # it was not the unit


def _start_all(group: WorkerGroup, caller: Caller, number: int = 0) -> dict[str, int]:
    """Has one worker start a process of each kind; their pids."""
    worker = group.workers[number]
    return {kind: int(text_of(send(worker, caller, kind).result(LIMIT_S))) for kind in KINDS}


@pytest.mark.parametrize("end", ["signal SIGKILL", "exit 0", "segfault"])
def test_what_has_left_its_group_ends_with_its_worker(
    start: Callable[..., WorkerGroup], caller: Caller, end: str
) -> None:
    group = start(workers=2)
    theirs, others = _start_all(group, caller), _start_all(group, caller, 1)
    assert all(is_there(pid) for pid in (*theirs.values(), *others.values()))
    with pytest.raises(WorkerLostError):
        text_of(send(group.workers[0], caller, end).result(LIMIT_S))
    wait_for(lambda: not any(is_there(pid) for pid in theirs.values()))  # no zombies either
    wait_for(lambda: group.status().state == "ready")
    assert all(is_there(pid) for pid in others.values())


@pytest.mark.parametrize("stopped", [False, True])
def test_what_has_left_its_group_ends_with_the_master(
    start: Callable[..., WorkerGroup], caller: Caller, stopped: bool
) -> None:
    group = start(workers=2)
    pids = [*_start_all(group, caller).values(), *_start_all(group, caller, 1).values()]
    assert caller.pool._master is not None
    if stopped:
        caller.pool._master.send_signal(signal.SIGSTOP)
        os.kill(group.workers[0].pid, signal.SIGKILL)  # which the master does not see
        wait_for(lambda: not group.workers[0].alive)
    caller.pool._master.kill()
    wait_for(lambda: not any(_lives(pid) for pid in pids))
    wait_for(lambda: group.status().state == "ready")


def test_nothing_outlives_an_orderly_end(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    """Not even what has no mark: the master has adopted it."""
    group = start()
    worker = group.workers[0]
    pids = [int(text_of(send(worker, caller, "program bare").result(LIMIT_S))) for _ in range(8)]
    group.close(LIMIT_S)
    assert not is_there(worker.pid) and all(_lives(pid) for pid in pids)
    caller.pool.close(LIMIT_S)
    assert not any(is_there(pid) for pid in pids)


def _lives(pid: int) -> bool:
    """Whether it is there and no zombie: who reaps the orphans of this machine is not ours to say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_marks(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    """Each process of a worker has the mark of its master and its own, those that started no program too."""
    group = start(workers=2)
    words = set()
    for number, worker in enumerate(group.workers):
        pids = [worker.pid, *_start_all(group, caller, number).values()]
        wait_for(lambda pids=pids: len({marks.worker_of(pid) for pid in pids}) == 1)  # a program shows it when it runs
        words |= {(marks.read(pid, marks.MASTER), marks.worker_of(pid)) for pid in pids}
    assert {number for _, number in words} == {1, 2} and len({word for word, _ in words}) == 1
    assert marks.worker_of(os.getpid()) == 0 and marks.worker_of(0) == 0
    assert marks.kill_all_of("no master has this word") == 0 and marks.kill_all_of("") == 0
