"""One unit at work, for the reference interpreter: values, calls, and what a call leaves behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.reference.graph import Kind, Node

SUCCESS = "success"
CONTINUE = "continue"


@dataclass(frozen=True)
class Err:
    """An error in the place of a value. A unit leaves `depth` out: it is born with that of its output."""

    code: str
    message: str = ""
    depth: int | None = None


class Hole:
    """Nothing is at that position."""

    def __repr__(self) -> str:
        return "HOLE"


HOLE = Hole()
Value = str | Err


@dataclass
class Stream:
    """Everything that is ever on one edge: a value, error or hole per position; outside an expand's level a whole
    sub-stream (or a hole) per position."""

    items: list[Any] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """Raised by a unit: this call fails, by a status or an exception."""


class Stopped(Exception):
    """Raised by a unit: it returns STOP or SHUTDOWN."""


class SessionFailed(Exception):
    """The session ends with an error."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"node '{node}': {reason}")
        self.node = node


class JobStopped(Exception):
    """The job stops, and all its sessions."""


class Call:
    """One call of a unit, as the unit sees it."""

    def __init__(self, node: Node, state: dict[str, Any], metas: Mapping[str, dict[str, Any]]) -> None:
        self.node = node
        self.state = state
        self.metas = metas  # of the input streams, by port
        self.inputs: dict[str, list[Value]] = {port: [] for port in node.unit.inputs}
        self.outputs: dict[str, list[Value]] = {port: [] for port in node.unit.outputs}
        self.external: list[str] = []
        self.event: Any = None
        self.sent: list[Any] = []
        self.meta: dict[str, dict[str, Any]] = {}

    def send_event(self, event: Any) -> None:
        self.sent.append(event)

    def set_output_meta(self, port: str, meta: Mapping[str, Any]) -> None:
        self.meta.setdefault(port, dict(meta))


class Context:
    """A unit at work on one stream, sub-stream or value: its state, its outputs, its waiting events."""

    def __init__(self, node: Node, metas: Sequence[dict[str, Any]], depth: int) -> None:
        self.node = node
        self.unit = node.unit
        self.depth = depth
        self.metas = dict(zip(node.unit.inputs, metas, strict=True))
        self.state: dict[str, Any] = {}
        self.outputs: dict[str, list[Any]] = {port: [] for port in node.unit.outputs}
        self.meta: dict[str, dict[str, Any]] = {}
        self.pushed: set[str] = set()  # ports that the unit itself gave something to
        self.shown: list[Value] = []
        self.begun = False
        self.skipping = False

    def output_meta(self, port: str) -> dict[str, Any]:
        return union([self.meta.get(port, {}), *self.metas.values()])

    def give(self, item: Any) -> None:
        """Passes a hole or an unseen error by the unit, to every output."""
        for items in self.outputs.values():
            items.append(item)

    def begin(self) -> bool:
        """Calls data_pre if that was not yet done; whether the unit gets values."""
        if not self.begun:
            self.begun = True
            call = Call(self.node, self.state, self.metas)
            try:
                if self.unit.begin is not None:
                    self.unit.begin(call)
                self._take(call)
            except Failed as failure:
                self._take_meta(call)
                self.skipping = True
                self._fail(f"{self.unit.name}.DataPreError", failure, 1)
        return not self.skipping

    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        external: Sequence[str] = (),
        events: bool = True,
    ) -> bool:
        """One call, and the calls of the events that follow from it; whether the first one succeeded."""
        call = Call(self.node, self.state, self.metas)
        for port, given in inputs.items():
            call.inputs[port] = list(given) if isinstance(given, list) else [given]
        call.external = list(external)
        self.shown += next(iter(call.inputs.values()), [])
        done, status = self._process(call)
        waiting = deque(call.sent if events else ())
        while waiting and (self.unit.kind is Kind.STREAM or status == CONTINUE):
            call = Call(self.node, self.state, self.metas)
            call.event = waiting.popleft()
            _, status = self._process(call)
            waiting += call.sent
        return done

    def finish(self, *, keep: bool = True) -> None:
        """Calls data_post if data_pre was called; `keep` is False when its outputs no longer count."""
        if self.begun and self.unit.end is not None:
            call = Call(self.node, self.state, self.metas)
            try:
                self.unit.end(call)
            except Failed:
                return
            if keep and not self.skipping:
                self._take(call)

    def _process(self, call: Call) -> tuple[bool, object]:
        try:
            status = self.unit.process(call)
        except Stopped as stop:
            raise JobStopped(f"node '{self.node.name}': {stop}") from None
        except Failed as failure:
            self._take_meta(call)
            single = self.unit.kind in (Kind.EXPAND, Kind.COLLAPSE)
            count = 1 if single else max((len(items) for items in call.inputs.values()), default=0) or 1
            self._fail(f"{self.unit.name}.ProcessError", failure, count)
            return False, None
        if status not in (None, SUCCESS, CONTINUE):
            raise SessionFailed(self.node.name, f"process() returned {status!r}, which is no status")
        self._take(call)
        return True, status

    def _fail(self, code: str, failure: Failed, count: int) -> None:
        if not self.unit.outputs:
            raise SessionFailed(self.node.name, str(failure))
        for items in self.outputs.values():
            items += [Err(code, str(failure), self.depth)] * count

    def _take_meta(self, call: Call) -> None:
        """It is no output: that of a failed call counts too."""
        for port, meta in call.meta.items():
            if port not in self.meta and port not in self.pushed:
                self.meta[port] = meta

    def _take(self, call: Call) -> None:
        self._take_meta(call)
        for port, items in call.outputs.items():
            if port not in self.outputs:
                raise SessionFailed(self.node.name, f"there is no output port '{port}'")
            if items:
                self.pushed.add(port)
            for item in items:
                if not isinstance(item, str | Err):
                    raise SessionFailed(self.node.name, f"port '{port}': {item!r} is no buffer")
                born = isinstance(item, Err) and item.depth is None
                self.outputs[port].append(replace(item, depth=self.depth) if born else item)


def union(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stream metas joined; where a key is in several, the first wins."""
    joined: dict[str, Any] = {}
    for meta in reversed(metas):
        joined |= meta
    return joined
