"""Log-bucket histograms against sorted lists."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelboxd.engine.histogram import LIMIT, Histogram


def made(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(st.integers(0, LIMIT), min_size=1), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_true_to_a_quarter(values: list[int], part: float) -> None:
    ordered = sorted(values)
    exact = ordered[min(max(0, -int(-part * len(ordered) // 1) - 1), len(ordered) - 1)]
    found = made(values).snapshot().quantile(part)
    assert exact / 1.26 - 1 <= found <= exact * 1.26 + 1


@given(st.lists(st.integers(0, LIMIT)))
def test_counts_below_powers_of_two_are_exact(values: list[int]) -> None:
    bounds = [1 << power for power in range(0, 41, 2)]
    distribution = made(values).snapshot()
    assert distribution.below(bounds) == [sum(value < bound for value in values) for bound in bounds]
    assert (distribution.count, distribution.total) == (len(values), sum(values))


@pytest.mark.parametrize("value", [LIMIT + 1, 1 << 62])
def test_values_beyond_the_limit_count_as_the_limit(value: int) -> None:
    snapshot = made([value]).snapshot()
    assert (snapshot.count, snapshot.total) == (1, LIMIT)
    assert snapshot.below([1 << 40]) == [1]


def test_nothing() -> None:
    assert Histogram().snapshot().quantile(0.5) == 0.0


def test_many_values() -> None:
    values = [int(random.Random(7).lognormvariate(12, 2)) for _ in range(1000)]
    snapshot = made(values).snapshot()
    assert snapshot.quantile(0.5) == pytest.approx(sorted(values)[500], rel=0.25)
