"""What the units of random graphs do: small deterministic functions of the texts that arrive.

A unit is told by its node's options `op` and `seed` what to do, so that one class per form (kind and ports) is enough. The same
functions drive the reference interpreter, built-in units and Python workers; script.c says the same in C for native
units. Everything hangs on one hash, FNV-1a with 32 bits, of texts joined by "/". This file imports nothing of
modelbox, since workers load it by itself.

A reply's items are texts; "!CODE" is a new error of that code, ">" the first input buffer itself, handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FORWARD = ">"
SETS, READS = 1, 2  # bits of Script.meta
META_KEYS = ("m0", "m1", "m2")
REFUSED = "!Script.Refused"


def fnv1a(text: str) -> int:
    """FNV-1a, 32 bits, of the text's UTF-8 bytes."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


@dataclass
class Reply:
    """What one call gives: (port number, item) in order."""

    items: list[tuple[int, str]] = field(default_factory=list)
    failed: bool = False
    events: list[int] = field(default_factory=list)
    more: bool = False  # returns CONTINUE

    def add(self, other: Reply) -> None:
        self.items += other.items
        self.failed = self.failed or other.failed
        self.events += other.events
        self.more = self.more or other.more


@dataclass(frozen=True)
class Script:
    """A unit in a node. `kind` as in docs/dataflow.md; `back` is the port number of a loop that leads back."""

    kind: str
    op: str
    seed: int
    outputs: int
    collapse_all: bool = True
    back: int = 0
    meta: int = 0  # whether stream meta is set, and read

    def word(self, *parts: object) -> str:
        """Eight hexadecimal digits."""
        return f"{fnv1a('/'.join(str(part) for part in (self.seed, *parts))):08x}"

    def dice(self, sides: int, row: Sequence[str]) -> int:
        return (fnv1a("/".join([str(self.seed), *row])) >> 8) % sides

    def everywhere(self, item: str) -> Reply:
        return Reply([(port, item) for port in range(self.outputs)])

    # ---- stream meta ---------------------------------------------------------------------------------------

    def meta_of(self, texts: Sequence[str]) -> dict[str, str]:
        """The meta that is set for every port; `texts` are the first row of a call, none in data_pre."""
        return {META_KEYS[self.seed % 3]: self.word("meta", *texts)}

    def told(self, item: str, metas: Sequence[Mapping[str, str]]) -> str:
        """An item of a unit that reads its inputs' meta."""
        if not self.meta & READS or item.startswith((FORWARD, "!")):
            return item
        return self.word(item, *(f"{key}={meta[key]}" for meta in metas for key in META_KEYS if key in meta))

    # ---- calls ----------------------------------------------------------------------------------------------

    def begin(self, state: dict[str, int]) -> bool:
        """data_pre; whether it succeeds."""
        return self.op != "prefail"

    def end(self, state: dict[str, int]) -> Reply:
        """data_post."""
        if self.op == "tail":
            return Reply([(port, self.word(port, "end", state.get("n", 0))) for port in range(self.outputs)])
        if self.kind == "collapse" and self.op == "post":
            return Reply([(port, self.word(port, "post", state.get("h", 0))) for port in range(self.outputs)])
        return Reply()

    def sets_at_begin(self, framed: bool) -> bool:
        """Whether data_pre sets the meta."""
        return bool(self.meta & SETS) and framed

    def sets_at_values(self, framed: bool) -> bool:
        """Whether each call with values sets the meta."""
        return bool(self.meta & SETS) and not framed

    def process(self, state: dict[str, int], rows: Sequence[Sequence[str]]) -> Reply:
        """One call: per position a text per input port; a seen error is "!CODE"."""
        reply = Reply()
        if self.kind == "collapse":
            return self._collapse(state, rows)
        for row in rows:
            reply.add(getattr(self, f"_{self.kind}")(state, row))
        if reply.failed:
            return Reply(failed=True)
        return reply

    def event(self, state: dict[str, int], number: int) -> Reply:
        """The call of an event: one value on every port; a number above 0 sends the next smaller one."""
        turn = state["e"] = state.get("e", 0) + 1
        reply = Reply([(port, self.word(port, "event", number, turn)) for port in range(self.outputs)])
        reply.events = [number - 1] if number else []
        reply.more = self.op != "halt" or number % 2 == 0
        return reply

    # ---- kinds ------------------------------------------------------------------------------------------------

    def _normal(self, state: dict[str, int], row: Sequence[str]) -> Reply:
        if self.op == "fail" and self.dice(4, row) == 0:
            return Reply(failed=True)
        if self.op == "picky" and self.dice(4, row) == 0:
            return self.everywhere(REFUSED)
        if self.op == "forward" and (row[0].startswith("!") or self.dice(2, row) == 0):
            return self.everywhere(FORWARD)
        reply = Reply([(port, self.word(port, *row)) for port in range(self.outputs)])
        if self.op == "count" and self.dice(12, row) < 2:
            return Reply(reply.items + reply.items[:1] if self.dice(12, row) else reply.items[1:])
        return reply

    def _stream(self, state: dict[str, int], row: Sequence[str]) -> Reply:
        if self.op == "fail" and self.dice(4, row) == 0:
            return Reply(failed=True)
        number = state["n"] = state.get("n", 0) + 1
        if self.op == "picky" and self.dice(4, row) == 0:
            return self.everywhere(REFUSED)
        if self.op == "forward" and (row[0].startswith("!") or self.dice(2, row) == 0):
            return self.everywhere(FORWARD)
        copies = [1] * self.outputs
        if self.op == "thin":
            copies = [0 if self.dice(3, row) == 0 else 1] * self.outputs
        elif self.op == "multiply":
            copies = [self.dice(3, row)] * self.outputs
        elif self.op == "uneven":
            copies = [(self.dice(3, row) + port) % 3 for port in range(self.outputs)]
        reply = Reply(
            [
                (port, self.word(port, copy, number, *row))
                for port in range(self.outputs)
                for copy in range(copies[port])
            ]
        )
        if self.op == "event":
            reply.events = [[], [0], [2, 1]][self.dice(3, row)]
            reply.more = True
        return reply

    def _condition(self, state: dict[str, int], row: Sequence[str]) -> Reply:
        port = self.dice(self.outputs, row)
        if self.op == "fail" and self.dice(4, ["f", *row]) == 0:
            return Reply(failed=True)
        if self.op == "picky" and self.dice(4, ["p", *row]) == 0:
            return Reply([(port, REFUSED)])
        if self.op == "forward":
            return Reply([(port, FORWARD)])
        reply = Reply([(port, self.word(port, *row))])
        if self.op == "count" and self.dice(12, ["c", *row]) < 2:
            other = (port + 1) % self.outputs
            return Reply([*reply.items, (other, self.word(other, *row))] if self.dice(12, ["c", *row]) else [])
        return reply

    def _expand(self, state: dict[str, int], row: Sequence[str]) -> Reply:
        if self.op == "fail" and self.dice(4, row) == 0:
            return Reply(failed=True)
        number = state["n"] = state.get("n", 0) + 1
        count = self.dice(4, row)
        reply = Reply()
        for port in range(self.outputs):
            copies = (count + port) % 4 if self.op == "uneven" else count
            reply.items += [(port, self.word(port, copy, number, *row)) for copy in range(copies)]
        if self.op == "picky" and self.dice(3, ["p", *row]) == 0:
            reply.add(self.everywhere(REFUSED))
        if self.op in ("event", "halt"):
            reply.events = [[], [0], [1], [3, 2]][self.dice(4, ["e", *row])]
            reply.more = True
        return reply

    def _collapse(self, state: dict[str, int], rows: Sequence[Sequence[str]]) -> Reply:
        texts = [text for row in rows for text in row]
        if not self.collapse_all:
            return self._collapse_some(state, texts)
        if self.op == "fail" and self.dice(3, texts) == 0:
            return Reply(failed=True)
        if self.op == "some" and self.dice(3, texts) == 0:
            return Reply()
        if self.op == "picky" and self.dice(3, texts) == 0:
            return self.everywhere(REFUSED)
        reply = Reply([(port, self.word(port, *texts)) for port in range(self.outputs)])
        if self.op == "count" and self.dice(8, texts) == 0:
            return Reply(reply.items + reply.items[:1])
        return reply

    def _collapse_some(self, state: dict[str, int], texts: Sequence[str]) -> Reply:
        """The same result however the values of a sub-stream are dealt out to calls."""
        reply = Reply()
        for text in texts:
            state["h"] = fnv1a(f"{state.get('h', 0)}/{text}")
            number = state["n"] = state.get("n", 0) + 1
            if self.op in ("first", "third") and number == (1 if self.op == "first" else 3):
                reply.items += [(port, self.word(port, state["h"])) for port in range(self.outputs)]
        return reply

    def _loop(self, state: dict[str, int], row: Sequence[str]) -> Reply:
        port = self.back if self.dice(2, row) else 1 - self.back
        if self.op == "fail" and self.dice(5, ["f", *row]) == 0:
            return Reply(failed=True)
        if self.op == "picky" and self.dice(5, ["p", *row]) == 0:
            return Reply([(port, REFUSED)])
        if self.op == "count" and self.dice(12, ["c", *row]) == 0:
            return Reply()
        return Reply([(port, self.word(port, *row))])


