"""Calls of units: what a part is cut into, and what has become of it.

NORMAL units get whole batches. All other kinds get a list of pieces per part: calls to be made in order, and values
that pass the unit by and keep their place between the results of the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelbox.errors import ModelBoxError, UnitError
from modelboxd.engine.errors import error_list
from modelboxd.engine.feed import CoreList
from modelboxd.engine.meta import merge_metas

if TYPE_CHECKING:
    from modelboxd.engine.feed import Feed
    from modelboxd.engine.session import Session, Stream
    from modelboxd.engine.step import Step


class Call:
    """One process() call of a unit that has contexts or gets single values."""

    __slots__ = (
        "begin",
        "child",
        "context",
        "end",
        "error",
        "event",
        "failed",
        "input_metas",
        "inputs",
        "metas",
        "more",
        "number",
        "outputs",
        "reason",
        "session",
        "skipped",
    )

    def __init__(self, session: Session, inputs: list[CoreList], context: Any = None, number: int = 0) -> None:
        self.session = session
        self.inputs = inputs  # one list per port, of equal count; empty lists for calls without data
        self.context = context  # a Feed or Stream whose `state` the backend keeps its context in; None: no context
        self.number = number  # of the context, unique in the process
        self.begin = False  # the context's first call
        self.end = False  # no more input for this context
        self.event = False  # answers an event
        self.child: Stream | None = None  # expand: the sub-stream that gets the outputs
        self.input_metas: list[bytes] | None = None  # stream meta per input port, in a context's first call
        # ---- the answer
        self.outputs: list[CoreList] | None = None  # one list per port
        self.error: ModelBoxError | None = None
        self.reason = "ProcessError"
        self.failed = False  # the outputs are the errors of a failed call already
        self.metas: list[bytes] | None = None  # stream meta that the unit has set, per port
        self.more = False  # events wait in this context
        self.skipped = False  # not made, because an event of its context comes first

    @property
    def has_ended(self) -> bool:
        """Whether the unit has heard in it that its context ends."""
        return self.end and not self.more and not self.skipped and (self.outputs is not None or self.error is not None)

    @property
    def count(self) -> int:
        """Values per port."""
        return int(self.inputs[0].count) if self.inputs else 0


class Passed:
    """Values that pass a unit by: one list per output port. `child`: expand, the sub-stream that they are."""

    __slots__ = ("child", "index", "lists")

    def __init__(self, lists: list[CoreList] | None, child: Stream | None = None, index: int = 0) -> None:
        self.lists = lists
        self.child = child
        self.index = index


Piece = Call | Passed


class RuleBroken(UnitError):
    """A unit broke a rule of its kind: its session fails."""


def port_metas(step: Step, feed: Feed) -> list[bytes] | None:
    """The stream meta of each input port; None when there is none."""
    metas = feed.metas
    if not any(metas):
        return None
    if step.lane_ports is None:
        return metas
    return [merge_metas([metas[lane] for lane in lanes]) for lanes in step.lane_ports]


def run_in_order(pieces: list[Piece], run: Callable[[Call], None]) -> None:
    """Makes the calls; where one leaves events behind, further calls of its context have to wait for those."""
    waiting: set[int] = set()
    for piece in pieces:
        if not isinstance(piece, Call):
            continue
        if piece.number in waiting:
            piece.skipped = True
            continue
        run(piece)
        if piece.more:
            waiting.add(piece.number)


def results(step: Step, call: Call, errors: int) -> list[CoreList]:
    """The outputs of a call that was made; a failed one gives `errors` errors on each port. Raises what fails the
    session."""
    if call.error is None:
        assert call.outputs is not None
        return call.outputs
    if isinstance(call.error, RuleBroken) or not step.output_ports:
        raise call.error
    return error_lists(step, errors, call.reason, str(call.error))


def error_lists(step: Step, count: int, reason: str, message: str) -> list[CoreList]:
    """`count` errors "<unit>.<reason>" for each output port."""
    step.stats.errors += count
    code = f"{step.nodes[0].unit.name}.{reason}"
    return [error_list(count, code, message, step.out_depth) for _ in step.output_ports]


def passed_by(step: Step, inputs: list[CoreList], start: int, count: int) -> CoreList:
    """The holes and errors at positions that the unit does not see."""
    items = new_list(count)
    lib.mb_lists_merge(inputs, len(inputs), start, count, step.visible, ffi.NULL, ffi.NULL, items)
    return items


def holes(count: int) -> CoreList:
    """`count` positions without a value."""
    items = new_list(count)
    for _ in range(count):
        lib.mb_list_push(items, ffi.NULL)
    return items


def stretches(step: Step, inputs: list[CoreList], count: int) -> list[tuple[int, int, bool]]:
    """(from, count, seen) for each run of positions that are alike in being seen by the unit."""
    if not lib.mb_lists_unseen(inputs, len(inputs), 0, count, step.visible):
        return [(0, count, True)] if count else []
    found: list[tuple[int, int, bool]] = []
    at = 0
    while at < count:
        size = lib.mb_lists_run(inputs, len(inputs), at, step.visible)
        seen = not lib.mb_lists_unseen(inputs, len(inputs), at, 1, step.visible)
        found.append((at, size, seen))
        at += size
    return found
