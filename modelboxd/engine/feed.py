"""The input side of a step: what waits there, by stream, and in which order results must leave.

A Feed joins all input ports of one step for one stream. Ports are matched by index: position i of one port
belongs with position i of the others. What is taken for one run is a Part; parts of one feed leave in the
order in which they were taken, whatever order they finish in.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list

if TYPE_CHECKING:
    from modelboxd.engine.session import Stream

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


def take_list(items: CoreList, count: int) -> CoreList:
    """Moves the first `count` buffers out of `items` into a new list."""
    return ffi.gc(lib.mb_list_take(items, count), lib.mb_list_free)


class Part:
    """Consecutive buffers of one stream, taken for one run, and later their results."""

    __slots__ = ("begin", "count", "done", "end", "feed", "inputs", "metas", "outputs")

    def __init__(self, feed: Feed, inputs: list[CoreList], count: int, begin: bool, end: bool) -> None:
        self.feed = feed
        self.inputs = inputs  # one list per input port, each `count` long
        self.count = count
        self.begin = begin  # the stream's first part here
        self.end = end  # nothing follows
        self.done = False
        self.outputs: list[CoreList] | None = None  # one list per output port
        self.metas: list[bytes] | None = None  # stream meta set by the unit, per output port


class Feed:
    """One stream at one step. Guarded by the job's lock."""

    __slots__ = (
        "avail",
        "begun",
        "busy",
        "dead",
        "ended",
        "metas",
        "queues",
        "ready",
        "slots",
        "state",
        "stream",
        "taken_end",
    )

    def __init__(self, stream: Stream, ports: int) -> None:
        self.stream = stream
        self.queues: list[deque[CoreList]] = [deque() for _ in range(ports)]
        self.avail = [0] * ports  # buffers waiting, per port
        self.ended = [False] * ports
        self.metas = [b""] * ports  # stream meta, per port
        self.slots: deque[Part] = deque()  # taken, not yet passed on; in order
        self.begun = False
        self.taken_end = False
        self.busy = 0  # parts being run
        self.ready = False  # stands in the step's ready queue
        self.dead = False  # its session failed: results are dropped
        self.state: Any = None  # of a stream unit: native stream handle or pinned worker

    def matched(self) -> int:
        """How many positions are there on every port."""
        avail = self.avail
        return avail[0] if len(avail) == 1 else min(avail)

    def at_end(self) -> bool:
        """Every port has ended and nothing waits."""
        if len(self.avail) == 1:
            return self.ended[0] and not self.avail[0]
        return all(self.ended) and not any(self.avail)

    def mismatch(self) -> int | None:
        """A port that still has data although another one has ended before that position, or None."""
        if len(self.avail) == 1 or self.matched():
            return None
        if any(ended and not avail for ended, avail in zip(self.ended, self.avail, strict=True)):
            return next((port for port, avail in enumerate(self.avail) if avail), None)
        return None

    def take(self, count: int) -> Part:
        """The next `count` positions (at most matched()) as a Part that joins the order of leaving."""
        inputs = [self._take_port(port, count) for port in range(len(self.queues))]
        end = self.at_end()
        part = Part(self, inputs, count, not self.begun, end)
        self.begun = True
        self.taken_end = end
        self.slots.append(part)
        return part

    def _take_port(self, port: int, count: int) -> CoreList:
        queue = self.queues[port]
        self.avail[port] -= count
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

    def drop(self) -> list[int]:
        """Throws away what waits; returns how many buffers per port."""
        dropped = self.avail
        self.avail = [0] * len(dropped)
        for queue in self.queues:
            queue.clear()
        self.ended = [True] * len(dropped)
        return dropped
