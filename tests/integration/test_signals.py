"""Signals to the daemon, whichever of its threads the kernel gives them to."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import psutil

from tests.integration.server import LIMIT_S, Server

TGKILL = {"x86_64": 234, "aarch64": 131}


def test_a_signal_that_another_thread_gets_is_heard(tmp_path: Path) -> None:
    server = Server(folder=tmp_path).ready()
    pid = server.process.pid
    other = min(thread.id for thread in psutil.Process(pid).threads() if thread.id != pid)  # the first is there to stay
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for number in (signal.SIGHUP, signal.SIGTERM):
            assert libc.syscall(TGKILL[os.uname().machine], pid, other, int(number)) == 0
            server.wait_for("graph files were read again" if number == signal.SIGHUP else "stopping by SIGTERM")
        assert server.process.wait(LIMIT_S) == 0
    finally:
        server.kill()
