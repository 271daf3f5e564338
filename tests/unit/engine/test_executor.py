"""The engine's threads."""

from __future__ import annotations

import threading

import pytest

from modelbox.errors import ModelBoxError
from modelboxd.engine.executor import Executor


def test_fewer_threads_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.endswith("-2"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    executor = Executor(4, name="mb-few")
    with pytest.raises(ModelBoxError, match="only 2 of 4 engine threads could be started: can't start new thread"):
        executor.start()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mb-few")]
