"""The life of worker processes: time limits, heartbeat, breaker, recycling, ends of parents, what status() tells."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from modelbox.errors import TimedOutError, WorkerLostError
from modelboxd.cpus import cpu_count
from modelboxd.workers import group as group_module
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.health import WorkerState
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from tests.integration.obedient import is_there, pid_of, send, states, text_of
from tests.integration.workers import LIMIT_S, Caller
from tests.waiting import Gate, wait_for

# ---- ends and what replaces them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("signal SIGKILL", "was killed by SIGKILL"),
        ("signal SIGABRT", "was killed by SIGABRT"),
        ("exit 0", "ended with exit code 0"),
        ("exit 7", "ended with exit code 7"),
    ],
)
def test_ends_are_told_and_the_place_is_filled_again(
    start: Callable[..., WorkerGroup], caller: Caller, order: str, text: str
) -> None:
    group = start()
    first = pid_of(caller, group)
    with pytest.raises(WorkerLostError, match=rf"node#0 \(pid {first}\) {text} while it held 1 call"):
        caller.call(group, order)
    assert pid_of(caller, group) != first
    assert not is_there(first)
    status = group.status()
    assert (status.state, status.restarts, status.workers[0].restarts) == ("ready", 1, 1)
    assert text in status.last_cause and text in status.workers[0].last_cause


def test_a_crash_in_c_tells_the_line_of_the_unit(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    with pytest.raises(
        WorkerLostError, match=r"SIGSEGV.*Segmentation fault \(File .*obedient0\.py\", line \d+ in process"
    ):
        caller.call(start(), "segfault")


def test_idle_workers_that_end_now_and_then_open_no_breaker(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "STEADY_S", 0.0)  # as if each had been there for long
    group = start(max_restarts=2)
    for _ in range(4):
        pid = group.workers[0].pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: group.status().state == "ready" and group.workers[0].pid != pid)
        assert (group.status().breaker, group.status().crashes) == ("closed", 1)
    for _ in range(2):  # what ends with a call in its hands counts
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            caller.call(group, "signal SIGKILL")
    assert group.status().breaker == "open"


def test_the_breaker(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(max_restarts=3, restart_cooldown_s=1)
    for _ in range(3):
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            caller.call(group, "signal SIGKILL")
    # At once, with the cause, and nothing is started.
    with pytest.raises(
        WorkerLostError, match=r"'node' is out of service after 3 crashes in a row: .* was killed by SIGKILL"
    ):
        caller.call(group, "pid")
    status = group.status()
    assert (status.state, status.breaker) == ("down", "open")
    wait_for(lambda: states(group) == ["breaker open"])  # the calls have failed before the process is gone
    assert 0 < status.retry_in_s <= 1 and status.crashes == 3
    # The trial fails, so it stays open, for longer.
    wait_for(lambda: group.status().breaker == "half-open" and group.status().state == "ready")
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        caller.call(group, "signal SIGKILL")
    assert group.status().breaker == "open" and 1 < group.status().retry_in_s <= 2
    # The next one answers.
    wait_for(lambda: group.status().breaker == "half-open" and group.status().state == "ready")
    assert pid_of(caller, group)
    wait_for(lambda: group.status().breaker == "closed")
    assert group.status().state == "ready"


def test_the_breaker_starts_all_workers_again(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(max_restarts=2, restart_cooldown_s=1, workers=2)
    for _ in range(2):
        with pytest.raises(WorkerLostError):
            caller.call(group, "exit 1")
    wait_for(lambda: group.status().state == "down" or caller.call(group, "pid"))
    wait_for(lambda: _answers(caller, group))
    wait_for(lambda: group.status().state == "ready")
    assert len({worker.pid for worker in group.status().workers}) == 2


def _answers(caller: Caller, group: WorkerGroup) -> bool:
    try:
        caller.call(group, "pid")
    except WorkerLostError:
        return False
    return True


def test_a_unit_that_does_not_open_again_opens_the_breaker(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    group = start(config={"broken": str(flag)}, max_restarts=2, restart_cooldown_s=1)
    flag.touch()
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        caller.call(group, "signal SIGKILL")
    with pytest.raises(WorkerLostError, match=r"out of service.*OSError: the model is gone"):
        caller.call(group, "pid")
    flag.unlink()
    wait_for(lambda: _answers(caller, group))


def test_restart_never_and_on_failure(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    never = start(restart="never")
    with pytest.raises(WorkerLostError, match="exit code 7"):
        caller.call(never, "exit 7")
    with pytest.raises(WorkerLostError, match=r"has no workers left \(restart = never\): .* exit code 7"):
        caller.call(never, "pid")
    assert never.status().state == "down"
    wait_for(lambda: states(never) == ["ended"])
    failures = start(restart="on-failure")
    with pytest.raises(WorkerLostError, match="exit code 0 while"):
        caller.call(failures, "exit 0")  # a failure, since it held a call
    assert pid_of(caller, failures)


# ---- time --------------------------------------------------------------------------------------------------------


def test_a_place_is_not_used_before_the_process_is_gone(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = start(process_timeout_ms=100)
    (worker,) = group.workers
    kills: list[int] = []
    with monkeypatch.context() as patched:
        # As if the process took long to die.
        patched.setattr(signal, "pidfd_send_signal", lambda _, number: kills.append(number))
        with pytest.raises(TimedOutError, match=r"did not answer within 0\.1 s \(process_timeout_ms\)"):
            caller.call(group, "locked")
    assert kills == [signal.SIGKILL]
    assert states(group) == ["stuck"] and group.pick() is None
    assert group.workers == [worker] and is_there(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)
    assert pid_of(caller, group) != worker.pid
    assert not is_there(worker.pid)


def test_one_call_of_a_long_message_over_time(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path
) -> None:
    group = start(process_timeout_ms=300)
    never = Gate(tmp_path / "never")
    calls = [
        WorkerCall(0, False, False, 1, "session", [caller.list_of(text)], [b""])
        for text in ("pid", f"sleep {never.path}", *["pid"] * 998)
    ]
    future: Future[list[WorkerResult]] = Future()
    group.workers[0].submit(calls, future.set_result)
    (error,) = {str(result.error) for result in future.result(LIMIT_S)}
    assert "did not answer within 0.3 s" in error  # not within 300 s
    assert "; it was at " in error and "obedient0.py:" in error and "in process" in error


@pytest.mark.parametrize(
    ("order", "evidence"),
    [
        ("locked", "C code waits and keeps the interpreter locked"),
        ("signal SIGSTOP", "(was stopped by|it is stopped by)"),
    ],
)
def test_a_silent_worker_is_found_without_a_time_limit(
    start: Callable[..., WorkerGroup], caller: Caller, order: str, evidence: str
) -> None:
    group = start(heartbeat_timeout_ms=400)
    first = pid_of(caller, group)
    with pytest.raises(WorkerLostError, match=rf"0\.4 s.*{evidence}|{evidence}.*0\.4 s"):
        caller.call(group, order)
    assert pid_of(caller, group) != first
    assert not is_there(first)


@pytest.mark.parametrize("order", ["python", "sleep"])
def test_a_long_call_is_left_alone(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path, order: str
) -> None:
    group = start(heartbeat_timeout_ms=200, orphan_timeout_ms=200)
    gate, done = Gate(tmp_path / "gate"), tmp_path / "done"
    future = caller.submit(group, f"{order} {done if order == 'python' else gate.path}")
    wait_for(lambda: group.status().workers[0].busy_s > 1 and "obedient0.py:" in group.status().workers[0].where)
    assert states(group) == ["busy"]
    done.touch()
    gate.open()
    assert text_of(future.result(LIMIT_S)) == str(group.workers[0].pid)
    assert group.restarts == 0


def test_a_stopped_worker_gets_no_work_and_may_go_on(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(workers=2)
    stopped, other = group.workers
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_for(lambda: stopped.watchdog.stopped)
    assert sorted(states(group)) == ["ready", "stuck"] and group.status().state == "degraded"
    for _ in range(5):
        assert pid_of(caller, group) == other.pid
    os.kill(stopped.pid, signal.SIGCONT)
    wait_for(lambda: group.status().state == "ready")
    assert group.restarts == 0


def test_an_idle_worker_that_stays_stopped_is_replaced(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(heartbeat_timeout_ms=200)
    first = group.workers[0].pid
    os.kill(first, signal.SIGSTOP)
    wait_for(lambda: group.restarts == 1 and group.status().state == "ready")
    assert "was stopped by SIGSTOP for 0.2 s" in group.status().last_cause
    assert not is_there(first)


def test_a_call_that_nobody_waits_for_is_ended(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path
) -> None:
    group = start(orphan_timeout_ms=200, heartbeat_timeout_ms=0)
    wanted = threading.Event()
    wanted.set()
    never = Gate(tmp_path / "never")
    future: Future[list[WorkerResult]] = Future()
    call = WorkerCall(0, False, False, 1, "session", [caller.list_of(f"sleep {never.path}")], [b""])
    group.workers[0].submit([call], future.set_result, wanted.is_set)
    wait_for(lambda: group.status().workers[0].busy_s > 0.6)
    assert not future.done()
    wanted.clear()
    (result,) = future.result(LIMIT_S)
    assert "for 0.2 s with a call that nobody waits for (orphan_timeout_ms) and was killed" in str(result.error)
    assert pid_of(caller, group)


def test_an_idle_worker_costs_no_wake_ups(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(heartbeat_timeout_ms=100)
    pid_of(caller, group)
    (worker,) = group.workers
    wait_for(lambda: not worker._watching)

    def threads() -> list[tuple[str, str, list[str]]]:
        """Name, state and context switches of each thread."""
        found = []
        for path in Path(f"/proc/{worker.pid}/task").glob("*/status"):
            fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
            found.append((fields["Name"], fields["State"][0], [fields[name] for name in fields if "ctxt" in name]))
        return sorted(found)

    wait_for(lambda: worker._release_timer is None)
    wait_for(lambda: all(state == "S" for _, state, _ in threads()))  # one that has just begun has yet to fall asleep
    before = threads()
    # The one that answers pings; the unit's, and those of OpenBLAS, which was told to use all CPUs together with it.
    assert [name for name, _, _ in before] == ["mb-heart", *["node#0"] * cpu_count()]
    asleep = threading.Event()
    caller.pool.io.call(caller.pool.io.loop.call_later, 1.0, asleep.set)
    assert asleep.wait(LIMIT_S)
    assert threads() == before and not worker._watching


# ---- recycling ----------------------------------------------------------------------------------------------------


def test_after_max_requests_a_fresh_one_takes_over_and_nothing_is_lost(
    start: Callable[..., WorkerGroup], caller: Caller
) -> None:
    group = start(max_requests=20, workers=2)
    pids: set[str] = set()

    def go_on() -> bool:
        futures = [caller.submit(group, "pid") for _ in range(50)]
        pids.update(text_of(future.result(LIMIT_S)) for future in futures)
        return len(pids) > 6

    wait_for(go_on)
    wait_for(lambda: group.recycled >= 2 and states(group) == ["ready", "ready"])
    assert (group.restarts, group.status().last_cause) == (0, "")
    left = {worker.pid for worker in group.status().workers}
    wait_for(lambda: not any(is_there(int(pid)) for pid in pids if int(pid) not in left))


def test_a_worn_worker_finishes_its_streams(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(stream=True, max_requests=2)
    (old,) = group.workers
    assert text_of(send(old, caller, "pid", 5).result(LIMIT_S)) == str(old.pid)
    assert text_of(send(old, caller, "pid", 5, begin=False).result(LIMIT_S)) == str(old.pid)
    wait_for(lambda: group.recycled == 1)
    assert sorted(states(group)) == ["ready", "recycling"]
    (new,) = group.workers
    assert text_of(caller.submit(group, "pid", stream=6, end=True).result(LIMIT_S)) == str(new.pid)
    assert text_of(send(old, caller, "pid", 5, begin=False).result(LIMIT_S)) == str(old.pid)
    assert is_there(old.pid)
    assert text_of(send(old, caller, "pid", 5, begin=False, end=True).result(LIMIT_S)) == str(old.pid)
    wait_for(lambda: not is_there(old.pid) and states(group) == ["ready"])
    # What was meant for the old one goes to its heir.
    assert text_of(send(old, caller, "pid").result(LIMIT_S)) == str(new.pid)


def test_streams_of_a_worn_worker_fail_when_they_do_not_end(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The limit is so long that the heir certainly opens and the last call begins before it is over.
    group = start(stream=True, max_requests=2, retire_timeout_ms=3000)
    (old,) = group.workers
    for begin in (True, False):
        assert text_of(send(old, caller, "pid", 5, begin=begin).result(LIMIT_S)) == str(old.pid)
    wait_for(lambda: group.recycled == 1)
    (new,) = group.workers
    gate = Gate(tmp_path / "gate")
    under_way = send(old, caller, f"sleep {gate.path}", 5, begin=False)
    wait_for(lambda: old.ending)
    # A call that it has is answered; one that comes later is not, and says why.
    late = send(old, caller, "pid", 5, begin=False)
    gate.open()
    assert text_of(under_way.result(LIMIT_S)) == str(old.pid)
    why = r"was replaced 3 s ago, and its streams have not ended since \(retire_timeout_ms\)"
    assert re.search(why + " while it held 1 call$", str(late.result(LIMIT_S).error))
    wait_for(lambda: not is_there(old.pid) and states(group) == ["ready"])
    last = send(old, caller, "pid", 5, begin=False, end=True).result(LIMIT_S).error
    assert re.search(why + ".*; the stream's state was lost with it$", str(last))
    assert re.search(why + ": 1 fail now", caplog.text)
    assert old.clean and group.restarts == 0
    assert text_of(send(new, caller, "pid").result(LIMIT_S)) == str(new.pid)


def test_a_worn_worker_goes_on_until_its_heir_opens(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    group = start(max_requests=1, config={"broken": str(flag)})
    flag.touch()
    first = pid_of(caller, group)
    wait_for(lambda: "the model is gone" in group.status().last_cause)
    assert pid_of(caller, group) == first
    flag.unlink()
    wait_for(lambda: pid_of(caller, group) != first)


def test_memory_limit(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start(memory_limit_mb=400, max_restarts=0)
    first = pid_of(caller, group)
    caller.call(group, "grow 420")
    wait_for(lambda: group.recycled == 1 and pid_of(caller, group) != first)
    assert group.restarts == 0
    wait_for(lambda: states(group) == ["ready"])
    # Far more, in a call that does not end.
    never = Gate(tmp_path / "never")
    with pytest.raises(
        WorkerLostError, match=r"uses \d+ MB, more than 1.5 times memory_limit_mb = 400, and was killed"
    ):
        caller.call(group, "grow 700", f"sleep {never.path}")
    assert pid_of(caller, group)


# ---- streams -------------------------------------------------------------------------------------------------------


def test_streams_are_spread_and_fail_with_their_worker(start: Callable[..., WorkerGroup], caller: Caller) -> None:
    group = start(stream=True, workers=3)
    pids = [text_of(caller.submit(group, "pid", stream=number).result(LIMIT_S)) for number in range(1, 10)]
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3, 3]
    victim = next(worker for worker in group.workers if str(worker.pid) == pids[0])
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: not victim.alive)
    with pytest.raises(WorkerLostError, match="was killed by SIGKILL; the stream's state was lost with it"):
        text_of(send(victim, caller, "pid", 1, begin=False).result(LIMIT_S))
    wait_for(lambda: group.status().state == "ready")
    fresh = next(worker for worker in group.workers if worker.number == victim.number)
    assert [worker.streams for worker in group.status().workers if worker.number == victim.number] == [0]
    new = [text_of(caller.submit(group, "pid", stream=number).result(LIMIT_S)) for number in (21, 22, 23)]
    assert new == [str(fresh.pid)] * 3  # it has the least


def test_a_lost_worker_has_its_cause(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment; the longest step of its end is the reading of what it has printed."""
    group = start(stream=True)
    (worker,) = group.workers
    seen: list[tuple[bool, str]] = []
    for part, step in ((worker.output, "ended"), (worker.output, "last_words"), (worker.watchdog, "close")):
        done = getattr(part, step)
        monkeypatch.setattr(part, step, lambda done=done: (seen.append((worker.alive, worker.cause)), done())[1])
    worker.on_lost = lambda _, cause: seen.append((worker.alive, cause))
    text_of(caller.submit(group, "pid", stream=1).result(LIMIT_S))
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: len(seen) == 4)
    cause = f"python worker {worker.name} (pid {worker.pid}) was killed by SIGKILL"
    assert seen == [(True, ""), (True, ""), (False, cause), (False, cause)]


