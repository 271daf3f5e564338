"""Graphs on which engine and interpreter once disagreed, made small. Each file's name begins with the feature that it
needs (graphs.EVERYTHING), or with "any"; it is left out while the engine lacks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.agreement import READY, Machines
from tests.property.case import Case
from tests.property.graphs import EVERYTHING

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))
TRIES = 20  # a race does not show every time


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines(python=True)
    yield made
    made.close()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_found(path: Path, machines: Machines) -> None:
    feature = next((name for name in (*EVERYTHING, "any") if path.stem.startswith(f"{name}_")), None)
    assert feature is not None, f"{path.name} must begin with a feature's name"
    if feature in EVERYTHING - READY:
        pytest.skip(f"the engine lacks {feature}")
    case = Case.from_json(path.read_text())
    for _ in range(TRIES):
        machines.check(case)
