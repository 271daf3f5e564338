"""The kinds of units: how a part is cut into calls, and where the results of the calls go.

docs/dataflow.md defines the meaning. cut() and join() run without the lock; the methods that say so expect the
job's lock to be held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelbox.errors import UnitError
from modelboxd.engine.calls import (
    Call,
    Passed,
    Piece,
    RuleBroken,
    error_lists,
    passed_by,
    port_metas,
    results,
    stretches,
)
from modelboxd.engine.errors import all_seen, error_list, split
from modelboxd.engine.feed import CoreList, Feed, Part, concat, slice_list
from modelboxd.engine.meta import merge_metas
from modelboxd.engine.session import Round, Stream

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
        if part.metas or (part.begin and any(feed.metas)):
            inherited = merge_metas(feed.metas) if part.begin else b""
            own = part.metas or [b""] * len(self.step.output_ports)
            metas = [merge_metas([meta, inherited]) for meta in own]
        self.step.emit(feed.stream, part.outputs, part.end, metas)

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
        outputs: list[list[CoreList]] = [[] for _ in self.step.output_ports]
        for number, piece in enumerate(part.pieces):
            if isinstance(piece, Passed):
                assert piece.lists is not None
                lists = piece.lists
            elif piece.skipped:
                part.pieces = part.pieces[number:]
                break
            else:
                lists = results(self.step, piece, 1 if piece.reason != "ProcessError" else max(piece.count, 1))
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

    def done(self, part: Part) -> None:
        feed = part.feed
        feed.rest = part.pieces + feed.rest
        if part.end and (feed.events or feed.rest):
            part.end, feed.ending = False, True
        elif feed.ending and not (feed.events or feed.rest):
            part.end, feed.ending = True, False

    def event_part(self, feed: Feed) -> Part:
        if not feed.events:
            pieces, feed.rest = feed.rest, []
            return feed.take_event(pieces)
        feed.events.popleft()
        call = Call(feed.stream.session, [new_list(0) for _ in self.step.input_ports], feed, feed.stream.number)
        call.event = True
        call.end = feed.ending and not any(isinstance(piece, Call) for piece in feed.rest)
        call.child = feed.child
        return feed.take_event([call])


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


class ExpandKind(Kind):
    """EXPAND: what one value gives is a sub-stream of its own."""

    calls = True

    def cut(self, part: Part) -> None:
        step, stream = self.step, part.feed.stream
        if part.event:
            return
        unseen = not all_seen(part.inputs, step.visible) if part.count else False
        for at in range(part.count):
            index = part.first + at
            kind = (
                lib.mb_lists_kind(part.inputs, len(part.inputs), at, step.visible, ffi.NULL) if unseen else lib.MB_SEEN
            )
            if kind == lib.MB_HOLE:
                part.pieces.append(Passed(None, None, index))
                continue
            child = Stream(stream.session, stream, index)
            if kind == lib.MB_ERROR:
                lists = [passed_by(step, part.inputs, at, 1) for _ in step.output_ports]
                part.pieces.append(Passed(lists, child, index))
                continue
            inputs = part.inputs if part.count == 1 else [slice_list(items, at, 1) for items in part.inputs]
            call = self.call(part, inputs, child)
            call.child = child
            part.pieces.append(call)
        self.end_calls(part)

    def call(self, part: Part, inputs: list[CoreList], child: Stream) -> Call:
        """The call for one value."""
        call = Call(child.session, inputs, child, child.number)
        call.begin = call.end = True
        call.input_metas = port_metas(self.step, part.feed)
        return call

    def end_calls(self, part: Part) -> None:
        """Tells the unit of the stream's end, where it wants to know."""

    def join(self, part: Part) -> None:
        step = self.step
        for number, piece in enumerate(part.pieces):
            if isinstance(piece, Passed):
                part.yields.append((piece.index, piece.child, piece.lists, True, True))
                continue
            if piece.skipped:
                part.pieces = part.pieces[number:]
                return
            lists = results(step, piece, 1)
            if piece.metas and any(piece.metas):
                part.feed.out_metas = piece.metas
            child = piece.child
            if child is not None:
                part.yields.append((child.index, child, lists, not piece.event, not piece.more))
            if piece.more and self.hold(part.feed, piece):
                part.pieces = part.pieces[number + 1 :]
                return
        part.pieces = []

    def hold(self, feed: Feed, call: Call) -> bool:
        """The call's context has events; whether the calls behind it have to wait."""
        feed.events.append(call.child)
        return False

    def event_part(self, feed: Feed) -> Part:
        pieces: list[Piece] = []
        while feed.events and len(pieces) < self.step.batch_size:
            child = feed.events.popleft()
            call = Call(child.session, [new_list(0) for _ in self.step.input_ports], child, child.number)
            call.event = call.end = True
            call.child = child
            pieces.append(call)
        return feed.take_event(pieces)

    def deliver(self, part: Part) -> None:
        step, feed = self.step, part.feed
        metas: list[bytes] | None = None
        for index, child, lists, begin, end in part.yields:
            if child is None:
                for partner in step.partners:
                    partner.gather(feed.stream, feed.metas).put(index, None)
                continue
            if begin:
                feed.children += 1
                for partner in step.partners:
                    partner.gather(feed.stream, feed.metas)
                if metas is None:
                    inherited = merge_metas(feed.metas)
                    metas = [merge_metas([own, inherited]) for own in feed.out_metas or [b""] * len(step.output_ports)]
            if end:
                feed.children -= 1
            step.emit(child, lists, end, metas if begin else None)
            if feed.stream.session.dead:
                return

    def close(self, feed: Feed) -> None:
        for partner in self.step.partners:
            partner.gather(feed.stream, feed.metas).finish(feed.base)


