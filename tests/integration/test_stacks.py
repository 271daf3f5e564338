"""The stacks of all processes: what SIGQUIT writes to the log."""

from __future__ import annotations

import os
import re
import signal
from functools import partial
from pathlib import Path

from tests.integration.server import Server, http_graph
from tests.integration.workers import write_unit

UNIT = """import ctypes
import os
import _flowunit as modelbox
class Unit(modelbox.FlowUnit):
    def process(self, context):
        self.waits_in_c()
        return modelbox.Status()
    def waits_in_c(self):
        read, _ = os.pipe()
        ctypes.PyDLL(None).read(read, ctypes.create_string_buffer(1), 1)  # keeps the interpreter locked
"""


def told(seen: int, lines: list[str]) -> bool:
    """Whether the worker's stacks have come, which are the last ones; not only the rest of those before."""
    text = "\n".join(lines[seen:])
    return "native stack of python worker" in text.partition("python stack of python worker")[2]


def test_sigquit_tells_the_stacks_of_a_worker_that_keeps_the_interpreter_locked(tmp_path: Path) -> None:
    write_unit(tmp_path, "held", UNIT)
    graph = http_graph(tmp_path, "held", receive="time_out_ms=1000")
    server = Server(graph, folder=tmp_path, config="[server]\ndrain_timeout = 0\n").ready()
    try:
        assert server.request("/v1", b"x")[0] == 408
        for _ in range(2):  # it goes on, and can be asked again
            seen = len(server.lines)
            server.process.send_signal(signal.SIGQUIT)
            server.wait_until(partial(told, seen))
            text = "\n".join(server.lines[seen:])
            worker = r"python stack of python worker graph/u#0 \(pid \d+\) current thread"
            assert re.search(worker + r".*held.py:6 process > held.py:10 waits_in_c", text)
            assert re.search(r"native stack of python worker graph/u#0 \(pid \d+\) thread \d+ .*read", text)
            assert re.search(r"python stack of python-master \(pid \d+\) .*master.py:\d+ serve", text)
            assert re.search(r"native stack of python-master \(pid \d+\) thread \d+ ", text)
            assert re.search(r"python stack of thread \d+ mb-io", text)
            assert "node 'u'" in text
    finally:
        server.kill()


def test_a_stopped_worker_is_named_all_the_same(tmp_path: Path) -> None:
    write_unit(tmp_path, "held", UNIT)
    server = Server(http_graph(tmp_path, "held"), folder=tmp_path).ready()
    stats = server.ask("GET", "/v1/stats/processes")[1]["processes"]
    (pid,) = (one["pid"] for one in stats if one["role"] == "python-worker")
    os.kill(pid, signal.SIGSTOP)
    try:
        server.process.send_signal(signal.SIGQUIT)
        line = server.wait_for("did not answer in time")
        assert f"python worker graph/u#0 (pid {pid})" in line
        assert "(state T)" in line
    finally:
        os.kill(pid, signal.SIGCONT)
        assert server.stop() == 0
