"""Bytes of request bodies that are coming in, over all connections: what clients can make the server hold."""

from __future__ import annotations

from modelboxd.server.answer import error_answer

FULL = error_answer(
    503, "too much is being received at once, try again later", headers={"Retry-After": "1"}, close=True
)


class Bodies:
    """Counts them against a limit. [I/O thread]"""

    __slots__ = ("_limit", "held")

    def __init__(self, limit: int) -> None:
        """`limit` in bytes; 0: none."""
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Counts `size` bytes more; False when that is beyond the limit, nothing is counted then."""
        if 0 < self._limit < self.held + size:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """They have gone on, or were dropped."""
        self.held -= size
