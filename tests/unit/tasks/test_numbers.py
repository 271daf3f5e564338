"""Nested lists of JSON to arrays: exactly, or not at all, and never much larger than they came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from modelboxd.tasks.model import TaskInputError
from modelboxd.tasks.numbers import flatten, to_array
from modelboxd.tasks.values import from_json


@given(array_shapes(max_dims=5, max_side=4))
def test_flatten_is_what_numpy_says(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    assert flatten(array.tolist()) == (array.reshape(-1).tolist(), list(shape))


@pytest.mark.parametrize("given", [[[1], [2, 3]], [[1], 2], [[[1]], [2]]])
def test_lists_that_are_not_equally_long(given: list[object]) -> None:
    with pytest.raises(ValueError, match="not equally long"):
        flatten(given)
    deep: list[object] = [1]
    for _ in range(40):
        deep = [deep]
    with pytest.raises(ValueError, match="more than 32 deep"):
        flatten(deep)


@given(
    st.lists(st.integers(-(1 << 70), 1 << 70), min_size=1),
    st.sampled_from(["int8", "uint8", "int64", "uint64", "uint32"]),
)
def test_whole_numbers_fit_or_are_refused(values: list[int], name: str) -> None:
    limits = np.iinfo(name)
    if all(limits.min <= value <= limits.max for value in values):
        assert to_array(values, np.dtype(name)).tolist() == values
    else:
        with pytest.raises(ValueError, match="must be from"):
            to_array(values, np.dtype(name))


def test_one_long_text_among_numbers_costs_nothing() -> None:
    """numpy would make a text of that length of every number: 4 GB here."""
    with pytest.raises(TaskInputError, match="numbers and nothing else"):
        from_json({"x": ["x" * 100_000, *range(10_000)]})
