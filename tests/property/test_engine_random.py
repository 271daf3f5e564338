"""Random graphs and inputs: the engine and the reference interpreter must agree on every output, order, error and end.

MODELBOX_RANDOM_GRAPHS says how many graphs all tests here take together. What fails is shrunk and printed as JSON; to
run it again: `python -m tests.property.run --case FILE`. Long runs: `python -m tests.property.run --help`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.property.agreement import READY, SINK, Machines, expect
from tests.property.case import Case, dot, reference_graph
from tests.property.graphs import EVERYTHING, RandomPick, cases, random_case
from tests.reference.graph import Layout

GRAPHS = int(os.environ.get("MODELBOX_RANDOM_GRAPHS", "2000"))
SHRUNK = GRAPHS // 4  # by hypothesis, which makes small examples of what fails
PYTHON = max(1, GRAPHS // 40)  # with worker processes
NUMBERED = GRAPHS - SHRUNK - PYTHON  # by number: larger graphs in less time
PARTS = 8
IN_PROCESS = READY - {"python"}

calm = settings(
    max_examples=SHRUNK, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker_machines() -> Iterator[Machines]:
    made = Machines(python=True)
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_engine_agrees_with_the_reference(machines: Machines) -> None:
    @calm
    @given(case=cases(IN_PROCESS))
    def agree(case: Case) -> None:
        machines.check(case)

    agree()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_engine_agrees_on_numbered_graphs(machines: Machines, part: int) -> None:
    for number in range(part, NUMBERED, PARTS):
        machines.check(random_case(RandomPick(0, number), IN_PROCESS))


@pytest.mark.timeout(600)
def test_engine_agrees_with_units_in_workers(worker_machines: Machines) -> None:
    for number in range(PYTHON):
        worker_machines.check(random_case(RandomPick(1, number), READY))


def test_every_random_graph_keeps_the_rules() -> None:
    """Those of the interpreter, which knows everything, and the text form gives the same case again."""
    for number in range(200):
        case = random_case(RandomPick(2, number), EVERYTHING)
        Layout(reference_graph(case, SINK))
        assert Case.from_json(case.to_json()) == case
        assert dot(case).count("->") >= len(case.nodes)


def test_sessions_of_random_graphs_fail_only_where_they_are_meant_to() -> None:
    for number in range(200):
        case = random_case(RandomPick(2, number), EVERYTHING - {"rude"})
        for session in case.sessions:
            assert expect(case, session).reason == ""
