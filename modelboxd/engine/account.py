"""What one session costs: time at each step, and the memory of its buffers."""

from __future__ import annotations


class Account:
    """Kept for sessions that enter through input nodes. Guarded by the job's lock."""

    __slots__ = ("bytes", "peak_bytes", "times")

    def __init__(self) -> None:
        self.bytes = 0  # of buffers that wait at steps or are worked on; one that goes to two steps counts twice
        self.peak_bytes = 0
        self.times: dict[str, list[int]] = {}  # by name of the step: values that it worked on, nanoseconds

    def arrived(self, size: int) -> None:
        """Buffers wait at a step now."""
        self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes

    def ran(self, step: str, values: int, nanoseconds: int, size: int) -> None:
        """A step has worked on values that had `size` bytes."""
        entry = self.times.get(step)
        if entry is None:
            entry = self.times[step] = [0, 0]
        entry[0] += values
        entry[1] += nanoseconds
        self.bytes -= size
