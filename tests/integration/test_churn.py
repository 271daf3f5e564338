"""Jobs that come and go leave nothing behind; churn.py does it more often."""

from __future__ import annotations

import time
from pathlib import Path

from tests.integration.churn import Use, serve, turn
from tests.integration.server import LIMIT_S


def test_nothing_is_left(tmp_path: Path) -> None:
    server = serve(tmp_path)
    try:
        for number in range(3):
            turn(server, number, python=True)
        before = Use.of(server)
        for number in range(12):
            turn(server, number, python=number % 4 == 0)
        ends = time.monotonic() + LIMIT_S
        while True:  # what was replaced ends behind the answer
            after = Use.of(server)
            names = ("descriptors", "threads", "children")
            if all(getattr(after, name) <= getattr(before, name) for name in names):
                break
            assert time.monotonic() < ends, (before, after)
        assert after.mappings <= before.mappings + 20, (before, after)
    finally:
        assert server.stop() == 0