# ---- what status() tells ----------------------------------------------------------------------------------------------


def test_status_follows_a_worker(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start()
    status = group.status()
    assert (status.node, status.state, status.breaker) == ("node", "ready", "closed")
    (worker,) = status.workers
    assert (worker.state, worker.pid, worker.calls, worker.outstanding) == (
        WorkerState.READY,
        group.workers[0].pid,
        0,
        0,
    )
    assert worker.memory_bytes > 5 << 20
    gate = Gate(tmp_path / "gate")
    future = caller.submit(group, f"sleep {gate.path}")
    assert states(group) == ["busy"]
    assert group.status().workers[0].outstanding == 1
    gate.open()
    future.result(LIMIT_S)
    assert (states(group), group.status().workers[0].calls) == (["ready"], 1)
    data = group.status().as_dict()
    assert data["workers"][0]["state"] == "ready" and data["state"] == "ready"


def test_status_while_a_worker_is_started_again(
    start: Callable[..., WorkerGroup], caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = start()
    monkeypatch.setattr("modelboxd.workers.supervision.FIRST_DELAY_S", 0.5)
    seen: list[str] = []
    with pytest.raises(WorkerLostError):
        caller.call(group, "exit 3")

    def note() -> bool:
        (state,) = states(group)
        if not seen or seen[-1] != state:
            seen.append(state)
        return state == "ready"

    wait_for(note)
    assert "backing off" in seen and seen[-1] == "ready"
    order = ["stuck", "backing off", "starting", "opening", "ready"]  # stuck: the process is not gone yet
    assert seen == [state for state in order if state in seen]
