"""The step of output nodes: hands what arrives to whoever opened the session."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from modelbox._core import ffi
from modelboxd.engine.kinds import Kind
from modelboxd.engine.ports import buffers_of
from modelboxd.engine.step import Step
from modelboxd.engine.work import Work

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.graph import model

log = logging.getLogger(__name__)


class OutputKind(Kind):
    """What arrives for one session is handed out in order, one call at a time."""

    serial = True
    calls = True


class OutputStep(Step):
    """One output node, or all of them joined by position."""

    inline = True

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, index, nodes[:1])
        self.names = [node.name for node in nodes]
        self.name = "+".join(self.names)
        self.nodes = nodes
        self.input_ports = self.names
        self.lanes = [number for number, node in enumerate(nodes) for _ in node.sources["output"]]
        self.lane_ports = None
        if len(self.lanes) > len(nodes):
            self.lane_ports = [
                [lane for lane, port in enumerate(self.lanes) if port == number] for number in range(len(nodes))
            ]
        self.capacity = [nodes[port].queue_sizes["output"] for port in self.lanes]
        self.counts = [0] * len(self.lanes)
        self.batch_size = 1 << 20
        self.visible = 1  # every error is for whoever asked
        self.kind = OutputKind(self)

    def execute(self, work: Work) -> None:
        for part in work.parts:
            session = part.feed.stream.session
            if session.on_output is None or not part.count:
                continue
            positions = list(range(part.count))
            if len(part.inputs) > 1:  # joined: a hole on one is a hole on all
                positions = [at for at in positions if all(items.items[at] != ffi.NULL for items in part.inputs)]
            outputs = {
                name: buffers_of([items.items[at] for at in positions if items.items[at] != ffi.NULL])
                for name, items in zip(self.names, part.inputs, strict=True)
            }
            if not any(outputs.values()):
                continue
            try:
                session.on_output(session, outputs)
            except Exception:
                log.exception("job '%s': a callback for outputs failed", self.job.name, extra=self.about)
