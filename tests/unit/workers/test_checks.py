"""What a worker is allowed, without one."""

from __future__ import annotations

import pytest

from modelbox._core.memory import new_list
from modelboxd.workers import checks, protocol
from modelboxd.workers.protocol import ProtocolError, WorkerCall, WorkerResult


def test_pace_lets_a_burst_through_and_then_so_much_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(checks.time, "monotonic", lambda: now)
    pace = checks.Pace(100, 10)
    assert [pace.take(1) for _ in range(10)] == [0.0] * 10
    assert pace.take(5) == pytest.approx(0.05)
    now += 0.06
    assert pace.take(0) == 0.0
    assert pace.take(1.2) == checks.LEAST_PAUSE_S
    now += 60
    assert pace.take(10) == 0.0 and pace.take(1) > 0  # a long silence gives no more than one burst


def test_a_source_has_so_many_sessions_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "OPEN_SESSIONS", 3)
    sources = checks.Sources()
    sources.most = 100
    call = WorkerCall(1, False, False, 1, "", [new_list(0)], [], external=2)
    for number in (1, 2, 3, 3):
        sources.arrived(WorkerResult([object()], number=number))
    sources.called([call])
    sources.arrived(WorkerResult([], number=2))
    sources.arrived(WorkerResult([object()], number=4))
    with pytest.raises(ProtocolError, match="more than 3 sessions"):
        sources.arrived(WorkerResult([object()], number=5))


def test_calls_and_failures_make_room_for_lists_of_a_source() -> None:
    sources = checks.Sources()
    sources.most = 2
    call = WorkerCall(1, False, False, 1, "", [new_list(0)], [], external=1)
    for _ in range(2):
        sources.arrived(WorkerResult([object()], number=1))
    sources.called([call])
    sources.arrived(WorkerResult([object()], number=1))
    sources.failed(1)
    for _ in range(5):
        sources.arrived(WorkerResult([object()], number=1))  # on their way
    sources.arrived(WorkerResult([], number=1))
    for _ in range(2):
        sources.arrived(WorkerResult([object()], number=1))  # a new one
    with pytest.raises(ProtocolError, match="more than 2 lists"):
        sources.arrived(WorkerResult([object()], number=1))


def test_only_calls_behind_an_event_of_their_context_are_skipped() -> None:
    calls = [WorkerCall(context, False, False, 1, "", [], []) for context in (5, 6, 5)]
    good = [WorkerResult([None], more=True), WorkerResult([None]), WorkerResult([], skipped=True)]
    checks.check_results(calls, good, 1)
    for wrong in (1, 2):
        results = [WorkerResult([None], more=wrong == 1), WorkerResult([None]), WorkerResult([None])]
        results[wrong] = WorkerResult([], skipped=True)
        with pytest.raises(ProtocolError, match="skipped"):
            checks.check_results(calls, results, 1)


def test_what_a_worker_may_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "HELD_BYTES", 1000)
    checks.check_held((1, 1000), [], 0)
    with pytest.raises(ProtocolError, match="does the unit keep its inputs"):
        checks.check_held((1, 1001), [], 0)
    with pytest.raises(ProtocolError):
        checks.check_held((1, 600), [], 1000)  # half of what the daemon has
    items = new_list(0)
    items.bytes = 700
    checks.check_held((1, 1001), [WorkerCall(0, False, False, 1, "", [items], [])], 0)  # under way
