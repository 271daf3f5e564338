"""Steps of native units: fused segments of NORMAL nodes, and single nodes of every other kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import check, new_error, new_list
from modelbox.errors import UnitError
from modelboxd.engine.calls import Call, RuleBroken, run_in_order
from modelboxd.engine.feed import CoreList, Part
from modelboxd.engine.kinds import ConditionKind
from modelboxd.engine.nesting import LoopKind
from modelboxd.engine.session import Stream
from modelboxd.engine.step import Step
from modelboxd.engine.strict import strict_links
from modelboxd.engine.work import Work

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model

SMALL = 64 << 10  # bytes waiting below which splitting work over threads costs more than it brings
LONG_RUN = 1024  # buffers of one run of a segment, at most


class NativeNodes:
    """The opened native nodes of one step; frees them in reverse order."""

    def __init__(self, job: Job, nodes: list[model.Node]) -> None:
        self.handles: list[Any] = []
        self._lock = threading.Lock()  # nobody reads counters of a node that is being freed
        try:
            for node in nodes:
                self.handles.append(self._open(job, node))
        except BaseException:
            self.close()
            raise

    def _open(self, job: Job, node: model.Node) -> Any:
        options = node.options.items()
        texts = [(ffi.new("char[]", key.encode()), ffi.new("char[]", value.encode())) for key, value in options]
        error = new_error()
        handle = self._open_with(job, node, texts, error)
        if handle == ffi.NULL:
            raise UnitError(ffi.string(error.message).decode(errors="replace"), where=node.where)
        lib.mb_node_set_level(handle, node.sees_errors, node.depth, node.out_depth)
        return handle

    def _open_with(self, job: Job, node: model.Node, texts: list[tuple[Any, Any]], error: Any) -> Any:
        """`texts` is an argument so that it outlives the call: see modelboxd/compiled.py."""
        unit = job.library_unit(node.unit)
        keys = ffi.new("char *[]", [key for key, _ in texts])
        values = ffi.new("char *[]", [value for _, value in texts])
        name = node.name.encode()
        return lib.mb_node_open(job.pool.handle, unit, name, keys, values, len(texts), node.batch_size, error)

    def stats(self) -> list[Any]:
        """One mb_node_stats per node; none when they are closed."""
        result = []
        with self._lock:
            for handle in self.handles:
                stats = ffi.new("mb_node_stats *")
                lib.mb_node_get_stats(handle, stats)
                result.append(stats)
        return result

    def close(self) -> None:
        with self._lock:
            while self.handles:
                lib.mb_node_close(self.handles.pop())


class SegmentStep(Step):
    """A fused chain of NORMAL native nodes: one call into C per run, the GIL released."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.concurrency = job.executor.threads
        self._elementwise = all(node.unit.elementwise for node in nodes)
        self._natives: NativeNodes | None = None
        self._segment: Any = ffi.NULL

    def open(self) -> None:
        self._natives = NativeNodes(self.job, self.nodes)
        error = new_error()
        self._segment = lib.mb_segment_new(self._natives.handles, len(self.nodes), error)
        if self._segment == ffi.NULL:
            check(error.status, error)
        for number, bits, expected in strict_links(self.nodes):
            check(lib.mb_segment_set_strict(self._segment, number, bits, expected.encode(), error), error)

    def close(self) -> None:
        if self._segment != ffi.NULL:
            lib.mb_segment_free(self._segment)
            self._segment = ffi.NULL
        if self._natives is not None:
            self._natives.close()

    def native_stats(self) -> list[Any]:
        return self._natives.stats() if self._natives is not None else []

    def batch_limit(self) -> int:
        """The C side cuts a run into batches itself, so a run may be long; it is cut only so that every
        thread gets its share of heavy work."""
        waiting = min(self.counts)
        if self.concurrency > 1 and self.bytes > SMALL:
            share = -(-waiting // self.concurrency)
            return max(1 if self._elementwise else self.batch_size, min(share, LONG_RUN))
        return max(self.batch_size, LONG_RUN)

    def execute(self, work: Work) -> None:
        outputs = [new_list(work.count) for _ in self.output_ports]
        error = new_error()
        status = lib.mb_segment_run(self._segment, work.inputs, len(work.inputs), outputs, len(outputs), error)
        check(status, error)
        broken = any(lib.mb_list_fatal(items, 0, items.count) >= 0 for items in outputs)
        work.give(outputs)
        if broken:
            for part in work.parts:
                fail_fatal(self, part)


class NativeStep(Step):
    """One native node that is not NORMAL."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.concurrency = job.executor.threads
        self._natives: NativeNodes | None = None
        unit = nodes[0].unit
        self._chooses = (unit.condition or unit.loop) and not (unit.expand or unit.collapse)

    def open(self) -> None:
        self._natives = NativeNodes(self.job, self.nodes)

    def close(self) -> None:
        if self._natives is not None:
            self._natives.close()

    def native_stats(self) -> list[Any]:
        return self._natives.stats() if self._natives is not None else []

    @property
    def handle(self) -> Any:
        """The mb_node."""
        assert self._natives is not None
        return self._natives.handles[0]

    def batch_limit(self) -> int:
        return max(self.batch_size, 64)

    def execute(self, work: Work) -> None:
        for part in work.parts:
            try:
                if self._chooses:
                    self._choose(part)
                else:
                    self.kind.cut(part)
                    run_in_order(part.pieces, self._run_call)
                self.kind.join(part)
            except UnitError as error:
                self.fail_parts([part], error)

    def _outputs(self) -> list[CoreList]:
        return [new_list(0) for _ in self.output_ports]

    def _choose(self, part: Part) -> None:
        outputs, error = self._outputs(), new_error()
        assert isinstance(self.kind, ConditionKind)
        if isinstance(self.kind, LoopKind):
            self.kind.expire(part)
        port = self.kind.error_port()
        check(
            lib.mb_node_choose(self.handle, part.inputs, len(part.inputs), outputs, len(outputs), port, error),
            error,
        )
        part.outputs = outputs
        fail_fatal(self, part)

    def _run_call(self, call: Call) -> None:
        outputs, error = self._outputs(), new_error()
        context = call.context
        if context.state is None:
            context.state = lib.mb_stream_begin(self.handle, self.kind.framed, outputs, len(outputs), error)
            if context.state == ffi.NULL:
                context.state = None
                check(error.status, error)
        state = context.state
        if call.event:
            check(lib.mb_stream_event(state, outputs, len(outputs), error), error)
        elif call.count:
            status = lib.mb_stream_run(state, call.inputs, len(call.inputs), outputs, len(outputs), error)
            check(status, error)
            call.failed = status > 0
        call.outputs = outputs
        call.more = lib.mb_stream_events(state) > 0 and not call.session.dead
        if call.end and not call.more:
            context.state = None
            lib.mb_stream_end(state, outputs, len(outputs))

    def abandon(self, context: Stream) -> None:
        state, context.state = context.state, None
        if state is not None:
            lib.mb_stream_end(state, ffi.NULL, len(self.output_ports))


def fail_fatal(step: Step, part: Part) -> None:
    """Fails the session of a part in whose results the core has found a broken rule."""
    for items in part.outputs or ():
        at = lib.mb_list_fatal(items, 0, items.count)
        if at < 0:
            continue
        message = ffi.new("char **")
        lib.mb_buffer_error(items.items[at], ffi.NULL, message)
        step.fail_parts([part], RuleBroken(ffi.string(message[0]).decode(errors="replace")))
        return