# What the generator may choose, by kind. A `calm` op keeps one output per position on every port; a `free` one changes
# how many there are, on all ports alike; a `rude` one can fail the session (a wrong number, or ports that do not match).
CALM = {
    "normal": ("map", "picky", "fail", "forward"),
    "stream": ("map", "picky", "fail", "forward"),
    "condition": ("map", "picky", "fail", "forward"),
    "expand": ("map", "picky", "fail", "event", "halt", "prefail"),
    "collapse": ("map", "some", "picky", "fail", "post", "first", "third"),
    "loop": ("map", "picky", "fail"),
}
FREE = {"stream": ("thin", "multiply", "tail", "prefail", "event")}
RUDE = {
    "normal": ("count",),
    "stream": ("uneven",),
    "condition": ("count",),
    "expand": ("uneven",),
    "collapse": ("count",),
    "loop": ("count",),
}
# At these an engine's batches would show: how many values one failed call has, or after which value an event comes.
ONE_BY_ONE = ("fail", "count", "event", "halt")
NATIVE = {
    "normal": ("map", "picky", "fail", "forward", "count"),
    "stream": ("map", "picky", "fail", "forward", "thin", "multiply", "uneven", "tail", "prefail"),
    "condition": ("map", "picky", "fail", "forward", "count"),
    "expand": ("map", "picky", "fail", "uneven", "prefail"),
    "collapse": ("map", "some", "picky", "fail", "count"),
    "loop": ("map", "picky", "fail", "count"),
}
FRAMED_OPS = ("tail", "prefail", "post")  # need data_pre or data_post
EVENT_OPS = ("event", "halt")
