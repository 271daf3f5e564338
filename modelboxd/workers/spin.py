"""How a worker waits for its next message: it looks for it for a moment before it sleeps, while that pays."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

AUTO_US = 200  # with one call after the other the daemon needs 60 us and more between an answer and the next call

Got = TypeVar("Got")


def microseconds(asked: int, *, cpus: int, workers: int) -> int:
    """How long a worker looks for its next message when there are `workers`; `asked` < 0: only where a CPU is left for
    the daemon meanwhile, since a worker that looks must not take time from the one that it waits for."""
    if asked >= 0:
        return asked
    return AUTO_US if cpus > workers else 0


class Spin:
    """Wakes up faster than the kernel would do it, when messages come in quick succession; else it sleeps at once."""

    __slots__ = ("_soon", "limit_s")

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: 0 = always sleep."""
        self.limit_s = limit_s
        self._soon = False  # the last message came within limit_s

    def receive(self, receive: Callable[[int], Got]) -> Got:
        """`receive(flags)` takes a message, and with MSG_DONTWAIT raises BlockingIOError when there is none."""
        if not self.limit_s:
            return receive(0)
        begun = monotonic()
        if self._soon:
            while monotonic() - begun < self.limit_s:
                try:
                    return receive(socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
        self._soon = False
        got = receive(0)
        self._soon = monotonic() - begun <= self.limit_s
        return got
