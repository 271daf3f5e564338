"""Cancelling a session in the middle of an expanded level, while a call runs in a worker or in native code."""

from __future__ import annotations

import gc
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelbox.errors import UnitError
from modelbox.spec import UnitKind
from modelboxd.workers.pool import WorkerPool
from tests.integration.server import TOP
from tests.integration.test_control import GATE, HEAD
from tests.integration.workers import LIMIT_S, write_unit
from tests.unit.engine.harness import Bench, spec, text_buffer, texts, unit

# Waits until somebody opens the other end of the pipe.
NATIVE = """
#include <fcntl.h>
#include <modelbox/plugin.h>
#include <unistd.h>

static int32_t process(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  close(open("PIPE", O_RDONLY));
  uint32_t count = 0;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

static const mb_port in[] = {{"in", "raw", NULL}}, out[] = {{"out", "raw", NULL}};
static const mb_unit unit = {sizeof unit, 0, "gate", "cpu", "1.0.0", "gate", "Test", in, 1, out, 1, NULL, 0, 0, 0,
                             NULL, NULL, process, NULL, NULL};
static const mb_unit *const units[] = {&unit};
static const mb_plugin plugin = {sizeof plugin, MB_ABI_MAJOR, MB_ABI_MINOR, "gate", "1.0.0", units, 1, 0, NULL};
const mb_plugin *mb_plugin_entry_v1(void) { return &plugin; }
"""


def threefold(call: Any) -> None:
    for item in call.input("in"):
        for part in "xyz":
            call.output("out").push_back(text_buffer(f"{item}{part}"))


def together(call: Any) -> None:
    call.output("out").push_back(text_buffer("".join(texts(call.input("in")))))


def native_gate(folder: Path, pipe: Path) -> Any:
    source, library = folder / "gate.c", folder / "gate.so"
    source.write_text(NATIVE.replace("PIPE", str(pipe)))
    flags = ["-std=gnu11", "-fPIC", "-shared", f"-I{TOP / 'csrc/include'}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    return replace(spec("gate", kind=UnitKind.NATIVE), path=str(library))


@pytest.mark.parametrize("where", ["worker", "native"])
def test_cancelling_beside_a_call_that_runs(tmp_path: Path, where: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    gate = native_gate(tmp_path, pipe) if where == "native" else write_unit(tmp_path, "gate", HEAD + GATE)
    pools: list[WorkerPool] = []
    units: dict[str, Any] = {
        "gate": (gate, None),
        "expand": (spec("expand", role="expand"), unit(threefold)),
        "collapse": (spec("collapse", role="collapse"), unit(together)),
    }
    bench = Bench(units, make_workers=lambda python: pools[0])
    bench.io.start()
    pools.append(WorkerPool(bench.io, bench.pool))
    option = "" if where == "native" else f', pipe="{pipe}"'
    job = bench.run(
        f"""digraph g {{ s [flowunit=source]; x [flowunit=expand]; g [flowunit=gate, batch_size=1{option}]
        c [flowunit=collapse]; t [flowunit=sink]; s:out -> x:in; x:out -> g:in; g:out -> c:in; c:out -> t:in }}"""
    )
    session, record = bench.open(job)
    for number in range(30):
        bench.send(job, str(number), end=False, session=session, record=record)
    step = next(step for step in job.steps if step.name == "g")
    with job.quiet:
        while not any(feed.busy for feed in step.feeds.values()):
            job.quiet.wait(0.001)
    session.cancel(UnitError("enough"))
    assert str(record.error()) == "enough"
    with job.lock:
        assert all(step.counts == [0] * len(step.counts) and not step.gathers for step in job.steps)
        assert job.bytes == 0
        kept = [feed for step in job.steps for feed in step.feeds.values()]
        assert all(feed.busy for feed in kept)
    opened = os.open(pipe, os.O_RDWR)  # both ends: nobody waits at it any more
    after = bench.send(job, "a", "b")
    assert (after.error(), after.got) == (None, ["axayaz", "bxbybz"])
    with job.quiet:
        assert job.quiet.wait_for(lambda: not job.sessions, LIMIT_S)
        assert not any(step.feeds for step in job.steps)
    os.close(opened)
    del session, kept
    bench.close()
    bench.engine.close(LIMIT_S)
    bench.io.stop()
    gc.collect()
    assert bench.pool.stats().live_buffers == 0
