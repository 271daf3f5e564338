"""The reference interpreter: what a graph means (docs/dataflow.md), computed the slow and plain way.

One session, one node after the other, whole streams as Python lists. No queues, no batches, no threads. The engine
must hand out the same values in the same order, or fail the session where this says that it fails.

    def twice(call):                          # a unit is a function of one call
        for text in call.inputs["in"]:
            call.outputs["out"].append(text + text)

    graph = Graph()
    graph.source("source")                    # or graph.input("a", match=False) for type=input
    graph.add("d", Unit("twice", Kind.NORMAL, twice), {"in": "source:out"})
    graph.add("s", Unit("show", Kind.STREAM, lambda call: None, outputs=(), sees_errors=True), {"in": "d:out"})
    graph.output("o", "d:out")                # type=output
    result = run(graph, {"source": ["a", "b"]})
    result.outputs["o"] == ["aa", "bb"]       # one value, Err or HOLE per position
    result.seen["s"] == [["aa", "bb"]]        # what a unit without outputs was given, a list per (sub-)stream

Values are texts, `Err` or `HOLE`. A unit refuses one value by appending `Err(code, message)` to an output; it fails a call by
raising `Failed`. It may return CONTINUE, use `call.event`, `call.send_event(...)`, `call.state` (a dict of its
stream, sub-stream or input value), `call.set_output_meta(...)`. `call.external` is what a source was sent. Edges that
meet are given as a list: {"in": ["yes:out", "no:out"]}. run() raises SessionFailed (with the node), JobStopped after
STOP, ValueError for a graph that breaks a rule.

Left open by docs/dataflow.md, so nobody should compare it: which of several failures of one session comes first, and
what came out before a session failed; the message of an error that the engine makes (its code is compared); how many
values one call of a stream unit or of a collapse with collapse_all = false gets (here one; a normal unit also gets
one), so units that fail calls or send events are compared at batch size 1; the order of different sub-streams at a
unit inside an expand; outputs of a job that was stopped.

Where the page is silent, this is what is done here:
 1. A position that data_pre's failure skips is left out by a stream unit; by an expand it becomes a hole. data_post is
    called all the same; its own failure changes nothing. What data_pre and data_post push counts as output, but not
    of an expand, which has no sub-stream then, and not behind a failure.
 2. A failed call without inputs (an event, or external data) gives one error on each port.
 3. A stream handles the events of a position before it passes the next one, be that a value, a hole, an error or the
    end, whatever the call returned. Of an expand only CONTINUE keeps the sub-stream open: behind anything else
    events that are still waiting are lost.
 4. After `loop_limit` calls the error takes the value's place when it comes to the loop once more.
 5. In a collapse an unseen error goes before the unit's own outcome; after a failed call the sub-stream gets no more.
 6. Behind a collapse stands the meta of the stream that was expanded, not what was set inside sub-streams.
 7. Type=output nodes see every error; matched ones hand out nothing at a position where one of them has a hole.
 8. Nothing leads into the body of a loop or out of it but the loop; there are no units without outputs in it.
 9. An unseen error that reaches a unit without outputs is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.reference.calls import (
    CONTINUE,
    HOLE,
    SUCCESS,
    Call,
    Context,
    Err,
    Failed,
    JobStopped,
    SessionFailed,
    Stopped,
    Stream,
    Value,
    union,
)
from tests.reference.graph import Door, End, Graph, Kind, Layout, Node, Unit, depth, nesting

__all__ = [
    "CONTINUE", "HOLE", "SUCCESS", "Call", "Err", "Failed", "Graph", "JobStopped", "Kind", "Result", "SessionFailed",
    "Stopped", "Unit", "run",
]  # fmt: skip


@dataclass
class Result:
    outputs: dict[str, list[Any]]  # type=output node -> a value, Err or HOLE per position
    seen: dict[str, list[list[Value]]]  # unit without outputs -> per (sub-)stream that had any the values given to it
    streams: dict[End, Stream]  # every edge outside of loops, to look at

    def delivered(self, name: str) -> list[Value]:
        """What a type=output node hands out: no holes."""
        return [item for item in self.outputs[name] if item is not HOLE]


def run(graph: Graph, inputs: Mapping[str, Sequence[Any]]) -> Result:
    """One session. `inputs` has the values of each door, by its name, or by "name:port" where a source has several
    ports; for a source with a unit a list of lists of external data. Doors not named get nothing of this session,
    unless they are type=input: all of these belong to it."""
    return _Session(graph).run(inputs)


class _Session:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layout = Layout(graph)
        self.seen: dict[str, list[list[Value]]] = {}

    def run(self, inputs: Mapping[str, Sequence[Any]]) -> Result:
        streams: dict[End, Stream] = {}
        self._enter(inputs, streams)
        self._walk(self.layout.order, streams)
        return Result(self._leave(streams), self.seen, streams)

    # ---- in and out -----------------------------------------------------------------------------------------

    def _enter(self, inputs: Mapping[str, Sequence[Any]], streams: dict[End, Stream]) -> None:
        values = {(name.partition(":")[0], name.partition(":")[2]): list(items) for name, items in inputs.items()}
        named = {name for name, _ in values}
        if any(self.graph.doors[name].is_input for name in named):
            named |= {door.name for door in self.graph.doors.values() if door.is_input}
        doors = [self.graph.doors[name] for name in self.graph.doors if name in named]
        for door in doors:
            if door.unit is not None:
                self._source(door, values[door.name, ""], streams)
                continue
            for port in door.outputs:
                streams[door.name, port] = Stream(values.get((door.name, port)) or values.get((door.name, "")) or [])
        matched = [door for door in doors if door.is_input and door.match]
        if len({len(streams[door.name, "input"].items) for door in matched}) > 1:
            raise SessionFailed(matched[0].name, "one input ended before the others")

    def _source(self, door: Door, sent: Sequence[list[str]], streams: dict[End, Stream]) -> None:
        """A source's unit is called once per list that was sent, as a stream unit is called per value."""
        assert door.unit is not None
        node = Node(door.name, replace(door.unit, inputs=(), outputs=door.outputs, kind=Kind.STREAM), {})
        unit = Context(node, [], 0)
        for external in sent:
            unit.call({}, external=external)
        for port in door.outputs:
            streams[door.name, port] = Stream(unit.outputs[port], unit.meta.get(port, {}))

    def _leave(self, streams: dict[End, Stream]) -> dict[str, list[Any]]:
        arrived: dict[str, dict[tuple[int, ...], Any]] = {}
        for exit in self.graph.exits.values():
            if all(end in streams for end in exit.sources):
                nest = nesting(self.layout.input_level[exit.name])
                stream = self._merge(exit.name, [streams[end] for end in exit.sources], nest)
                arrived[exit.name] = dict(_flat(stream, nest))
        matched = [arrived[name] for name in arrived if self.graph.exits[name].match]
        for items in matched:
            if items.keys() != matched[0].keys():
                raise SessionFailed("output", "missmatch, still has data when other port received end")
        for position in matched[0] if matched else ():
            if any(items[position] is HOLE for items in matched):
                for items in matched:
                    items[position] = HOLE
        return {name: list(items.values()) for name, items in arrived.items()}

    # ---- from node to node ------------------------------------------------------------------------------------

    def _walk(self, names: Iterable[str], streams: dict[End, Stream], around: int = 0) -> None:
        """Runs nodes in order; `around` is how many expands stand around all of this (in the body of a loop)."""
        for name in names:
            node = self.graph.nodes[name]
            nest = nesting(self.layout.input_level[name]) - around
            sources = [
                [end for end in node.sources[port] if end not in self.layout.way_back(name)]
                for port in node.unit.inputs
            ]
            if not all(end in streams for port in sources for end in port):
                continue  # fed by a door of other sessions
            inputs = [self._merge(name, [streams[end] for end in port], nest) for port in sources]
            if node.unit.kind is Kind.COLLAPSE:
                nest -= 1
            for port, stream in zip(node.unit.outputs, self._descend(node, inputs, nest), strict=True):
                streams[name, port] = stream

    def _merge(self, name: str, streams: list[Stream], nest: int) -> Stream:
        """Branches that meet: at each position the one that has a value gives it."""
        if len(streams) == 1:
            return streams[0]
        if len({len(stream.items) for stream in streams}) > 1:
            raise SessionFailed(name, "branches of different length meet")
        merged = Stream(meta=union([stream.meta for stream in streams]))
        for items in zip(*[stream.items for stream in streams], strict=True):
            there = [item for item in items if item is not HOLE]
            if nest and there:
                merged.items.append(self._merge(name, there, nest - 1))
            elif len(there) > 1:
                raise SessionFailed(name, "two branches have a value at one position")
            else:
                merged.items.append(there[0] if there else HOLE)
        return merged

    def _descend(self, node: Node, inputs: list[Stream], nest: int) -> list[Stream]:
        """A node works on each sub-stream of its level for itself; this finds them."""
        if not nest:
            return self._node(node, inputs)
        outputs = [Stream(meta=union([stream.meta for stream in inputs])) for _ in node.unit.outputs]
        for subs in zip(*[stream.items for stream in inputs], strict=True):  # of one expand, so equal in number
            results = [HOLE for _ in outputs] if HOLE in subs else self._descend(node, list(subs), nest - 1)
            for output, result in zip(outputs, results, strict=True):
                output.items.append(result)
        return outputs

    def _node(self, node: Node, inputs: list[Stream]) -> list[Stream]:
        rows = self._rows(node, inputs) if node.unit.kind is not Kind.COLLAPSE else []
        match node.unit.kind:
            case Kind.NORMAL:
                return self._normal(node, inputs, rows)
            case Kind.STREAM:
                return self._stream(node, inputs, rows)
            case Kind.CONDITION:
                outputs = self._condition(node, inputs, rows)
            case Kind.EXPAND:
                return self._expand(node, inputs, rows)
            case Kind.COLLAPSE:
                outputs = self._collapse(node, inputs)
            case Kind.LOOP:
                outputs = self._loop(node, inputs[0])
        meta = union([stream.meta for stream in inputs])
        return [Stream(outputs[port], dict(meta)) for port in node.unit.outputs]

    # ---- which values a unit sees ---------------------------------------------------------------------------

    def _rows(self, node: Node, inputs: Sequence[Stream]) -> list[Any]:
        """Per position: HOLE, the unseen error of the first port that has one, or a dict with a value per port."""
        length = min(len(stream.items) for stream in inputs)
        for port, stream in zip(node.unit.inputs, inputs, strict=True):
            if len(stream.items) > length:
                raise SessionFailed(node.name, f"port {port} missmatch, still has data when other port received end")
        rows: list[Any] = []
        for row in zip(*[stream.items for stream in inputs], strict=True):
            unseen = [item for item in row if not self._sees(node, item)]
            if HOLE in row:
                rows.append(HOLE)
            elif unseen:
                rows.append(unseen[0])
            else:
                rows.append(dict(zip(node.unit.inputs, row, strict=True)))
        return rows

    def _sees(self, node: Node, item: Any) -> bool:
        if not isinstance(item, Err):
            return True
        assert item.depth is not None
        return node.unit.sees_errors and item.depth >= depth(self.layout.input_level[node.name])

    def _depth(self, node: Node) -> int:
        """Of the errors that are born on its outputs."""
        port = next(iter(node.unit.outputs), None)
        return depth(self.layout.level[node.name, port]) if port else 0

    def _context(self, node: Node, inputs: Sequence[Stream]) -> Context:
        return Context(node, [stream.meta for stream in inputs], self._depth(node))

    # ---- the kinds --------------------------------------------------------------------------------------------

    def _normal(self, node: Node, inputs: Sequence[Stream], rows: Sequence[Any]) -> list[Stream]:
        whole = self._context(node, inputs)  # collects
        called = False
        for row in rows:
            if not isinstance(row, dict):
                whole.give(row)
                continue
            unit = self._context(node, inputs)
            unit.call(row, events=False)
            if not called:  # meta comes before the first output
                called, whole.meta = True, unit.meta
            for port, items in unit.outputs.items():
                if len(items) != 1:
                    reason = f"port '{port}': input buffer count 1 should equal output buffer count {len(items)}"
                    raise SessionFailed(node.name, reason)
                whole.outputs[port] += items
            whole.shown += unit.shown
        self._note(node, whole)
        return [Stream(whole.outputs[port], whole.output_meta(port)) for port in node.unit.outputs]

    def _stream(self, node: Node, inputs: Sequence[Stream], rows: Sequence[Any]) -> list[Stream]:
        unit = self._context(node, inputs)
        for row in rows:
            if not isinstance(row, dict):
                unit.give(row)
            elif unit.begin():
                unit.call(row)
        unit.finish()
        self._note(node, unit)
        return [Stream(unit.outputs[port], unit.output_meta(port)) for port in node.unit.outputs]

    def _condition(self, node: Node, inputs: Sequence[Stream], rows: Sequence[Any]) -> dict[str, list[Any]]:
        outputs: dict[str, list[Any]] = {port: [] for port in node.unit.outputs}
        first = node.unit.outputs[0]
        for row in rows:
            port, item = first, row
            if isinstance(row, dict):
                port, item = self._choice(node, inputs, row, first)
            for other in outputs:
                outputs[other].append(item if other == port else HOLE)
        return outputs

    def _choice(self, node: Node, inputs: Sequence[Stream], row: dict[str, Value], failing: str) -> tuple[str, Any]:
        """The one output of a condition or loop, and its port; that of a failed call is the port `failing`."""
        unit = self._context(node, inputs)
        if unit.call(row, events=False):
            given = [(port, item) for port, items in unit.outputs.items() for item in items]
            if len(given) != 1:
                raise SessionFailed(node.name, f"must give one value on one port, not {len(given)}")
            return given[0]
        return failing, unit.outputs[failing][0]

    def _expand(self, node: Node, inputs: Sequence[Stream], rows: Sequence[Any]) -> list[Stream]:
        whole = self._context(node, inputs)  # of the input stream
        outputs = {port: Stream() for port in node.unit.outputs}
        for row in rows:
            if row is HOLE:
                for port in outputs:
                    outputs[port].items.append(HOLE)
                continue
            sub = self._context(node, inputs)
            if not isinstance(row, dict):
                sub.give(row)
            elif not node.unit.stream:
                sub.call(row)
            else:
                had_failed = whole.skipping
                if whole.begin():
                    # One context, so the meta that is set holds from there on.
                    sub.state, sub.meta, sub.pushed = whole.state, whole.meta, whole.pushed
                    sub.call(row)
                elif had_failed:
                    for port in outputs:
                        outputs[port].items.append(HOLE)
                    continue
                else:  # data_pre failed just now: its error is this sub-stream
                    sub.outputs, whole.outputs = whole.outputs, sub.outputs
            for port, stream in outputs.items():
                stream.items.append(Stream(sub.outputs[port], union([sub.meta.get(port, {}), whole.output_meta(port)])))
        if node.unit.stream:
            whole.finish()
        for stream in outputs.values():  # what was set is of the sub-streams alone
            stream.meta = union([around.meta for around in inputs])
        return list(outputs.values())

    def _collapse(self, node: Node, inputs: Sequence[Stream]) -> dict[str, list[Any]]:
        outputs: dict[str, list[Any]] = {port: [] for port in node.unit.outputs}
        for subs in zip(*[stream.items for stream in inputs], strict=True):
            result = dict.fromkeys(outputs, HOLE) if HOLE in subs else self._collapse_one(node, subs)
            for port in outputs:
                outputs[port].append(result[port])
        return outputs

    def _collapse_one(self, node: Node, subs: Sequence[Stream]) -> dict[str, Any]:
        """What one sub-stream becomes, per port."""
        rows = [row for row in self._rows(node, subs) if row is not HOLE]
        unseen = [row for row in rows if not isinstance(row, dict)]
        if unseen or not rows:
            return dict.fromkeys(node.unit.outputs, unseen[0] if unseen else HOLE)
        unit = self._context(node, subs)
        calls = [{port: [row[port] for row in rows] for port in node.unit.inputs}]
        if not node.unit.collapse_all:
            calls = [{port: [row[port]] for port in node.unit.inputs} for row in rows]
        failed = not unit.begin()
        for call in calls:
            if not failed and not unit.call(call, events=False):
                failed = True
                unit.outputs = {port: items[-1:] for port, items in unit.outputs.items()}
        unit.finish(keep=not failed)
        self._note(node, unit)
        for port, items in unit.outputs.items():
            if len(items) > 1:
                reason = f"port '{port}': should generate one buffer for one stream collapse, not {len(items)}"
                raise SessionFailed(node.name, reason)
        return {port: items[0] if items else HOLE for port, items in unit.outputs.items()}

    def _loop(self, node: Node, stream: Stream) -> dict[str, list[Any]]:
        back = self.layout.back[node.name]
        (out,) = [port for port in node.unit.outputs if port != back]
        (arrival,) = self.layout.way_back(node.name)
        (port,) = node.unit.inputs
        left: list[Any] = []
        for item in stream.items:
            calls = 0
            while item is not HOLE and self._sees(node, item):
                if calls == node.loop_limit:
                    item = Err(f"{node.unit.name}.LoopLimit", depth=self._depth(node))
                    break
                calls += 1
                chosen, item = self._choice(node, [stream], {port: item}, out)
                if chosen == out:
                    break
                inner = {(node.name, back): Stream([item], dict(stream.meta))}
                self._walk(self.layout.body[node.name], inner, nesting(self.layout.input_level[node.name]))
                (item,) = inner[arrival].items
            left.append(item)
        return {out: left, back: []}

    def _note(self, node: Node, unit: Context) -> None:
        """Remembers what a unit without outputs was given."""
        if not node.unit.outputs and unit.shown:
            self.seen.setdefault(node.name, []).append(unit.shown)


def _flat(stream: Stream, nest: int, path: tuple[int, ...] = ()) -> Iterable[tuple[tuple[int, ...], Any]]:
    """Every position, as a path through the sub-streams, and what stands there."""
    for number, item in enumerate(stream.items):
        if nest and item is not HOLE:
            yield from _flat(item, nest - 1, (*path, number))
        else:
            yield (*path, number), item
