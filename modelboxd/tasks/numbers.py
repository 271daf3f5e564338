"""Numbers out of JSON: nested lists to flat ones, and those to arrays, without any surprise that numpy has for mixed
values (a list with one long text in it becomes texts of that length)."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

DEPTH_MAX = 32
_NUMBERS = frozenset({int, float, bool})


def flatten(given: list[Any]) -> tuple[list[Any], list[int]]:
    """The innermost values and the shape of nested lists. Raises ValueError when they are not equally long, or more
    than DEPTH_MAX deep."""
    flat, shape = given, [len(given)]
    while flat and isinstance(flat[0], list):
        length = len(flat[0])
        if len(shape) == DEPTH_MAX or not all(isinstance(item, list) and len(item) == length for item in flat):
            raise ValueError(f"has lists that are not equally long, or more than {DEPTH_MAX} deep")
        flat = list(chain.from_iterable(flat))
        shape.append(length)
    return flat, shape


def are_numbers(flat: list[Any]) -> bool:
    """Whether there is nothing but int, float and bool."""
    return _NUMBERS.issuperset(map(type, flat))


def to_array(flat: list[Any], wanted: np.dtype[Any], *, infinite: bool = False) -> npt.NDArray[Any]:
    """A flat list of numbers in a type that holds them exactly (floats: as near as it can). `infinite`: infinity and
    NaN may be among them, which JSON does not have.

    Raises ValueError saying what does not fit.
    """
    kinds = set(map(type, flat))
    if wanted.kind == "b":
        if kinds - {bool}:
            raise ValueError("must be true and false")
        return np.array(flat, wanted)
    if kinds - {int, float}:
        raise ValueError("must be numbers and nothing else")
    if wanted.kind in "iu":
        if float in kinds:
            raise ValueError("must be whole numbers")
        limits = np.iinfo(wanted)
        if flat and (min(flat) < limits.min or max(flat) > limits.max):
            raise ValueError(f"must be from {limits.min} to {limits.max}")
        return np.array(flat, wanted)
    try:
        with np.errstate(over="ignore"):
            made = np.array(flat, np.float64).astype(wanted)
    except OverflowError:  # a whole number beyond all floats
        raise ValueError("has a number that is too large") from None
    if not infinite and not np.isfinite(made).all():
        raise ValueError("has a number that is too large")
    return made
