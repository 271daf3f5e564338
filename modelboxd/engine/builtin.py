"""Steps of built-in units: our own Python inside the daemon (HTTP, inference)."""

from __future__ import annotations

from modelbox._core import lib
from modelbox.buffer import BufferList
from modelbox.configuration import Configuration
from modelbox.errors import ModelBoxError, UnitError
from modelboxd.engine.errors import error_list, first_bad, has_errors, merge_errors, runs, slice_list, split_errors
from modelboxd.engine.feed import CoreList, Part, concat
from modelboxd.engine.job import Job
from modelboxd.engine.session import Session
from modelboxd.engine.step import Step, Work
from modelboxd.engine.unit import BuiltinUnit, SessionView
from modelboxd.graph import model


class BuiltinCall:
    """The UnitCall that a built-in unit sees."""

    __slots__ = ("_inputs", "outputs", "session")

    def __init__(self, inputs: dict[str, CoreList], outputs: list[str], session: Session | None) -> None:
        self._inputs = inputs
        self.outputs = {port: BufferList() for port in outputs}
        self.session: SessionView | None = session

    def input(self, port: str) -> BufferList:
        return BufferList.from_core(self._inputs[port])

    def output(self, port: str) -> BufferList:
        return self.outputs[port]


class BuiltinStep(Step):
    """One built-in node."""

    def __init__(self, job: Job, index: int, nodes: list[model.Node], unit_class: type[BuiltinUnit]) -> None:
        super().__init__(job, index, nodes)
        node = nodes[0]
        self.inline = unit_class.inline
        self.concurrency = job.executor.threads
        self.sees_errors = node.unit.exception_visible
        self.unit = unit_class(node, Configuration(node.options), job.services)

    def open(self) -> None:
        self.unit.open()

    def close(self) -> None:
        self.unit.close()

    def execute(self, work: Work) -> None:
        if self.stream_order:
            self._execute_stream(work.parts[0])
        else:
            work.give(self._call_normal(work.inputs))

    def _execute_stream(self, part: Part) -> None:
        pieces: list[list[CoreList]] = [[] for _ in self.output_ports]
        if part.count:
            whole = self.sees_errors or not has_errors(part.inputs)
            stretches = [(0, part.count, True)] if whole else runs(part.inputs)
            for start, count, good in stretches:
                if good:
                    inputs = part.inputs if whole else [slice_list(items, start, count) for items in part.inputs]
                    results = self._call(inputs, part.feed.stream.session)
                else:
                    passed = concat(
                        [slice_list(first_bad(part.inputs, at), at, 1) for at in range(start, start + count)]
                    )
                    results = [passed for _ in self.output_ports]
                for port, items in enumerate(results):
                    pieces[port].append(items)
        part.outputs = [concat(lists) if lists else BufferList().to_core(self.job.pool) for lists in pieces]

    def _call_normal(self, inputs: list[CoreList]) -> list[CoreList]:
        if self.sees_errors or not has_errors(inputs):
            return self._call(inputs, None)
        kept, good = split_errors(inputs)
        results = (
            self._call(kept, None)
            if kept[0].count
            else [BufferList().to_core(self.job.pool) for _ in self.output_ports]
        )
        return [merge_errors(inputs, good, items) for items in results]

    def _call(self, inputs: list[CoreList], session: Session | None) -> list[CoreList]:
        node = self.nodes[0]
        count = inputs[0].count
        call = BuiltinCall(dict(zip(self.input_ports, inputs, strict=True)), self.output_ports, session)
        try:
            self.unit.process(call)
            outputs = [call.outputs[port].to_core(self.job.pool) for port in self.output_ports]
        except ModelBoxError as error:
            return self._failed(count, str(error), session)
        if not self.stream_order:
            for port, items in zip(self.output_ports, outputs, strict=True):
                if items.count != count:
                    raise UnitError(
                        f"node '{node.name}' port '{port}': input buffer count {count} should equal "
                        f"output buffer count {items.count}"
                    )
        for items in outputs:
            for position in range(items.count):
                lib.mb_buffer_seal(items.items[position])
        return outputs

    def _failed(self, count: int, message: str, session: Session | None) -> list[CoreList]:
        self.stats.errors += count
        if not self.output_ports and session is not None:
            session.cancel(UnitError(f"node '{self.nodes[0].name}': {message}"))
        code = f"{self.nodes[0].unit.name}.ProcessError"
        return [error_list(count, code, message) for _ in self.output_ports]
