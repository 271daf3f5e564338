"""Builds the native units when their sources are newer, and gives tests a pool that checks every guard."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from modelbox._core.memory import Pool
from tests.unit.flowunits.host import UNITS, Unit, opened


@pytest.fixture(scope="session", autouse=True)
def built_units() -> None:
    """`make` does nothing when all is up to date."""
    done = subprocess.run(["make", "-s", "-j2", "-C", str(UNITS)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Guards of every buffer are checked on release: a unit that writes past its buffer is noticed."""
    made = Pool(guard_all=True)
    yield made
    stats = made.stats()
    assert stats.guard_faults == 0


@pytest.fixture(scope="module")
def bgr(pool: Pool) -> Iterator[Unit]:
    """An image decoder with its default options."""
    with opened("image_decoder", pool) as unit:
        yield unit
