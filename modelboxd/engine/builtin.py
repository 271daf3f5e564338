"""Steps of built-in units: our own Python inside the daemon (HTTP, inference)."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from modelbox import meta
from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.buffer import BufferList
from modelbox.configuration import Configuration
from modelbox.errors import ModelBoxError
from modelbox.status import StatusCode
from modelboxd.engine.calls import Call, RuleBroken, error_lists, port_metas, run_in_order
from modelboxd.engine.errors import all_seen, mark_called, merge, split
from modelboxd.engine.feed import CoreList, Part
from modelboxd.engine.job import Job
from modelboxd.engine.session import Session, Stream
from modelboxd.engine.step import Step
from modelboxd.engine.unit import BuiltinUnit, ContextView, SessionView, SinkUnit
from modelboxd.engine.work import Work
from modelboxd.graph import model

log = logging.getLogger(__name__)


class Context:
    """What a unit keeps for one stream or sub-stream, or for one call where it has no streams."""

    __slots__ = ("begun", "events", "failed", "input_metas", "metas", "private")

    def __init__(self) -> None:
        self.input_metas: list[bytes] | None = None  # encoded, per input port
        self.metas: dict[str, bytes] = {}  # what the unit has set, encoded, per output port
        self.begun: set[str] = set()  # output ports that it has given something to
        self.private: dict[str, Any] = {}
        self.events: deque[Any] = deque()
        self.failed = False  # stream_begin failed


class BuiltinCall:
    """The UnitCall that a built-in unit sees."""

    __slots__ = ("_context", "_inputs", "_kept", "event", "outputs", "session", "stream")

    def __init__(
        self,
        inputs: dict[str, CoreList],
        outputs: list[str],
        session: Session | None,
        context: Context | None = None,
        event: Any = None,
        kept: Context | None = None,
    ) -> None:
        """`context` is that of a stream; `kept` holds metas where there is none."""
        self._inputs = inputs
        self.outputs = {port: BufferList() for port in outputs}
        self.session: SessionView | None = session
        self.stream: ContextView | None = context
        self._context = context
        self._kept = context if context is not None else kept
        self.event = event

    def core_input(self, port: str) -> CoreList:
        """The input of a port as the core's list."""
        return self._inputs[port]

    def input(self, port: str) -> BufferList:
        return BufferList.from_core(self._inputs[port])

    def output(self, port: str) -> BufferList:
        return self.outputs[port]

    def input_meta(self, port: str) -> dict[str, Any]:
        blocks = self._kept.input_metas if self._kept is not None else None
        return meta.decode(blocks[list(self._inputs).index(port)]) if blocks is not None else {}

    def set_output_meta(self, port: str, values: dict[str, Any]) -> bool:
        if self._kept is None or port not in self.outputs or port in self._kept.begun:
            return False
        self._kept.metas.setdefault(port, meta.encode(values))
        return True

    def drop_outputs(self) -> None:
        """What was given so far does not count."""
        self.outputs = {port: BufferList() for port in self.outputs}

    def send_event(self, event: Any = True) -> None:
        if self._context is not None:
            self._context.events.append(event)


