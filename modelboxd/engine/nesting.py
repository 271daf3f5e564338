"""The kinds of units that change the level: expand, collapse, loop.

docs/dataflow.md defines the meaning. As in kinds.py, cut() and join() run without the lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelbox.errors import UnitError
from modelboxd.engine.calls import Call, Passed, Piece, RuleBroken, passed_by, port_metas, results
from modelboxd.engine.errors import all_seen, error_list, split
from modelboxd.engine.feed import CoreList, Feed, Part, concat, slice_list
from modelboxd.engine.kinds import ConditionKind, Kind, StreamKind, ends_in, stream_done, stream_event_part
from modelboxd.engine.meta import merge_metas
from modelboxd.engine.session import Round, Stream

if TYPE_CHECKING:
    from modelboxd.engine.step import Step


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
        part.told = ends_in(part.pieces)
        for number, piece in enumerate(part.pieces):
            if isinstance(piece, Passed):
                metas = self.output_metas(part.feed, None)
                part.yields.append((piece.index, piece.child, piece.lists, True, True, metas))
                continue
            if piece.skipped:
                part.pieces = part.pieces[number:]
                return
            lists = results(step, piece, 1)
            metas = self.output_metas(part.feed, piece)
            child = piece.child
            if child is not None:
                part.yields.append((child.index, child, lists, not piece.event, not piece.more, metas))
            if piece.more and self.hold(part.feed, piece):
                part.pieces = part.pieces[number + 1 :]
                return
        part.pieces = []

    def output_metas(self, feed: Feed, call: Call | None) -> list[bytes] | None:
        """The stream meta that the unit has set for a sub-stream, per output port; `call` is its own, if any."""
        return call.metas if call is not None else None

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
        inherited: bytes | None = None
        for index, child, lists, begin, end, own in part.yields:
            if child is None:
                for partner in step.partners:
                    partner.gather(feed.stream, feed.metas).put(index, None)
                continue
            if begin:
                feed.children += 1
                for partner in step.partners:
                    partner.gather(feed.stream, feed.metas)
                if inherited is None:
                    inherited = merge_metas(feed.metas)
            metas: list[bytes] | None = None
            if own and any(own):
                metas = [merge_metas([meta, inherited or b""]) for meta in own]
            elif begin:
                metas = [inherited or b""] * len(step.output_ports)
            if end:
                feed.children -= 1
            step.emit(child, lists, end, metas)
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

    def output_metas(self, feed: Feed, call: Call | None) -> list[bytes] | None:
        """Set once for all sub-streams: the unit has one context."""
        if call is not None and call.metas and any(call.metas):
            feed.out_metas = call.metas
        return feed.out_metas

    def hold(self, feed: Feed, call: Call) -> bool:
        feed.events.append(feed)
        feed.child = call.child
        return True

    def done(self, part: Part) -> None:
        stream_done(part)

    def event_part(self, feed: Feed) -> Part:
        return stream_event_part(self.step, feed)


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

    def own_round(self, stream: Stream) -> Round | None:
        """The stream, when it has come back to this loop; a round of a loop around this one has not."""
        return stream if isinstance(stream, Round) and stream.loop is self.step else None

    def amount(self, feed: Feed) -> int:
        if self.own_round(feed.stream):
            return feed.matched()
        gather = self.step.gathers.get(feed.stream)
        # Also those that are out and wait for an earlier one: one value with many rounds must not let any number pass.
        inside = feed.base - (gather.next if gather is not None else 0)
        return min(feed.matched(), max(self.step.capacity[0] - inside, 0))

    def error_port(self) -> int:
        return self.out

    def cut(self, part: Part) -> None:
        self.expire(part)
        super().cut(part)

    def expire(self, part: Part) -> None:
        """Values that have had all their calls become errors, which leave."""
        stream, step = self.own_round(part.feed.stream), self.step
        if stream is None:
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
        turn = self.own_round(part.feed.stream)
        back, out = part.outputs[self.back], part.outputs[self.out]
        leaving: list[tuple[int, CoreList | None]] = []
        again, positions, calls = new_list(0), [], []
        for at in range(part.count):
            index, made = part.first + at, 1
            if turn is not None:
                index, made = turn.positions[part.first + at], turn.calls[part.first + at] + 1
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
        origin, arrived = stream, self.own_round(stream)
        if arrived is not None:
            assert arrived.parent is not None
            origin = arrived.parent
            if part.end and part.first + part.count != len(arrived.positions):
                text = f"node '{step.name}': {len(arrived.positions)} values went into the loop's body, "
                step.job.fail_locked(session, UnitError(text + f"{part.first + part.count} came back"))
                return
        gather = step.gather(origin, part.feed.metas)
        for index, items in leaving:
            gather.put(index, None if items is None else [items])
        if positions:
            turn = Round(session, origin, step, positions, calls)
            meta = merge_metas(part.feed.metas)
            step.emit_port(self.back, turn, again, True, meta)
        entry = step.feeds.get(origin)
        if entry is not None and entry is not part.feed:
            step.mark(entry)  # there is room for more in the loop

    def close(self, feed: Feed) -> None:
        if self.own_round(feed.stream) is None:
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
