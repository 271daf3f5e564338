"""Results that come in any order and leave in the order of the stream that they belong to.

Collapse nodes gather one result per sub-stream, loop nodes one per value that entered the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelboxd.engine.feed import CoreList
from modelboxd.engine.meta import merge_metas

if TYPE_CHECKING:
    from modelboxd.engine.session import Stream
    from modelboxd.engine.step import Step


class Gather:
    """The results for one stream at one step. Guarded by the job's lock."""

    __slots__ = ("metas", "next", "ports", "step", "stream", "told", "total", "waiting")

    def __init__(self, step: Step, stream: Stream, metas: list[bytes]) -> None:
        """`metas`: those of `stream`, per lane of where it was expanded or entered."""
        self.step = step
        self.stream = stream
        self.waiting: dict[int, list[CoreList] | None] = {}  # by index; None: a hole
        self.ports = step.kind.gathered
        self.next = 0  # index that leaves next
        self.total: int | None = None  # how many there will be, when known
        self.told = b""  # the meta that went on
        self.metas = metas
        if not stream.session.dead:  # passing on results may have failed it meanwhile: then nothing is kept here
            step.gathers[stream] = self
            stream.session.holders.add(self)

    def put(self, index: int, lists: list[CoreList] | None) -> None:
        """The result at `index`: per gathered port a list of one value, or of none (a hole)."""
        if self.stream.session.dead:
            return
        self.waiting[index] = lists
        self.step.held += 1
        self.flush()

    def finish(self, total: int) -> None:
        """No index from `total` on will come."""
        self.total = total
        self.flush()

    def flush(self) -> None:
        """Passes on what is next in order; closes behind the last one."""
        session = self.stream.session
        if session.dead:
            return
        outputs = [new_list(0) for _ in self.ports]
        count = 0
        while self.next in self.waiting:
            lists = self.waiting.pop(self.next)
            self.next += 1
            count += 1
            for number, items in enumerate(outputs):
                if lists is None or not lists[number].count:
                    lib.mb_list_push(items, ffi.NULL)
                else:
                    lib.mb_list_extend(items, lists[number], 0, 1)
        self.step.held -= count
        end = self.next == self.total
        if count or end:
            meta = b""
            if any(self.metas) and (meta := merge_metas(self.metas)) == self.told:
                meta = b""
            self.told = meta or self.told
            for port, items in zip(self.ports, outputs, strict=True):
                self.step.emit_port(port, self.stream, items, end, meta)
        if end:
            self.step.gathers.pop(self.stream, None)
            session.release(self)

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step.held -= len(self.waiting)
        self.waiting.clear()
        self.step.gathers.pop(self.stream, None)
        self.stream.session.release(self)
