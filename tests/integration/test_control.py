"""Pressure, batches that wait and time limits, over HTTP and with Python units."""

from __future__ import annotations

import json
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tests.integration.server import LIMIT_S, Server, http_graph
from tests.integration.workers import write_unit

HEAD = "import _flowunit as modelbox\nclass Unit(modelbox.FlowUnit):\n"
PASS = """
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""
# Waits until somebody opens the other end of the pipe.
GATE = """
    def open(self, config):
        self.path = config.get_string("pipe", "")
        return modelbox.Status()
    def process(self, context):
        open(self.path).close()
        for buffer in context.input("in"):
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""

Answer = tuple[int, bytes, dict[str, str]]


def test_a_dropped_request_is_answered_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write_unit(tmp_path, "gate", HEAD + GATE)
    graph = http_graph(
        tmp_path,
        "gate",
        receive="queue_size_external=1, drop=newest, time_out_ms=60000",
        attrs=f'queue_size=1, batch_size=1, pipe="{pipe}"',
    )
    server = Server(graph, folder=tmp_path).ready()
    try:
        with ThreadPoolExecutor(12) as pool:
            waiting: set[Future[Answer]] = {pool.submit(server.request, "/v1", b"x") for _ in range(12)}
            refused: list[Answer] = []
            while len(refused) < 12 - 5:  # two at the worker, one in its queue, one at the source; one under way
                done, waiting = wait(waiting, LIMIT_S, FIRST_COMPLETED)
                assert done
                refused += [future.result() for future in done]
            for status, body, headers in refused:
                assert (status, headers["Retry-After"]) == (503, "1")
                assert json.loads(body)["error_msg"] == "node 'rx': dropped, the graph is full"
            opened = os.open(pipe, os.O_RDWR)  # both ends: nobody waits at it any more
            answers = [future.result(LIMIT_S)[0] for future in waiting]
            os.close(opened)
        assert answers.count(200) >= 3
        assert set(answers) <= {200, 503}
    finally:
        assert server.stop() == 0


def test_requests_that_are_alone_do_not_wait_for_a_batch(tmp_path: Path) -> None:
    write_unit(tmp_path, "plain", HEAD + PASS)
    graph = http_graph(
        tmp_path, "plain", receive="time_out_ms=20000", attrs="batch_size=8, max_queue_delay_us=60000000"
    )
    server = Server(graph, folder=tmp_path).ready()
    try:
        for number in range(5):
            assert server.request("/v1", f"{number}".encode())[:2] == (200, f"{number}".encode())
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: server.request("/v1", str(number).encode())[:2], range(40)))
        assert answers == [(200, str(number).encode()) for number in range(40)]
    finally:
        assert server.stop() == 0


def test_the_session_timeout_of_the_configuration(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write_unit(tmp_path, "gate", HEAD + GATE)
    graph = http_graph(tmp_path, "gate", receive="time_out_ms=60000", attrs=f'pipe="{pipe}"')
    server = Server(
        graph, folder=tmp_path, config="[engine]\nsession_timeout = 1\n[server]\ndrain_timeout = 1\n"
    ).ready()
    try:
        status, body, _ = server.request("/v1", b"x")
        text = "not done within 1 s; a call runs at node 'u'"
        assert (status, text in json.loads(body)["error_msg"]) == (504, True)
        server.wait_for(text)
        with open(pipe, "w"):
            pass
    finally:
        assert server.stop() == 0
