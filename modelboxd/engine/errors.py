"""Errors as buffers: how a failure travels through a graph in the place of data."""

from __future__ import annotations

from modelbox._core import ffi, lib
from modelbox._core.memory import check, new_error, new_list
from modelboxd.engine.feed import CoreList, Part


def error_list(count: int, code: str, message: str, depth: int = 0) -> CoreList:
    """`count` references to one sealed error buffer, born at `depth`."""
    items = new_list(count)
    error = lib.mb_buffer_new_error(code.encode(), message.encode("utf-8", "replace").replace(b"\0", b" "))
    if error == ffi.NULL:
        raise MemoryError("no memory for an error buffer")
    for _ in range(count):
        lib.mb_list_push(items, lib.mb_buffer_ref(error))
    lib.mb_buffer_unref(error)
    lib.mb_list_born(items, 0, depth)
    return items


def all_seen(inputs: list[CoreList], visible: int) -> bool:
    """Whether a unit gets all positions: no holes, and no error that it does not see."""
    return not lib.mb_lists_unseen(inputs, len(inputs), 0, inputs[0].count, visible)


def mark_called(parts: list[Part], inputs: list[CoreList], visible: int) -> Part:
    """Notes of which parts of a NORMAL run the unit gets values (of one at least), and gives the first of them: the
    call is one of its stream. `inputs` are those of the parts, joined."""
    called: Part | None = None
    first = 0
    for part in parts:
        part.called = lib.mb_lists_unseen(inputs, len(inputs), first, part.count, visible) < part.count
        if called is None and part.called:
            called = part
        first += part.count
    assert called is not None
    return called


def split(inputs: list[CoreList], visible: int) -> list[CoreList]:
    """The positions that the unit gets, one list per port."""
    kept = [new_list(items.count) for items in inputs]
    check(lib.mb_lists_split(inputs, len(inputs), visible, kept), new_error())
    return kept


def merge(inputs: list[CoreList], visible: int, results: CoreList) -> CoreList:
    """`results` at the positions that the unit got, the error or hole at the others."""
    merged = new_list(inputs[0].count)
    used = ffi.new("uint32_t *")
    check(lib.mb_lists_merge(inputs, len(inputs), 0, inputs[0].count, visible, results, used, merged), new_error())
    return merged
