"""Distributions that cost next to nothing to record: counts in buckets whose width grows with the value."""

from __future__ import annotations

from collections.abc import Iterable

SUB = 4  # buckets per doubling: a value is known to a fifth
LIMIT = (1 << 40) - 1  # larger values count as this one; in nanoseconds 18 minutes
SIZE = 4 * (40 - 3) + 8


class Histogram:
    """Counts of whole numbers from 0 on. Whoever adds holds a lock; reading needs none."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * SIZE
        self.total = 0  # sum of the values

    def add(self, value: int) -> None:
        """Counts one value."""
        if value > LIMIT:
            value = LIMIT
        shift = value.bit_length() - 3
        self.total += value
        if shift > 0:
            self.counts[(shift << 2) + (value >> shift)] += 1
        else:
            self.counts[value if value > 0 else 0] += 1

    def snapshot(self) -> Distribution:
        """What was counted so far."""
        return Distribution(self.counts.copy(), self.total)


class Distribution:
    """A histogram at one moment."""

    __slots__ = ("count", "counts", "total")

    def __init__(self, counts: list[int], total: int) -> None:
        self.counts = counts
        self.count = sum(counts)
        self.total = total

    def quantile(self, part: float) -> float:
        """The value below which `part` (0 to 1) of the values lie, by even spread within a bucket; 0.0 without any."""
        wanted = part * self.count
        seen = 0
        for number, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                low, high = _low(number), _low(number + 1)
                return low + (high - low) * max(0.0, wanted - seen) / count if high - low > 1 else float(low)
            seen += count
        return 0.0

    def below(self, bounds: Iterable[int]) -> list[int]:
        """How many values lie below each of `bounds`, which are powers of two in rising order."""
        found = []
        seen, number = 0, 0
        for bound in bounds:
            while number < len(self.counts) and _low(number) < bound:
                seen += self.counts[number]
                number += 1
            found.append(seen)
        return found


def _low(number: int) -> int:
    """The least value of a bucket."""
    if number < 2 * SUB:
        return number
    shift = (number >> 2) - 1
    return (number - (shift << 2)) << shift


__all__ = ["LIMIT", "Distribution", "Histogram"]
