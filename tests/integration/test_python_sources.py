"""Sources in Python: how far they run ahead, and what they hear of sessions that fail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelbox._core.memory import Pool
from modelbox.buffer import BufferList
from modelbox.flowunit import ExternalData
from modelbox.spec import UnitSpec
from modelbox.status import StatusCode
from modelboxd.workers.external import Externals
from modelboxd.workers.pool import WorkerPool
from modelboxd.workers.protocol import Peer
from tests.integration.workers import LIMIT_S, write_unit
from tests.unit.engine.harness import Bench

SOURCE = """
import threading
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.pipe = config.get_string("pipe")
        threading.Thread(target=self.run, daemon=True).start()
        return modelbox.Status()

    def run(self):
        external = self.create_external_data()
        while True:
            buffers = external.create_buffer_list()
            buffers.push_back("a")
            status = external.send(buffers)
            if not status:
                break
        external.close()
        with open(self.pipe, "w") as pipe:
            pipe.write(status.str_code())

    def process(self, context):
        for buffer in context.external():
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""
FAILING = """
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.record = config.get_string("record")
        return modelbox.Status()

    def data_pre(self, context):
        with open(self.record, "a") as record:
            record.write("stream ")
        return modelbox.Status()

    def process(self, context):
        raise ValueError("no")
"""


@pytest.mark.parametrize(("lists", "size", "expected"), [(4, 1 << 30, 4), (1024, 1000, 3)])
def test_a_source_is_held_by_lists_and_by_bytes(lists: int, size: int, expected: int) -> None:
    pool, sent = Pool(), list[bytes]()
    externals = Externals(Peer(pool, private_maps=True), pool, sent.append)
    externals.limit(lists, size)
    external = externals.open()

    def send() -> bool:
        return bool(external.send(BufferList(["x" * 400])))

    for _ in range(expected):
        assert send()
    assert not send() and len(sent) == expected
    externals.called(1, {}, 7, "id")
    assert send() and not send()  # room for one more
    externals.fail(1)
    assert external.send(BufferList(["x"])).code() == StatusCode.STATUS_STOP
    external.close()
    other: ExternalData = externals.open()  # what the failed session has held is free again
    for _ in range(expected):
        assert other.send(BufferList(["x" * 400]))


def test_a_source_hears_that_its_session_has_failed(tmp_path: Path) -> None:
    pipe, record = tmp_path / "pipe", tmp_path / "record"
    os.mkfifo(pipe)
    source = replace(write_unit(tmp_path, "source", SOURCE, stream=True), inputs=())
    failing = replace(write_unit(tmp_path, "failing", FAILING, stream=True), outputs=())
    units: dict[str, tuple[UnitSpec, None]] = {"s": (source, None), "f": (failing, None)}
    pools: list[WorkerPool] = []
    bench = Bench(units, make_workers=lambda _: pools[0])
    bench.io.start()
    pools.append(WorkerPool(bench.io, bench.pool))
    job = bench.run(f'digraph g {{ s [flowunit=s, pipe="{pipe}"]; f [flowunit=f, record="{record}"]; s:out -> f:in }}')
    assert pipe.read_text() == "Stop operation"  # waits until the source has written it
    with job.quiet:
        assert job.quiet.wait_for(lambda: not job.sessions, LIMIT_S)
    bench.close()
    assert record.read_text() == "stream "  # what was on its way did not become a session of its own
    bench.engine.close()
    bench.io.stop()
    assert bench.pool.stats().live_buffers == 0
