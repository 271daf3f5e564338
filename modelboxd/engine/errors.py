"""Errors as buffers: how a failure travels through a graph in the place of data."""

from __future__ import annotations

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelboxd.engine.feed import CoreList


def error_list(count: int, code: str, message: str) -> CoreList:
    """`count` references to one sealed error buffer."""
    items = new_list(count)
    error = lib.mb_buffer_new_error(code.encode(), message.encode())
    if error == ffi.NULL:
        raise MemoryError("no memory for an error buffer")
    for _ in range(count):
        lib.mb_list_push(items, lib.mb_buffer_ref(error))
    lib.mb_buffer_unref(error)
    return items


def has_errors(inputs: list[CoreList]) -> bool:
    """Whether any buffer of any port carries an error."""
    for items in inputs:  # noqa: SIM110 - a generator would cost more than the check
        if lib.mb_list_errors(items, 0, items.count):
            return True
    return False


def split_errors(inputs: list[CoreList]) -> tuple[list[CoreList], list[bool]]:
    """The positions that are good on every port, as lists, and which positions those are."""
    count = inputs[0].count
    good = [all(_is_good(items, position) for items in inputs) for position in range(count)]
    kept: list[CoreList] = []
    for items in inputs:
        picked = new_list(count)
        for position in range(count):
            if good[position]:
                lib.mb_list_extend(picked, items, position, 1)
        kept.append(picked)
    return kept, good


def merge_errors(inputs: list[CoreList], good: list[bool], results: CoreList) -> CoreList:
    """`results` at the good positions, the error (or hole) of the first port that has one at the others."""
    merged = new_list(len(good))
    taken = 0
    for position, is_good in enumerate(good):
        if is_good:
            lib.mb_list_extend(merged, results, taken, 1)
            taken += 1
        else:
            bad = next(items for items in inputs if not _is_good(items, position))
            lib.mb_list_extend(merged, bad, position, 1)
    return merged


def runs(inputs: list[CoreList]) -> list[tuple[int, int, bool]]:
    """(from, count, good) for each stretch of positions that are alike in being good on every port."""
    stretches: list[tuple[int, int, bool]] = []
    for position in range(inputs[0].count):
        good = all(_is_good(items, position) for items in inputs)
        if stretches and stretches[-1][2] is good:
            start, count, _ = stretches[-1]
            stretches[-1] = (start, count + 1, good)
        else:
            stretches.append((position, 1, good))
    return stretches


def first_bad(inputs: list[CoreList], position: int) -> CoreList:
    """The list of the first port whose buffer at `position` is no data."""
    return next(items for items in inputs if not _is_good(items, position))


def slice_list(items: CoreList, start: int, count: int) -> CoreList:
    """References to items [start, start + count)."""
    part = new_list(count)
    lib.mb_list_extend(part, items, start, count)
    return part


def _is_good(items: CoreList, position: int) -> bool:
    buffer = items.items[position]
    return buffer != ffi.NULL and not lib.mb_buffer_error(buffer, ffi.NULL, ffi.NULL)
