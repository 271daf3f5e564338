"""The kinds of units: how a part is cut into calls, and where the results of the calls go.

docs/dataflow.md defines the meaning. cut() and join() run without the lock; the methods that say so expect the
job's lock to be held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelboxd.engine.calls import (
    Call,
    Passed,
    Piece,
    RuleBroken,
    passed_by,
    port_metas,
    results,
    stretches,
)
from modelboxd.engine.feed import CoreList, Feed, Part, concat, slice_list
from modelboxd.engine.meta import merge_metas

if TYPE_CHECKING:
    from modelboxd.engine.step import Step


class Kind:
    """NORMAL, and the base of the others."""

    serial = False  # one part of a feed at a time
    framed = False  # data_pre and data_post are called
    calls = False  # parts are cut into calls; else batches of several parts are run as one
    whole = False  # a part takes all that amount() allows, whatever the batch size

    def __init__(self, step: Step) -> None:
        self.step = step
        self.gathered = list(range(len(step.output_ports)))  # ports whose results are gathered

    def amount(self, feed: Feed) -> int:
        """How many positions of the feed may be taken now (lock held)."""
        return feed.matched()

    def cut(self, part: Part) -> None:
        """Fills part.pieces."""

    def join(self, part: Part) -> None:
        """Fills the part's results out of its pieces. Raises what fails the session."""

    def done(self, part: Part) -> None:
        """The part has run: what its calls have left to do (lock held)."""

    def event_part(self, feed: Feed) -> Part:
        """The next part of a feed with events or a rest (lock held)."""
        raise NotImplementedError

    def deliver(self, part: Part) -> None:
        """Passes the results on (lock held)."""
        feed = part.feed
        metas = None
        own = self.own_metas(part)
        if own is not None:
            feed.out_metas = own
        if own is not None or feed.meta_news:  # meta may come behind holes and errors that have passed by already
            feed.meta_news = False
            inherited = merge_metas(feed.metas)
            own = feed.out_metas or [b""] * len(self.step.output_ports)
            metas = [merge_metas([meta, inherited]) for meta in own]
        self.step.emit(feed.stream, part.outputs, part.end, metas)

    def own_metas(self, part: Part) -> list[bytes] | None:
        """The stream meta that the unit has set in the part's calls and that counts, per output port (lock held)."""
        feed = part.feed
        if feed.opened or not part.called:
            return None
        feed.opened = True  # what later calls set comes behind the first output
        return part.metas

    def is_over(self, feed: Feed) -> bool:
        """Whether nothing of a feed whose end was taken is left to run (lock held)."""
        return not (feed.events or feed.rest or feed.children)

    def close(self, feed: Feed) -> None:
        """The feed is over and its session lives (lock held)."""


class StreamKind(Kind):
    """STREAM: calls of one stream in order, any number of results."""

    serial = True
    framed = True
    calls = True

    def cut(self, part: Part) -> None:
        step, feed = self.step, part.feed
        if part.event:
            return
        pieces: list[Piece] = []
        last: Call | None = None
        for start, count, seen in stretches(step, part.inputs, part.count):
            if not seen:
                pieces.append(Passed([passed_by(step, part.inputs, start, count) for _ in step.output_ports]))
                continue
            for at in range(start, start + count, step.batch_size):
                size = min(step.batch_size, start + count - at)
                inputs = part.inputs
                if size != part.count:
                    inputs = [slice_list(items, at, size) for items in inputs]
                last = self.call(part, inputs, at)
                pieces.append(last)
        if part.end and feed.opened:
            if last is None or pieces[-1] is not last:  # what data_post gives stands behind what passes
                last = self.call(part, [new_list(0) for _ in step.input_ports], -1)
                pieces.append(last)
            last.end = True
        part.pieces = pieces

    def call(self, part: Part, inputs: list[CoreList], position: int) -> Call:
        """A call in the stream's context, with values from `position` of the part on; -1: it only ends the stream."""
        feed = part.feed
        call = Call(feed.stream.session, inputs, feed, feed.stream.number)
        if not feed.opened:
            call.begin = feed.opened = True
            call.input_metas = port_metas(self.step, feed)
        return call

    def join(self, part: Part) -> None:
        part.told = ends_in(part.pieces)
        outputs: list[list[CoreList]] = [[] for _ in self.step.output_ports]
        for number, piece in enumerate(part.pieces):
            if isinstance(piece, Passed):
                assert piece.lists is not None
                lists = piece.lists
            elif piece.skipped:
                part.pieces = part.pieces[number:]
                break
            else:
                lists = results(self.step, piece, 1 if piece.reason == "DataPreError" else max(piece.count, 1))
                if piece.error is not None and piece.outputs:  # behind the errors stands what data_post gave
                    lists = [concat([errors, given]) for errors, given in zip(lists, piece.outputs, strict=True)]
                if piece.metas and any(piece.metas):
                    part.metas = piece.metas
            for collected, items in zip(outputs, lists, strict=True):
                collected.append(items)
            if isinstance(piece, Call) and piece.more:
                part.feed.events.append(part.feed)
                part.pieces = part.pieces[number + 1 :]
                break
        else:
            part.pieces = []
        part.outputs = [concat(lists) if lists else new_list(0) for lists in outputs]

    def own_metas(self, part: Part) -> list[bytes] | None:
        return part.metas

    def done(self, part: Part) -> None:
        stream_done(part)

    def event_part(self, feed: Feed) -> Part:
        return stream_event_part(self.step, feed)


