"""Batches of a Python unit: full ones over several sessions, when they wait and when more waits than fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.graphs import Graphs, write

SIZES = """
    def process(self, context):
        buffers = list(context.input("in"))
        for buffer in buffers:
            context.output("out").push_back(f"{buffer}{len(buffers)}")
        return modelbox.Status()
"""


@pytest.mark.parametrize("kind", ["normal", "stream"])
def test_batches_of_a_worker(tmp_path: Path, kind: str) -> None:
    """Values that come one by one, of two sessions: a normal unit waits for batches over both, a stream unit never waits."""
    write(tmp_path, "sizes", SIZES, base=f"stream = {str(kind == 'stream').lower()}\nmax_batch_size = 64")
    wait = ", max_queue_delay_us=60000000" if kind == "normal" else ""
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run(
            f"s [flowunit=source]; u [flowunit=sizes, batch_size=4{wait}]; t [flowunit=got]; s:out -> u:in; u:out -> t:in"
        )
        bench = graphs.bench
        opened: list[tuple[Any, Any]] = [bench.open(job), bench.open(job)]
        for text in "ab":
            for session, record in opened:
                bench.send(job, text, text, end=False, session=session, record=record)
        got = graphs.got.wait(8)
        if kind == "normal":
            assert got == ["a4"] * 4 + ["b4"] * 4
        else:
            assert [text[0] for text in got] == list("aaaabbbb") and all(1 <= int(text[1]) <= 4 for text in got)
        for session, _ in opened:
            bench.entry(job).send(session, "out", [], end=True)
        for _, record in opened:
            assert record.error() is None
        for session, _ in opened:
            assert [text[0] for text in graphs.got.texts[session.id]] == list("aabb")
    finally:
        graphs.close()
