"""A process by the descriptor that the kernel has for it: signals that hit no other, and its end. Linux 5.3 on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelboxd.loop import IoThread


class PidFd:
    """None at first, and again after close()."""

    def __init__(self, io: IoThread, on_end: Callable[[], None]) -> None:
        """`on_end()` is called on the I/O thread when the process has ended, once."""
        self._io = io
        self._on_end = on_end
        self._fd = -1
        self._lock = threading.Lock()  # so that no signal is sent by a descriptor that is another's by now

    def is_there(self) -> bool:
        """Whether the process has one. [any thread]"""
        return self._fd >= 0

    def watch(self, fd: int) -> None:
        """Takes the descriptor over. I/O thread."""
        self._fd = fd
        self._io.loop.add_reader(fd, self._ended)

    def kill(self, number: int) -> None:
        """Sends a signal. [any thread]"""
        # It has ended meanwhile, or runs as another user by now.
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """The process is gone. I/O thread."""
        if self._fd >= 0:
            self._io.loop.remove_reader(self._fd)
            with self._lock:
                os.close(self._fd)
                self._fd = -1

    def _ended(self) -> None:
        self._io.loop.remove_reader(self._fd)
        with contextlib.suppress(ChildProcessError):  # ours only where the master has died and we stand in for init
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        self._on_end()