def stream_done(part: Part) -> None:
    """Kind.done() of units with one context per stream."""
    feed = part.feed
    if feed.dead:  # nothing more is run for it, but its end where the unit has not heard of that
        feed.ending = (part.end or feed.ending) and not (part.told or ends_in(part.pieces))
        feed.rest = part.pieces = []
        return
    feed.rest = part.pieces + feed.rest
    if part.end and (feed.events or feed.rest):
        part.end, feed.ending = False, True
    elif feed.ending and not (feed.events or feed.rest):
        part.end, feed.ending = True, False


def stream_event_part(step: Step, feed: Feed) -> Part:
    """Kind.event_part() of units with one context per stream."""
    if not feed.events:
        pieces, feed.rest = feed.rest, []
        return feed.take_event(pieces)
    feed.events.popleft()
    call = Call(feed.stream.session, [new_list(0) for _ in step.input_ports], feed, feed.stream.number)
    call.event = True
    call.end = feed.ending and not any(isinstance(piece, Call) for piece in feed.rest)
    call.child = feed.child
    return feed.take_event([call])


def ends_in(pieces: list[Piece]) -> bool:
    """Whether the unit has heard in one of the calls that its context ends."""
    return any(isinstance(piece, Call) and piece.has_ended for piece in pieces)


class ConditionKind(Kind):
    """CONDITION: one value per call, which goes to one port; the others get a hole."""

    calls = True

    def cut(self, part: Part) -> None:
        session, metas = part.feed.stream.session, port_metas(self.step, part.feed)
        for start, count, seen in stretches(self.step, part.inputs, part.count):
            if not seen:
                part.pieces.append(Passed([passed_by(self.step, part.inputs, start, count)]))
                continue
            for at in range(start, start + count):
                call = Call(session, [slice_list(items, at, 1) for items in part.inputs])
                call.input_metas = metas
                part.pieces.append(call)

    def join(self, part: Part) -> None:
        if part.outputs is not None:
            return  # made by the core in one go
        outputs = [new_list(part.count) for _ in self.step.output_ports]
        for piece in part.pieces:
            if isinstance(piece, Passed):
                assert piece.lists is not None
                chosen, items = self.error_port(), piece.lists[0]
            elif piece.error is not None:
                chosen = self.error_port()
                items = results(self.step, piece, 1)[chosen]
            else:
                chosen, items = self.choice(piece)
            for port, collected in enumerate(outputs):
                if port == chosen:
                    lib.mb_list_extend(collected, items, 0, items.count)
                else:
                    for _ in range(items.count):
                        lib.mb_list_push(collected, ffi.NULL)
        part.outputs = outputs

    def error_port(self) -> int:
        """The port that errors go to."""
        return 0

    def choice(self, call: Call) -> tuple[int, CoreList]:
        """The port that a call has chosen, and its value there."""
        assert call.outputs is not None
        filled = [(port, items) for port, items in enumerate(call.outputs) if items.count]
        if len(filled) == 1 and filled[0][1].count == 1:
            return filled[0]
        made = sum(items.count for items in call.outputs)
        raise RuleBroken(f"node '{self.step.name}': one value must go to one output port, it gave {made}")
