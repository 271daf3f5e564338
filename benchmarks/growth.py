"""Whether what was sampled has grown: the last fifth of the samples against the second one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def grown(rows: Sequence[Sequence[float]], limits: Sequence[tuple[str, float]]) -> list[str]:
    """What has grown by more than its limit, in words; each column of `rows` has a name and a limit. Prints all."""
    problems = []
    fifth = max(1, len(rows) // 5)
    for number, (name, limit) in enumerate(limits):
        early = statistics.median(row[number] for row in rows[fifth : 2 * fifth] or rows)
        late = statistics.median(row[number] for row in rows[-fifth:])
        print(f"{name}: {early:.1f} -> {late:.1f}")
        if late - early > limit:
            problems.append(f"{name} grew by {late - early:.1f}")
    return problems
