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

    __slots__ = ("begun", "metas", "next", "received", "step", "stream", "total", "waiting")

    def __init__(self, step: Step, stream: Stream) -> None:
        self.step = step
        self.stream = stream
        self.waiting: dict[int, list[CoreList] | None] = {}  # by index; None: a hole
        self.next = 0  # index that leaves next
        self.received = 0
        self.total: int | None = None  # how many there will be, when known
        self.begun = False
        self.metas: list[bytes] = []
        stream.session.holders.add(self)

    def put(self, index: int, lists: list[CoreList] | None, metas: list[bytes] | None = None) -> None:
        """The result at `index`: per output port a list of one value, or of none (a hole)."""
        if metas is not None and not self.begun:
            self.metas = metas
        self.waiting[index] = lists
        self.received += 1
        self.step.held += 1
        self.flush()

    def finish(self, total: int, metas: list[bytes]) -> None:
        """No index from `total` on will come; `metas` are those of the stream itself."""
        self.total = total
        if not self.metas:
            self.metas = metas
        self.flush()

    def flush(self) -> None:
        """Passes on what is next in order; closes behind the last one."""
        session = self.stream.session
        if session.dead:
            return
        ports = len(self.step.output_ports)
        outputs = [new_list(0) for _ in range(ports)] if self.next in self.waiting else None
        count = 0
        while outputs is not None and self.next in self.waiting:
            lists = self.waiting.pop(self.next)
            self.next += 1
            count += 1
            for port, items in enumerate(outputs):
                if lists is None or not lists[port].count:
                    lib.mb_list_push(items, ffi.NULL)
                else:
                    lib.mb_list_extend(items, lists[port], 0, 1)
        self.step.held -= count
        end = self.next == self.total
        if count or end:
            meta = merge_metas(self.metas) if not self.begun else b""
            self.begun = True
            self.step.emit(self.stream, outputs, end, [meta] * ports)
        if end:
            self.step.gathers.pop(self.stream, None)
            session.release(self)

    def drop(self) -> None:
        """Holder: the session failed."""
        self.step.held -= len(self.waiting)
        self.waiting.clear()
        self.step.gathers.pop(self.stream, None)
        self.stream.session.release(self)
