"""Python units in worker processes: data both ways, errors, death and replacement."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from modelbox.buffer import Buffer
from modelbox.errors import TimedOutError, UnitError, WorkerLostError
from modelboxd.workers import watchdog
from tests.integration.workers import LIMIT_S, Caller, write_unit
from tests.waiting import Gate

HEAD = "import _flowunit as modelbox\nimport numpy as np\nclass Unit(modelbox.FlowUnit):\n"
ECHO = (
    HEAD
    + """
    def process(self, ctx):
        out = ctx.output("out")
        for buffer in ctx.input("in"):
            out.push_back(buffer)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""
)


def body(text: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in text.splitlines())


def test_text_and_arrays_round_trip(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(
        tmp_path,
        "plus",
        body(
            """def open(self, config):
    self.add = config.get_int("add", 0)
    return modelbox.Status()
def process(self, ctx):
    for buffer in ctx.input("in"):
        made = modelbox.Buffer(self.get_bind_device(), np.array(buffer, copy=False) + self.add)
        made.copy_meta(buffer)
        made.set("seen", {"pid": 1, "list": [1, "a", None]})
        ctx.output("out").push_back(made)
    return modelbox.Status()"""
        ),
    )
    group = caller.start(unit, {"add": "3"})
    for size in (3, 5000, 1_000_000):
        array = np.arange(size, dtype=np.int32)
        sent = Buffer(None, array)
        sent.set("mark", "x")
        (got,) = caller.call(group, sent)
        assert np.array_equal(got.numpy(), array + 3)
        assert got.get("mark") == "x"
        assert got.get("seen") == {"pid": 1, "list": [1, "a", None]}
    group.close(LIMIT_S)


@pytest.mark.parametrize("size", [10, 100_000])
def test_pass_through_keeps_bytes_and_modified_inputs_carry_changes(caller: Caller, tmp_path: Path, size: int) -> None:
    unit = write_unit(
        tmp_path,
        "draw",
        body(
            """def process(self, ctx):
    for buffer in ctx.input("in"):
        if buffer.get("draw"):
            np.array(buffer, copy=False)[0] = 77
        ctx.output("out").push_back(buffer)
    return modelbox.Status()"""
        ),
    )
    group = caller.start(unit)
    plain, drawn = Buffer(None, np.zeros(size, np.uint8)), Buffer(None, np.zeros(size, np.uint8))
    plain.set("draw", False)
    drawn.set("draw", True)
    first, second = caller.call(group, plain, drawn)
    assert first.numpy().sum() == 0
    assert second.numpy()[0] == 77
    # The worker's writes stayed in the worker: the same memory, sent again, is as it was.
    (third,) = caller.call(group, drawn)
    assert drawn.numpy().sum() == 0 and third.numpy()[0] == 77
    group.close(LIMIT_S)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ValueError('broken pipe dream')", "ValueError: broken pipe dream ("),
        ("return None", "process() returned NoneType, expected Status or StatusCode"),
        ("return modelbox.Status(modelbox.Status.StatusCode.STATUS_INVALID, 'not today')", "not today"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_failing_process_is_one_line(caller: Caller, tmp_path: Path, code: str, text: str) -> None:
    group = caller.start(write_unit(tmp_path, "bad", body(f"def process(self, ctx):\n    {code}")))
    for _ in range(2):
        with pytest.raises(UnitError) as caught:
            caller.call(group, "x")
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
    group.close(LIMIT_S)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import nonexistent_module\n", "ModuleNotFoundError: No module named 'nonexistent_module'"),
        ("x = 1\n", "has no class 'Unit' (flow units in it: none)"),
        ("class Unit:\n    pass\n", "does not derive from modelbox.FlowUnit"),
        ("def broken(:\n", "SyntaxError"),
        (HEAD + "    def open(self, config):\n        raise OSError('no camera')\n", "OSError: no camera"),
        (HEAD + "    def open(self, config):\n        return modelbox.Status(False)\n", "open() returned Fault"),
        ("import os\nos._exit(7)\n", "ended with exit code 7"),
    ],
)
def test_unit_that_does_not_open(caller: Caller, tmp_path: Path, code: str, text: str) -> None:
    with pytest.raises(UnitError) as caught:
        caller.start(write_unit(tmp_path, "bad", code))
    assert str(caught.value).startswith("node 'node': unit 'bad' did not open: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_killed_worker_fails_what_it_held_and_is_replaced(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(
        tmp_path,
        "kill",
        body(
            """def process(self, ctx):
    import os, signal
    for buffer in ctx.input("in"):
        if str(buffer) == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.output("out").push_back(str(os.getpid()))
    return modelbox.Status()"""
        ),
    )
    group = caller.start(unit)
    (first,) = caller.call(group, "pid")
    lost = group.workers[0]
    with pytest.raises(
        WorkerLostError, match=r"python worker job/node#0 \(pid \d+\) was killed by SIGKILL while it held 1 call"
    ):
        caller.call(group, "die")
    (second,) = caller.call(group, "pid")
    assert str(first) != str(second)
    assert lost.inbox._incoming == b""  # it is still known, but not with its buffer
    assert group.restarts == 1
    group.close(LIMIT_S)


def test_time_limit(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(
        tmp_path,
        "slow",
        body(
            """def process(self, ctx):
    import signal
    for buffer in ctx.input("in"):
        if str(buffer) == "hang":
            signal.pause()
        ctx.output("out").push_back(buffer)
    return modelbox.Status()"""
        ),
    )
    group = caller.start(unit, process_timeout_ms=200)
    with pytest.raises(TimedOutError, match=r"did not answer within 0\.2 s"):
        caller.call(group, "hang")
    (again,) = caller.call(group, "ok")
    assert str(again) == "ok"
    group.close(LIMIT_S)


def test_a_call_that_does_not_end_is_told(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TELL_S", 0.02)
    gate = Gate(tmp_path / "gate")
    unit = write_unit(
        tmp_path,
        "waits",
        body(
            f"""def process(self, ctx):
    for buffer in ctx.input("in"):
        open({str(gate.path)!r}, "rb", 0).read(1)
        ctx.output("out").push_back(buffer)
    return modelbox.Status()"""
        ),
    )
    group = caller.start(unit)
    told = threading.Event()
    monkeypatch.setattr(watchdog.log, "warning", lambda *text, **_: told.set() if "not answered" in text[0] else None)
    result = caller.submit(group, "wait")
    assert told.wait(LIMIT_S)
    gate.open()
    assert result.result(LIMIT_S).error is None
    group.close(LIMIT_S)


def test_many_buffers_and_large_messages(caller: Caller, tmp_path: Path) -> None:
    group = caller.start(write_unit(tmp_path, "echo", ECHO))
    items = [f"{number:04000d}" for number in range(500)]  # 2 MB of inline payloads: a large body
    got = caller.call(group, *items)
    assert [str(buffer) for buffer in got] == items
    group.close(LIMIT_S)


def test_memory_comes_back(caller: Caller, tmp_path: Path) -> None:
    group = caller.start(write_unit(tmp_path, "echo", ECHO))
    for _ in range(50):
        caller.call(group, np.zeros(100_000, np.uint8), "small")
    del _
    gc.collect()
    group.close(LIMIT_S)
    gc.collect()
    assert caller.memory.stats().live_buffers == 0
    assert caller.memory.stats().arenas == 1


def test_master_killed(caller: Caller, tmp_path: Path) -> None:
    group = caller.start(write_unit(tmp_path, "echo", ECHO), workers=2)
    assert caller.pool._master is not None
    pids = [worker.pid for worker in group.workers]
    os.kill(caller.pool._master.pid, signal.SIGKILL)
    for _ in range(200):
        try:
            (got,) = caller.call(group, "x")
        except WorkerLostError:
            continue
        if not set(pids) & {worker.pid for worker in group.workers}:
            break
    assert str(got) == "x"
    group.close(LIMIT_S)


def test_stream_private_data_and_pre_post(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(
        tmp_path,
        "count",
        body(
            """def data_pre(self, ctx):
    ctx.set_private_int("n", 10)
    return modelbox.Status()
def process(self, ctx):
    n = ctx.get_private_int("n") + 1
    ctx.set_private_int("n", n)
    ctx.output("out").push_back(str(n))
    return modelbox.Status()"""
        ),
        stream=True,
    )
    group = caller.start(unit)
    result = caller.submit(group, "a", stream=5, end=True).result(LIMIT_S)
    assert result.error is None
    from modelbox.buffer import BufferList

    assert [str(b) for b in BufferList.from_core(result.outputs[0])] == ["11"]
    group.close(LIMIT_S)
