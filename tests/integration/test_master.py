"""A python-master that cannot fork, and one whose files are of another version than the server."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from modelbox.errors import UnitError, WorkerLostError
from tests.integration.workers import Caller, write_unit
from tests.waiting import wait_for

MASTER = """
import os
from modelboxd.workers import master

VERSION = os.environ.get("TEST_VERSION")
fork = os.fork


def fork_or_not():
    if os.path.exists(os.environ.get("TEST_FULL", "")):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()


if __name__ == "__main__":
    master.VERSION = VERSION or master.VERSION
    os.fork = fork_or_not
    master.main()
"""
PID = """
import os
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            if str(buffer) == "die":
                os._exit(3)
            context.output("out").push_back(str(os.getpid()))
        return modelbox.Status()
"""


@pytest.fixture
def odd(caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caller:
    """Calls workers of that master."""
    (tmp_path / "odd_master.py").write_text(MASTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(caller.pool, "master_module", "odd_master")
    return caller


def test_a_worker_that_cannot_be_forked(odd: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    monkeypatch.setenv("TEST_FULL", str(full))
    other = odd.start(write_unit(tmp_path, "other", PID))
    group = odd.start(write_unit(tmp_path, "unit", PID))
    answer = odd.call(other, "pid")
    descriptors = len(os.listdir("/proc/self/fd"))
    full.touch()
    with pytest.raises(WorkerLostError, match="exit code 3"):
        odd.call(group, "die")
    why = r"cannot be forked: Resource temporarily unavailable \(is there memory left, and room in TasksMax="
    wait_for(lambda: "cannot be forked" in group.status().last_cause)
    # It is nobody's fault: no breaker opens, all others work, and it is tried until it goes.
    assert group.status().breaker == "closed"
    assert [buffer.as_bytes() for buffer in odd.call(other, "pid")] == [buffer.as_bytes() for buffer in answer]
    with pytest.raises(UnitError, match=why):
        odd.start(write_unit(tmp_path, "third", PID))
    full.unlink()
    odd.call(group, "pid")
    gc.collect()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    group.close(30)
    other.close(30)


def test_files_that_were_replaced_since_the_start(
    odd: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_VERSION", "9.0.0")
    group = odd.start(write_unit(tmp_path, "unit", PID))
    assert "the python-master is of modelbox 9.0.0, this server of 0." in caplog.text
    odd.call(group, "pid")
    group.close(30)
