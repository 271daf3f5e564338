"""How the python-master ends what it has started, where the kernel does not let it."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from modelboxd.workers import master


class Ended(BaseException):
    pass


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A process of another user, 4711, which is a child; gets what signals were tried."""
    tried: list[int] = []

    def refuse(pid: int, number: int) -> None:
        assert pid == 4711
        tried.append(number)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(os, "killpg", refuse)
    return tried


def test_another_users_process_is_no_error(theirs: list[int]) -> None:
    master.kill(4711, signal.SIGSTOP)
    master.kill_group(4711)
    assert theirs == [signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL]


def test_the_end_does_not_wait_for_what_cannot_be_killed(theirs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(master, "END_LIMIT_S", 0.01)
    monkeypatch.setattr(master, "children", lambda: [4711])
    monkeypatch.setattr(os, "waitpid", lambda *_: (0, 0))  # it lives
    monkeypatch.setattr(os, "_exit", end)
    ours, _ = socket.socketpair()
    made = master.Master(ours)
    with pytest.raises(Ended) as ended:
        made.end()
    assert ended.value.args == (0,) and theirs[0] == signal.SIGKILL
