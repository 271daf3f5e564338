"""How tests wait: for conditions, never for time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 30.0


def comes_true(condition: Callable[[], object], limit_s: float = LIMIT_S) -> Any:
    """Asks again and again, which is all that can be done about other processes and threads that tell nobody. Returns
    what the condition gave in the end."""
    end = time.monotonic() + limit_s
    pause = threading.Event()
    while not (value := condition()) and time.monotonic() < end:
        pause.wait(0.002)
    return value


def wait_for(condition: Callable[[], object], what: str = "it did not come to that", limit_s: float = LIMIT_S) -> Any:
    """As comes_true(), and fails when it does not."""
    value = comes_true(condition, limit_s)
    assert value, what
    return value


class Gate:
    """A FIFO at which units wait, with `open(path, "rb", 0).read(1)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # so that neither side waits for the other to open it
        weakref.finalize(self, os.close, self._fd)

    def open(self) -> None:
        """Lets all pass, also those that come later."""
        os.write(self._fd, bytes(4096))
