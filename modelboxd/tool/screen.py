"""What the commands of modelbox-tool print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from modelboxd.logs import one_line


def fail(*reasons: object) -> int:
    """Tells why, a line each; returns the exit code."""
    for reason in reasons:
        print(f"modelbox-tool: {one_line(str(reason))}", file=sys.stderr)
    return 1


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, least: Sequence[int] = ()) -> None:
    """Columns as wide as `least` at least; longer words make their column wider. What rows hold cannot drive the
    terminal."""
    lines = [tuple(head), *(tuple(one_line(str(cell)) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    widths = [max(width, least[column] if column < len(least) else 0) for column, width in enumerate(widths)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def bytes_text(number: int) -> str:
    """Bytes as people read them."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def seconds_text(number: float) -> str:
    """Seconds as people read them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return "0" if not number else f"{number * 1e9:.0f} ns"