class BuiltinStep(Step):
    """One built-in node."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node], unit_class: type[BuiltinUnit]) -> None:
        super().__init__(job, index, nodes)
        node = nodes[0]
        self.inline = unit_class.inline
        self.concurrency = job.executor.threads
        self.has_events = node.unit.expand or (node.is_stream and not node.unit.collapse)
        self.closes = node.unit.expand
        self._ends = unit_class.stream_end is not BuiltinUnit.stream_end
        self.unit = unit_class(node, Configuration(node.options), job.services)
        self._sink = self.unit if isinstance(self.unit, SinkUnit) else None

    def open(self) -> None:
        self.unit.open()

    def close(self) -> None:
        self.unit.close()

    def execute(self, work: Work) -> None:
        if not self.kind.calls:
            work.give(self._run_batch(work))
            return
        for part in work.parts:
            try:
                self._run_part(part)
            except ModelBoxError as error:
                self.fail_parts([part], error)

    def _run_part(self, part: Part) -> None:
        if self._sink is not None:
            part.outputs = []
            if part.count:
                self._sink.receive(part.feed.stream.session, part.inputs[0])
            return
        self.kind.cut(part)
        run_in_order(part.pieces, self._run_call)
        self.kind.join(part)

    def _run_call(self, call: Call) -> None:
        context: Context | None = None
        if call.context is not None:
            context = call.context.state
            if context is None:
                context = call.context.state = Context()
                context.input_metas = call.input_metas
        known = len(context.metas) if context is not None else 0
        has_data = call.count > 0
        event = status = None
        if context is not None and call.event:
            event = context.events.popleft()
        made = BuiltinCall(
            dict(zip(self.input_ports, call.inputs, strict=True)), self.output_ports, call.session, context, event
        )
        framed = self.kind.framed and context is not None
        try:
            if call.begin and framed:
                self._begin(call, made)
                if self.closes:
                    made.drop_outputs()  # they are in no sub-stream
            if (has_data or call.event) and not (context is not None and context.failed):
                status = self.unit.process(made)
        except ModelBoxError as error:
            call.error = error.with_traceback(None)
        if context is not None:
            # Only CONTINUE keeps a sub-stream open; a stream is open until its events are over.
            lost = self.closes and (call.error is not None or status != StatusCode.STATUS_CONTINUE)
            if lost or call.session.dead or not self.has_events:
                context.events.clear()
            call.more = bool(context.events)
        if call.error is not None:
            made.drop_outputs()
        if context is not None:
            context.begun.update(port for port, items in made.outputs.items() if len(items))
            if len(context.metas) > known:
                call.metas = [context.metas.get(port, b"") for port in self.output_ports]
        if call.end and not call.more and context is not None and self.kind.framed:
            self._end(made, context)
        call.outputs = [made.outputs[port].to_core(self.job.pool) for port in self.output_ports]
        self._seal(call.outputs)

    def _begin(self, call: Call, made: BuiltinCall) -> None:
        try:
            self.unit.stream_begin(made)
        except ModelBoxError:
            call.reason = "DataPreError"
            call.context.state.failed = True
            raise

    def _end(self, made: BuiltinCall, context: Context) -> None:
        """What stream_end() gives stands behind the results, but in no sub-stream of an expand, and not behind a failed
        stream_begin(). Its own failure changes nothing."""
        if not self._ends:
            return
        results = made.outputs
        made.drop_outputs()
        try:
            self.unit.stream_end(made)
        except ModelBoxError as error:
            log.warning("node '%s': stream_end() failed: %s", self.name, error, extra=self.about)
            made.drop_outputs()
        given, made.outputs = made.outputs, results
        for port, items in given.items() if not (self.closes or context.failed) else ():
            for buffer in items:
                results[port].push_back(buffer)

    def _seal(self, outputs: list[CoreList]) -> None:
        for items in outputs:
            for position in range(items.count):
                lib.mb_buffer_seal(items.items[position])
            lib.mb_list_born(items, 0, self.out_depth)

    # ---- NORMAL -------------------------------------------------------------------------------------------

    def _run_batch(self, work: Work) -> list[CoreList]:
        inputs = work.inputs
        if all_seen(inputs, self.visible):
            return self._call_batch(work, inputs)
        kept = split(inputs, self.visible)
        results = self._call_batch(work, kept) if kept[0].count else [new_list(0) for _ in self.output_ports]
        return [merge(inputs, self.visible, items) for items in results]

    def _call_batch(self, work: Work, inputs: list[CoreList]) -> list[CoreList]:
        count = inputs[0].count
        first = mark_called(work.parts, work.inputs, self.visible)
        kept = Context()
        kept.input_metas = port_metas(self, first.feed)
        call = BuiltinCall(dict(zip(self.input_ports, inputs, strict=True)), self.output_ports, None, kept=kept)
        try:
            self.unit.process(call)
            outputs = [call.outputs[port].to_core(self.job.pool) for port in self.output_ports]
        except ModelBoxError as error:
            if isinstance(error, RuleBroken) or not self.output_ports:
                raise
            return error_lists(self, count, "ProcessError", str(error))
        finally:
            if kept.metas:
                first.metas = [kept.metas.get(port, b"") for port in self.output_ports]
        for port, items in zip(self.output_ports, outputs, strict=True):
            if items.count != count:
                raise RuleBroken(
                    f"node '{self.name}' port '{port}': input buffer count {count} should equal "
                    f"output buffer count {items.count}"
                )
        self._seal(outputs)
        return outputs

    def abandon(self, context: Stream) -> None:
        context.state = None
