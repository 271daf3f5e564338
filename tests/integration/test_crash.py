"""Crash safety of jobs, a few times; crash.py says how to do it more often."""

from __future__ import annotations

from pathlib import Path

from tests.integration.crash import kill_and_start


def test_killed_at_random_moments(tmp_path: Path) -> None:
    assert kill_and_start(tmp_path, 4) > 0
