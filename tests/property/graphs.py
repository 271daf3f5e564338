"""Random graphs that keep every rule of docs/dataflow.md, with inputs for several sessions.

A graph grows in sections: a chain or fork and join of units, a condition whose branches meet, an expand with
collapses behind it, a loop around a body; what stands inside a branch, an expand or a loop is a section again. All
choices come from a Pick: hypothesis (which then shrinks what fails) or random numbers (fast, for long runs).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from tests.property.case import Case, CaseExit, CaseNode, CaseSession
from tests.property.script import (
    CALM,
    EVENT_OPS,
    FRAMED_OPS,
    FREE,
    NATIVE,
    ONE_BY_ONE,
    READS,
    RUDE,
    SETS,
)
from tests.property.units import Form

T = TypeVar("T")
KINDS = frozenset({"condition", "expand", "collapse", "loop"})
# All that may occur beside normal and stream units: kinds; doors (inputs: type=input and type=output; ports: sources
# with two ports); what units do; where they run.
EVERYTHING = KINDS | {
    *("inputs", "ports"),
    "rude",  # sessions that must fail: wrong numbers of outputs, ports and branches that do not match
    "framed",  # data_pre and data_post
    "events",
    *("native", "python"),
    "cancel",  # sessions that are cancelled on their way
    "native_count",  # a native unit's wrong number of outputs fails the session
    "stream_ports",  # built-in stream units with several outputs
    "narrow_joins",  # several sessions before joins with short queues
    "nested_loops",
    "meta",  # units that set and read stream meta
}


class Pick(Protocol):
    """Where choices come from; 0 and the first are the simplest."""

    def number(self, low: int, high: int) -> int: ...


class HypothesisPick:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))


class RandomPick:
    """The n-th case of a seed is the same in every run."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


