"""The input side of a step: what waits there, by stream, and in which order results must leave.

A Feed joins all input lanes of one step for one stream. A port has one lane, or one per branch where the branches of a
condition meet. Lanes are matched by index: position i of one lane belongs with position i of the others. What is
taken for one run is a Part; parts of one feed leave in the order in which they were taken, whatever order they finish
in.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import check, new_error, new_list

if TYPE_CHECKING:
    from modelboxd.engine.calls import Call, Piece
    from modelboxd.engine.session import Stream
    from modelboxd.engine.step import Step

CoreList = Any  # cffi's mb_list *, owned by the garbage collector


def concat(lists: list[CoreList]) -> CoreList:
    """One list that refers to all buffers of `lists`, in order; the only one is handed back as it is."""
    if len(lists) == 1:
        return lists[0]
    joined = new_list(sum(items.count for items in lists))
    for items in lists:
        lib.mb_list_extend(joined, items, 0, items.count)
    return joined


def copy_list(items: CoreList) -> CoreList:
    """A second list over the same buffers."""
    copy = new_list(items.count)
    lib.mb_list_extend(copy, items, 0, items.count)
    return copy


def slice_list(items: CoreList, start: int, count: int) -> CoreList:
    """References to items [start, start + count)."""
    part = new_list(count)
    lib.mb_list_extend(part, items, start, count)
    return part


def take_list(items: CoreList, count: int) -> CoreList:
    """Moves the first `count` buffers out of `items` into a new list."""
    return ffi.gc(lib.mb_list_take(items, count), lib.mb_list_free)


class TwoValues(Exception):
    """Branches that meet have two values at one position."""


def choose(lanes: list[CoreList]) -> CoreList:
    """The values of branches that meet: one or none at each position. Raises TwoValues."""
    met = new_list(lanes[0].count)
    at = ffi.new("uint32_t *")
    status = lib.mb_lists_choose(lanes, len(lanes), met, at)
    if status == -lib.MB_EXIST:
        raise TwoValues(at[0])
    check(status, new_error())
    return met


class Part:
    """Consecutive positions of one stream, taken for one run, and later their results."""

    __slots__ = (
        "begin",
        "bytes",
        "called",
        "count",
        "done",
        "end",
        "event",
        "feed",
        "first",
        "inputs",
        "marked",
        "metas",
        "outputs",
        "pieces",
        "told",
        "yields",
    )

    def __init__(self, feed: Feed, inputs: list[CoreList], count: int, begin: bool, end: bool) -> None:
        self.feed = feed
        self.inputs = inputs  # one list per lane, then per input port, each `count` long
        self.count = count
        self.first = feed.base  # index of the first position
        self.bytes = 0  # data of the inputs
        self.marked = 0  # perf_counter_ns() when it could have been taken
        self.begin = begin  # the stream's first part here
        self.end = end  # nothing follows
        self.called = False  # NORMAL, in-process or in a worker: a call had values of it
        self.event = False  # no input: calls for events, or calls that had to wait for them
        self.done = False
        self.told = False  # the unit has heard of the stream's end
        self.pieces: list[Piece] = []  # what the outputs are made of (calls.py)
        self.outputs: list[CoreList] | None = None  # one list per output port
        self.yields: list[Any] = []  # results that do not go on in the same stream: see kinds.py
        self.metas: list[bytes] | None = None  # stream meta set by the unit, per output port


class Feed:
    """One stream at one step. Guarded by the job's lock."""

    __slots__ = (
        "account",
        "avail",
        "base",
        "begun",
        "busy",
        "child",
        "children",
        "dead",
        "ended",
        "ending",
        "events",
        "failed",
        "marked",
        "meta_news",
        "metas",
        "opened",
        "out_metas",
        "queues",
        "ready",
        "rest",
        "result",
        "since",
        "slots",
        "state",
        "step",
        "stream",
        "taken_end",
    )

    def __init__(self, step: Step, stream: Stream, lanes: int) -> None:
        self.step = step
        self.stream = stream
        self.account = stream.session.account
        self.marked = 0  # perf_counter_ns() when it became ready
        self.queues: list[deque[CoreList]] = [deque() for _ in range(lanes)]
        self.avail = [0] * lanes  # values waiting, per lane
        self.ended = [False] * lanes
        self.metas = [b""] * lanes  # stream meta, per lane
        self.meta_news = False  # not yet passed on
        self.slots: deque[Part] = deque()  # taken, not yet passed on; in order
        self.base = 0  # index of the next position to take
        self.since = 0.0  # steps whose batches wait: when the oldest value came
        self.begun = False
        self.taken_end = False
        self.busy = 0  # parts being run
        self.ready = False  # stands in the step's ready queue
        self.dead = False  # its session failed: results are dropped
        # ---- of units with contexts
        self.state: Any = None  # native context, in-process context or worker
        self.opened = False  # the unit was called for this stream
        self.ending = False  # the end was taken, but the unit has events left
        self.events: deque[Any] = deque()  # contexts (this feed or sub-streams) that wait for an event call
        self.rest: list[Call | Any] = []  # pieces that wait until the events before them are over
        self.children = 0  # expand: sub-streams that are still open
        self.child: Stream | None = None  # expand of a stream: the sub-stream that events belong to
        self.out_metas: list[bytes] | None = None  # stream meta set by the unit, per output port
        self.result: list[CoreList] | None = None  # collapse: what this sub-stream has given so far
        self.failed = False  # collapse: the result is an error

    def matched(self) -> int:
        """How many positions are there on every lane."""
        avail = self.avail
        return avail[0] if len(avail) == 1 else min(avail)

    def has_work(self) -> bool:
        """Whether something waits here for a run."""
        return any(self.avail) or bool(self.events or self.rest)

    def at_end(self) -> bool:
        """Every lane has ended and nothing waits."""
        if len(self.avail) == 1:
            return self.ended[0] and not self.avail[0]
        return all(self.ended) and not any(self.avail)

    def mismatch(self) -> int | None:
        """A lane that still has data although another one has ended before that position, or None."""
        if len(self.avail) == 1 or self.matched():
            return None
        if any(ended and not avail for ended, avail in zip(self.ended, self.avail, strict=True)):
            return next((lane for lane, avail in enumerate(self.avail) if avail), None)
        return None

    def take(self, count: int) -> Part:
        """The next `count` positions (at most matched()) as a Part that joins the order of leaving."""
        inputs = [self._take_lane(lane, count) for lane in range(len(self.queues))]
        end = self.at_end()
        part = Part(self, inputs, count, not self.begun, end)
        self.base += count
        self.begun = True
        self.taken_end = end
        self.slots.append(part)
        return part

    def take_event(self, pieces: list[Piece]) -> Part:
        """A part without input, for calls that answer events or had to wait for them."""
        part = Part(self, [], 0, not self.begun, False)
        part.event = True
        part.pieces = pieces
        self.begun = True
        self.slots.append(part)
        return part

    def _take_lane(self, lane: int, count: int) -> CoreList:
        queue = self.queues[lane]
        self.avail[lane] -= count
        if queue and queue[0].count == count:
            return queue.popleft()
        taken: list[CoreList] = []
        while count:
            head = queue[0]
            if head.count <= count:
                queue.popleft()
            else:
                head = take_list(head, count)
            taken.append(head)
            count -= head.count
        return concat(taken) if taken else new_list(0)

    def waiting_bytes(self) -> int:
        """Data of the buffers that wait."""
        return sum(items.bytes for queue in self.queues for items in queue)

    def forget(self) -> list[int]:
        """Throws away what waits; returns how many values per lane."""
        dropped = self.avail
        self.avail = [0] * len(dropped)
        for queue in self.queues:
            queue.clear()
        self.ended = [True] * len(dropped)
        self.rest = []
        self.result = None
        return dropped

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step.drop(self)