class StreamExpandKind(ExpandKind):
    """EXPAND of a stream: one value after the other, in the context of the stream."""

    serial = True
    framed = True

    def call(self, part: Part, inputs: list[CoreList], child: Stream) -> Call:
        feed = part.feed
        call = Call(child.session, inputs, feed, feed.stream.number)
        if not feed.opened:
            call.begin = feed.opened = True
            call.input_metas = port_metas(self.step, feed)
        return call

    def end_calls(self, part: Part) -> None:
        if not part.end:
            return
        last = next((piece for piece in reversed(part.pieces) if isinstance(piece, Call)), None)
        if last is None and part.feed.opened:
            feed = part.feed
            last = Call(feed.stream.session, [new_list(0) for _ in self.step.input_ports], feed, feed.stream.number)
            part.pieces.append(last)
        if last is not None:
            last.end = True

    def hold(self, feed: Feed, call: Call) -> bool:
        feed.events.append(feed)
        feed.child = call.child
        return True

    done = StreamKind.done
    event_part = StreamKind.event_part


class CollapseKind(StreamKind):
    """COLLAPSE: all values of a sub-stream at once; at most one result per port."""

    whole = True

    def amount(self, feed: Feed) -> int:
        return feed.matched() if all(feed.ended) else 0

    def cut(self, part: Part) -> None:
        step, feed = self.step, part.feed
        kept = [] if feed.failed else part.inputs
        if kept and part.count and not all_seen(part.inputs, step.visible):
            error = self.first_error(part)
            if error is not None:
                part.pieces = [Passed([error for _ in step.output_ports])]
                feed.failed = True
                kept = []
            else:
                kept = split(part.inputs, step.visible)
        last: Call | None = None
        if kept and kept[0].count:
            last = self.call(part, kept, 0)
            part.pieces.append(last)
        if part.end:
            if last is None and feed.opened:
                last = self.call(part, [new_list(0) for _ in step.input_ports], -1)
                part.pieces.append(last)
            if last is not None:
                last.end = True

    def first_error(self, part: Part) -> CoreList | None:
        """The first error that the unit does not see."""
        step = self.step
        for at in range(part.count):
            if lib.mb_lists_kind(part.inputs, len(part.inputs), at, step.visible, ffi.NULL) == lib.MB_ERROR:
                return passed_by(step, part.inputs, at, 1)
        return None

    def join(self, part: Part) -> None:
        feed, step = part.feed, self.step
        result = feed.result or [new_list(0) for _ in step.output_ports]
        for piece in part.pieces:
            if isinstance(piece, Passed):
                assert piece.lists is not None
                result = piece.lists
                continue
            lists = results(step, piece, 1)
            if feed.failed:
                continue  # what is given after an error does not count
            if piece.error is not None or piece.failed:
                result, feed.failed = lists, True
                continue
            result = [concat([old, new]) if old.count else new for old, new in zip(result, lists, strict=True)]
            for port, items in zip(step.output_ports, result, strict=True):
                if items.count > 1:
                    raise RuleBroken(
                        f"node '{step.name}' port '{port}': should generate one buffer for one stream collapse, "
                        f"it gave {items.count}"
                    )
        part.pieces = []
        feed.result = result

    def done(self, part: Part) -> None:
        """Collapse units have no events."""

    def deliver(self, part: Part) -> None:
        feed = part.feed
        parent = feed.stream.parent
        if not part.end or parent is None:
            return
        self.step.gather(parent, feed.metas).put(feed.stream.index, feed.result)
        feed.result = None