# ---- growing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """An output (or branches that meet wherever it is read), its level, and its lane: wires of one lane have the
    same positions, so that they can be joined without failing the session."""

    ends: tuple[str, ...]
    level: tuple[str, ...]
    lanes: tuple[int, ...]  # one per expand around it, the outermost first

    @property
    def nest(self) -> int:
        return len(self.lanes) - 1


@dataclass(frozen=True)
class Place:
    """Where a section stands."""

    depth: int = 0
    fixed: bool = False  # positions must stay as they are: branches will meet
    in_loop: bool = False  # everything leads back: one chain, and no stream units


@dataclass
class Grower:
    pick: Pick
    features: frozenset[str]
    rude: bool = False
    python: bool = False  # this graph has Python units
    nodes: list[CaseNode] = field(default_factory=list)
    merged: list[Wire] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)  # all that were made
    budget: int = 0
    _lane: int = 0

    def choose(self, items: Sequence[T]) -> T:
        return items[self.pick.number(0, len(items) - 1)]

    def chance(self, one_in: int) -> bool:
        return self.pick.number(0, one_in - 1) == one_in - 1

    def new_lane(self) -> int:
        self._lane += 1
        return self._lane

    # ---- one node -----------------------------------------------------------------------------------------------

    def _impl(self, kind: str) -> str:
        if self.python and kind != "loop" and self.chance(3):
            return "python"
        if "native" in self.features and kind in NATIVE and self.pick.number(0, 2):
            return "native"
        return "builtin"

    def _op(self, kind: str, impl: str, place: Place) -> str:
        ops = list(CALM[kind])
        if kind in FREE and not place.fixed:
            ops += [*FREE[kind], *FREE[kind]]
        if self.rude:
            ops += RUDE[kind]
        if impl == "native":
            ops = [op for op in ops if op in NATIVE[kind] and (op != "count" or "native_count" in self.features)]
        if "framed" not in self.features:
            ops = [op for op in ops if op not in FRAMED_OPS]
        if "events" not in self.features:
            ops = [op for op in ops if op not in EVENT_OPS]
        return self.choose(ops)

    def _meta(self, form: Form, place: Place) -> int:
        """Whether a unit sets and reads stream meta. What is set in a branch, and what units read that see errors, hangs on
        what comes first; so neither is there."""
        if "meta" not in self.features or self.rude or form.impl == "native":
            return 0
        bits = 0
        if form.kind in ("normal", "stream", "expand") and not place.fixed and not place.in_loop and self.chance(2):
            bits |= SETS
        if form.kind in ("normal", "stream", "expand", "collapse") and not form.sees and self.chance(3):
            bits |= READS
        return bits

    def node(self, kind: str, wires: Sequence[Wire], outputs: int, place: Place) -> tuple[CaseNode, list[str]]:
        """Adds a node; the beginnings of its output edges."""
        impl = self._impl(kind)
        if kind == "stream" and impl == "builtin" and "stream_ports" not in self.features:
            outputs = 1
        op = self._op(kind, impl, place)
        stream = kind == "expand" and not place.in_loop and (op == "prefail" or self.chance(3))
        if op == "prefail" and kind == "expand" and (not stream or "framed" not in self.features):
            op = "map"
        collapse_all = kind != "collapse" or (op not in ("first", "third", "post") if op != "map" else True)
        form = Form(
            impl,
            kind,
            len(wires),
            outputs,
            sees=self.chance(4),
            stream=stream,
            collapse_all=collapse_all,
            elementwise=impl == "native" and kind == "normal" and self.chance(2),
        )
        meta = self._meta(form, place)
        # A normal unit reads and sets meta of the first of the streams in its call.
        batch = 1 if op in ONE_BY_ONE or (meta and kind == "normal") else self.choose((1, 2, 3, 8, 64))
        made = CaseNode(
            f"n{len(self.nodes)}",
            form,
            tuple(wire.ends for wire in wires),
            op,
            self.pick.number(0, 999),
            batch,
            self.choose((1, 2, 3, 32, 40)) if len(wires) == 1 or "narrow_joins" in self.features else 16000,
            meta=meta,
        )
        self.nodes.append(made)
        self.budget -= 1
        return made, [f"{made.name}:{port}" for port in form.output_ports]

    def made(self, wire: Wire) -> Wire:
        self.wires.append(wire)
        return wire

    # ---- sections -----------------------------------------------------------------------------------------------

    def section(self, wires: Sequence[Wire], place: Place, length: int) -> Wire:
        """Grows up to `length` nodes behind wires of one level; one wire of that level."""
        pool = list(wires)
        stop = self.budget - length
        while self.budget > max(stop, 0):
            wire = pool[-1] if place.in_loop or self.pick.number(0, 2) else self.choose(pool)
            shapes = ["unit", "unit"]
            if not place.in_loop:
                shapes.append("join")
            if place.depth < 3:
                shapes += [shape for shape in ("condition", "expand", "expand") if shape in self.features]
                if "loop" in self.features and (not place.in_loop or "nested_loops" in self.features):
                    shapes.append("loop")
            match self.choose(shapes):
                case "unit":
                    pool += self._unit([wire], place)
                case "join":
                    pool += self._unit(self._partners(wire, pool), place)
                case "condition":
                    pool.append(self._condition(wire, place))
                case "expand":
                    pool += self._expand(wire, place)
                case "loop":
                    pool.append(self._loop(wire, place))
            if place.in_loop:
                pool = pool[-1:]
        if place.fixed:  # the way out must have the lane of the way in
            pool = [wire for wire in pool if wire.lanes == wires[0].lanes]
        return pool[-1]

    def _partners(self, wire: Wire, pool: Sequence[Wire]) -> list[Wire]:
        """`wire` and one or two others that can be joined with it."""
        fit = [other for other in pool if other.level == wire.level and (other.lanes == wire.lanes or self.rude)]
        return [wire, *(self.choose(fit) for _ in range(2 if self.chance(4) else 1))]

    def _unit(self, wires: Sequence[Wire], place: Place) -> list[Wire]:
        kind = "normal" if place.in_loop or self.chance(2) else "stream"
        outputs = 1 if place.in_loop or len(wires) > 2 or self.pick.number(0, 2) else 2
        node, ends = self.node(kind, wires, outputs, place)
        lanes = [wires[0].lanes] * len(ends)
        if node.op in FREE.get(kind, ()):
            lanes = [(*wires[0].lanes[:-1], self.new_lane())] * len(ends)
        elif node.op == "uneven":
            lanes = [(*wires[0].lanes[:-1], self.new_lane()) for _ in ends]
        return [self.made(Wire((end,), wires[0].level, lane)) for end, lane in zip(ends, lanes, strict=True)]

    def _condition(self, wire: Wire, place: Place) -> Wire:
        node, ends = self.node("condition", [wire], self.pick.number(2, 4), place)
        inside = Place(place.depth + 1, fixed=not self.rude or place.in_loop, in_loop=place.in_loop)
        back: list[str] = []
        for number, end in enumerate(ends):
            begin = self.made(Wire((end,), (*wire.level, f"branch {node.name} {number}"), wire.lanes))
            behind = self.section([begin], inside, self.pick.number(0, 3))
            if place.in_loop and len(behind.ends) > 1:
                (behind,) = self._unit([behind], inside)
            if number < 2 or place.in_loop or self.pick.number(0, 5):  # now and then a branch does not come back
                back.append(self._one_end(behind, inside))
        merged = self.made(Wire(tuple(back), wire.level, wire.lanes))
        self.merged.append(merged)
        if place.in_loop:
            return self._unit([merged], place)[0]
        return merged

    def _one_end(self, wire: Wire, place: Place) -> str:
        """One output that gives the wire: branches inside a branch meet at a node first."""
        if len(wire.ends) > 1:
            self.budget += 1
            _, ends = self.node("normal", [wire], 1, place)
            self.made(Wire((ends[0],), wire.level, wire.lanes))
            return ends[0]
        return wire.ends[0]

    def _expand(self, wire: Wire, place: Place) -> list[Wire]:
        outputs = 2 if not place.in_loop and self.chance(4) else 1
        node, ends = self.node("expand", [wire], outputs, place)
        lane = self.new_lane()
        lanes = [(*wire.lanes, self.new_lane() if node.op == "uneven" else lane) for _ in ends]
        level = (*wire.level, f"expand {node.name}")
        begin = [self.made(Wire((end,), level, own)) for end, own in zip(ends, lanes, strict=True)]
        first = len(self.wires) - len(begin)
        inside = Place(place.depth + 1, in_loop=place.in_loop)
        last = self.section(begin, inside, self.pick.number(0, 4))
        if "collapse" not in self.features or (not place.in_loop and not place.fixed and self.chance(12)):
            return []  # the level stays open to the end
        closed: list[Wire] = []
        for number in range(1 if place.in_loop else self.choose((1, 1, 1, 2, 3))):
            here = [other for other in self.wires[first:] if other.level == level]
            source = last if number == 0 else self.choose(here)
            outputs = 2 if not place.in_loop and self.chance(6) else 1
            _, ends = self.node("collapse", [source], outputs, place)
            closed += [self.made(Wire((end,), wire.level, wire.lanes)) for end in ends]
        return closed

    def _loop(self, wire: Wire, place: Place) -> Wire:
        if len(wire.ends) > 1:  # a loop takes one edge from outside
            wire = self._unit([wire], Place(place.depth, fixed=True, in_loop=place.in_loop))[0]
        node, ends = self.node("loop", [wire], 2, place)
        at = len(self.nodes) - 1
        back = self.pick.number(0, 1)
        begin = Wire((ends[back],), (*wire.level, f"loop {node.name}"), wire.lanes)
        self.budget = max(self.budget, 1)
        inside = Place(place.depth + 1, fixed=True, in_loop=True)
        behind = self.section([begin], inside, self.pick.number(0, 3))
        values = asdict(node) | {
            "form": node.form,
            "sources": ((*wire.ends, *behind.ends),),
            "back": back,
            # a value may go round for ever
            "loop_limit": self.choose((3, 1, 2) if place.in_loop else (25, 1, 2, 3)),
        }
        self.nodes[at] = CaseNode(**values)
        return self.made(Wire((ends[1 - back],), wire.level, wire.lanes))

    # ---- the whole ------------------------------------------------------------------------------------------------

    def doors(self) -> tuple[list[str], bool]:
        """The doors, and whether they are type=input nodes."""
        if "inputs" in self.features and self.chance(2):
            return [f"{name}:input" for name in "abc"[: self.choose((1, 2, 3))]], True
        if "ports" in self.features and self.chance(8):
            return ["source2:out", "source2:other"], False
        return ["source:out"], False

    def union(self, doors: Sequence[Wire]) -> None:
        """Joins parts of the graph that hang together with nothing, at their doors."""
        parts = {door.ends[0].partition(":")[0]: door for door in doors}
        group = {name: name for name in parts} | {node.name: node.name for node in self.nodes}

        def find(name: str) -> str:
            while group[name] != name:
                name = group[name]
            return name

        for node in self.nodes:
            for end in (end for port in node.sources for end in port):
                group[find(end.partition(":")[0])] = find(node.name)
        first, *others = parts.values()
        for other in others:
            if find(first.ends[0].partition(":")[0]) != find(other.ends[0].partition(":")[0]):
                node, ends = self.node("normal", [first, other], 1, Place(fixed=True))
                self.made(Wire((ends[0],), first.level, first.lanes))
                group[node.name] = node.name
                for name in (first.ends[0], other.ends[0]):
                    group[find(name.partition(":")[0])] = find(node.name)

    def exits(self, has_inputs: bool) -> list[CaseExit]:
        """A sink or an output for everything that nobody reads."""
        read = {end for node in self.nodes for port in node.sources for end in port}
        loose: list[Wire] = []
        for wire in (*self.merged, *self.wires):
            if not read & set(wire.ends):
                loose.append(wire)
                read |= set(wire.ends)
        exits: list[CaseExit] = []
        group = next(((wire.level, wire.lanes) for wire in reversed(loose) if wire.nest == 0), None)
        for wire in loose:
            if has_inputs and wire.nest == 0 and self.pick.number(0, 3):
                match = (wire.level, wire.lanes) == group and self.pick.number(0, 3) > 0
                exits.append(CaseExit(f"o{len(exits)}", wire.ends, True, match))
            else:
                exits.append(CaseExit(f"t{len(exits)}", wire.ends))
        return exits

    def sessions(self, doors: int, match_inputs: bool) -> Iterator[CaseSession]:
        for _ in range(self.pick.number(1, 6)):
            most = self.choose((4, 12, 12, 40))
            length = self.pick.number(0, most)
            values = []
            for _ in range(doors):
                if self.rude and self.chance(6):
                    length = self.pick.number(0, most)
                values.append(tuple(self.choose("abcdefghij") for _ in range(length)))
            cancel = self.pick.number(0, 4) if "cancel" in self.features and self.chance(12) else None
            yield CaseSession(tuple(values), self.choose((1, 2, 3, 7, 64)), cancel)


def random_case(pick: Pick, features: frozenset[str] = EVERYTHING) -> Case:
    """One graph with its sessions."""
    grower = Grower(pick, features)
    grower.rude = "rude" in features and grower.chance(6)
    grower.python = "python" in features
    grower.budget = pick.number(1, 40) if grower.chance(12) else pick.number(1, 12)
    doors, has_inputs = grower.doors()
    wires = [grower.made(Wire((door,), ("source",), (0,))) for door in doors]
    grower.section(wires, Place(), grower.budget)
    grower.union(wires)
    match_inputs = not has_inputs or not grower.chance(3)
    exits = grower.exits(has_inputs)
    sessions = tuple(grower.sessions(len(doors), match_inputs))
    threads = grower.choose((1, 2, 16))
    return Case(tuple(doors), tuple(grower.nodes), tuple(exits), sessions, match_inputs, threads)


@st.composite
def cases(draw: st.DrawFn, features: frozenset[str] = EVERYTHING) -> Case:
    """Random cases for hypothesis."""
    return random_case(HypothesisPick(draw), features)
