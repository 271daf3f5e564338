"""Steps of native units: fused segments of NORMAL nodes, and single STREAM nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import check, new_error, new_list
from modelbox.errors import UnitError
from modelboxd.engine.errors import slice_list
from modelboxd.engine.step import Step, Work

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model

SMALL = 64 << 10  # bytes waiting below which splitting work over threads costs more than it brings
LONG_RUN = 1024  # buffers of one run of a segment, at most


class NativeNodes:
    """The opened native nodes of one step; frees them in reverse order."""

    def __init__(self, job: Job, nodes: list[model.Node]) -> None:
        self.handles: list[Any] = []
        try:
            for node in nodes:
                self.handles.append(self._open(job, node))
        except BaseException:
            self.close()
            raise

    def _open(self, job: Job, node: model.Node) -> Any:
        unit = job.library_unit(node.unit)
        keep = [
            (ffi.new("char[]", key.encode()), ffi.new("char[]", value.encode())) for key, value in node.options.items()
        ]
        keys = ffi.new("char *[]", [key for key, _ in keep])
        values = ffi.new("char *[]", [value for _, value in keep])
        error = new_error()
        handle = lib.mb_node_open(
            job.pool.handle, unit, node.name.encode(), keys, values, len(keep), node.batch_size, error
        )
        if handle == ffi.NULL:
            raise UnitError(ffi.string(error.message).decode(errors="replace"), where=node.where)
        return handle

    def stats(self) -> list[Any]:
        """One mb_node_stats per node."""
        result = []
        for handle in self.handles:
            stats = ffi.new("mb_node_stats *")
            lib.mb_node_get_stats(handle, stats)
            result.append(stats)
        return result

    def close(self) -> None:
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

    def close(self) -> None:
        if self._segment != ffi.NULL:
            lib.mb_segment_free(self._segment)
            self._segment = ffi.NULL
        if self._natives is not None:
            self._natives.close()

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
        work.give(outputs)


class NativeStreamStep(Step):
    """One STREAM native node: calls of one stream in order, streams beside one another."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes)
        self.concurrency = job.executor.threads
        self._natives: NativeNodes | None = None

    def open(self) -> None:
        self._natives = NativeNodes(self.job, self.nodes)

    def close(self) -> None:
        if self._natives is not None:
            self._natives.close()

    def batch_limit(self) -> int:
        return max(self.batch_size, 64)

    def execute(self, work: Work) -> None:
        assert self._natives is not None
        (part,) = work.parts
        feed = part.feed
        outputs = [new_list(work.count) for _ in self.output_ports]
        error = new_error()
        if feed.state is None:
            feed.state = lib.mb_stream_begin(self._natives.handles[0], outputs, len(outputs), error)
            if feed.state == ffi.NULL:
                feed.state = None
                check(error.status, error)
        for start in range(0, part.count, self.batch_size):
            count = min(self.batch_size, part.count - start)
            inputs = work.inputs
            if count < part.count:
                inputs = [slice_list(items, start, count) for items in inputs]
            check(lib.mb_stream_run(feed.state, inputs, len(inputs), outputs, len(outputs), error), error)
        if part.end:
            state, feed.state = feed.state, None
            check(lib.mb_stream_end(state, outputs, len(outputs), error), error)
        part.outputs = outputs