class CollapseAnyKind(CollapseKind):
    """COLLAPSE with collapse_all = false: the values as they come."""

    whole = False

    def amount(self, feed: Feed) -> int:
        return feed.matched()


class LoopKind(ConditionKind):
    """LOOP: each value goes round until the unit lets it out."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        node = step.nodes[0]
        self.back = node.loop_back
        self.out = 1 - self.back
        self.gathered = [self.out]
        self.limit = node.loop_limit

    def amount(self, feed: Feed) -> int:
        if isinstance(feed.stream, Round):
            return feed.matched()
        gather = self.step.gathers.get(feed.stream)
        inside = feed.base - (gather.received if gather is not None else 0)
        return min(feed.matched(), max(self.step.capacity[0] - inside, 0))

    def error_port(self) -> int:
        return self.out

    def cut(self, part: Part) -> None:
        self.expire(part)
        super().cut(part)

    def expire(self, part: Part) -> None:
        """Values that have had all their calls become errors, which leave."""
        stream, step = part.feed.stream, self.step
        if not isinstance(stream, Round):
            return
        calls = stream.calls[part.first : part.first + part.count]
        if max(calls, default=0) < self.limit:
            return
        values = part.inputs[0]
        kept = new_list(part.count)
        for at, made in enumerate(calls):
            seen = lib.mb_lists_kind(part.inputs, 1, at, step.visible, ffi.NULL) == lib.MB_SEEN
            if seen and made >= self.limit:
                text = f"node '{step.name}': the value was still in the loop after {made} calls"
                code = f"{step.nodes[0].unit.name}.LoopLimit"
                error = error_list(1, code, text)
                lib.mb_buffer_set_born(error.items[0], 0)  # not born yet: even a unit that sees errors does not get it
                lib.mb_list_extend(kept, error, 0, 1)
            else:
                lib.mb_list_extend(kept, values, at, 1)
        part.inputs = [kept]

    def join(self, part: Part) -> None:
        super().join(part)
        assert part.outputs is not None
        stream = part.feed.stream
        back, out = part.outputs[self.back], part.outputs[self.out]
        leaving: list[tuple[int, CoreList | None]] = []
        again, positions, calls = new_list(0), [], []
        for at in range(part.count):
            index, made = part.first + at, 1
            if isinstance(stream, Round):
                index, made = stream.positions[part.first + at], stream.calls[part.first + at] + 1
            if back.items[at] == ffi.NULL:
                value = slice_list(out, at, 1) if out.items[at] != ffi.NULL else None
                if value is not None:
                    lib.mb_list_born(value, 0, self.step.out_depth)
                leaving.append((index, value))
            else:
                lib.mb_list_extend(again, back, at, 1)
                positions.append(index)
                calls.append(made)
        part.yields = [leaving, again, positions, calls]
        part.outputs = None

    def deliver(self, part: Part) -> None:
        step, stream = self.step, part.feed.stream
        leaving, again, positions, calls = part.yields or ([], None, [], [])
        session = stream.session
        origin = stream
        if isinstance(stream, Round):
            assert stream.parent is not None
            origin = stream.parent
            if part.end and part.first + part.count != len(stream.positions):
                text = f"node '{step.name}': {len(stream.positions)} values went into the loop's body, "
                step.job.fail_locked(session, UnitError(text + f"{part.first + part.count} came back"))
                return
        gather = step.gather(origin, part.feed.metas)
        for index, items in leaving:
            gather.put(index, None if items is None else [items])
        if positions:
            turn = Round(session, origin, positions, calls)
            meta = merge_metas(part.feed.metas)
            step.emit_port(self.back, turn, again, True, meta)
        entry = step.feeds.get(origin)
        if entry is not None and entry is not part.feed:
            step.mark(entry)  # there is room for more in the loop

    def close(self, feed: Feed) -> None:
        if not isinstance(feed.stream, Round):
            self.step.gather(feed.stream, feed.metas).finish(feed.base)


def kind_of(step: Step) -> Kind:
    """The kind of a step's unit."""
    node = step.nodes[0]
    unit = node.unit
    if unit.collapse:
        return (CollapseKind if unit.collapse_all else CollapseAnyKind)(step)
    if unit.expand:
        return (StreamExpandKind if node.is_stream else ExpandKind)(step)
    if unit.condition:
        return ConditionKind(step)
    if unit.loop:
        return LoopKind(step)
    return (StreamKind if node.is_stream else Kind)(step)


__all__ = ["Kind", "error_lists", "kind_of"]
