"""What the server's health says while a worker has a fault: a real daemon, asked over HTTP."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.server import LIMIT_S, Server, http_graph
from tests.integration.workers import write_unit
from tests.waiting import Gate, wait_for

UNIT = """
import gc, os, signal, socket
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        hold = config.get_string("hold", "")
        if os.path.exists(hold):
            open(hold, "rb", 0).read(1)
        return modelbox.Status()

    def process(self, context):
        for buffer in context.input("in"):
            word = str(buffer)
            if word.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, word))
            if word == "exit":
                os._exit(3)
            if word == "close":
                for one in gc.get_objects():
                    if isinstance(one, socket.socket):
                        one.close()
            if word == "garbage":
                for one in gc.get_objects():
                    if isinstance(one, socket.socket):
                        one.send(os.urandom(200))
            if word == "locked":
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                import ctypes
                ctypes.PyDLL(None).pause()  # with the interpreter locked
            if word == "headless":
                import ctypes
                ctypes.CDLL(None).pthread_exit(None)
            context.output("out").push_back(word)
        return modelbox.Status()
"""
FAULTS = ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGSTOP", "exit", "close", "garbage", "locked", "headless")


def ready(server: Server) -> tuple[int, list[Any]]:
    status, body, _ = server.ask("GET", "/health/ready")
    assert body["ready"] == (status == 200)
    return status, body["reasons"]


def serve(folder: Path, **life: object) -> Server:
    write_unit(folder, "unit", UNIT)
    attrs = ", ".join(f'{name}="{value}"' for name, value in {"hold": folder / "hold", **life}.items())
    graph = http_graph(folder, "unit", attrs=attrs)
    return Server(graph, folder=folder, config="[server]\nport = 0\n").ready()


@pytest.mark.parametrize("fault", FAULTS)
def test_not_ready_until_there_is_a_worker_again(tmp_path: Path, fault: str) -> None:
    server = serve(tmp_path, heartbeat_timeout_ms=500)
    try:
        assert server.request("/v1", b"good")[:2] == (200, b"good")
        assert ready(server) == (200, [])
        gate = Gate(tmp_path / "hold")
        status, body, _ = server.request("/v1", fault.encode())
        assert (status, b'"error_code": "unit.WorkerLost"' in body) == (500, True), body
        status, (reason,) = ready(server)
        assert (status, reason["job"], reason["node"]) == (503, "graph", "u")
        assert reason["reason"].startswith("no worker process takes work (")
        # A request of now waits for the next worker, which is told to open.
        answers: list[tuple[int, bytes, Any]] = []
        waiting = threading.Thread(target=lambda: answers.append(server.request("/v1", b"later")))
        waiting.start()
        assert ready(server)[0] == 503
        gate.open()
        waiting.join(LIMIT_S)
        assert answers[0][:2] == (200, b"later")
        wait_for(lambda: ready(server) == (200, []))
    finally:
        assert server.stop() == 0


def test_an_open_breaker(tmp_path: Path) -> None:
    server = serve(tmp_path, max_restarts=2, restart_cooldown_s=2)
    try:
        for _ in range(2):
            assert server.request("/v1", b"exit")[0] == 500
        status, (reason,) = ready(server)
        assert (status, reason["node"]) == (503, "u")
        assert reason["reason"].startswith("its workers are given up after 2 crashes in a row; next try in ")
        status, body, _ = server.request("/v1", b"good")
        assert status == 500 and b"exit code 3" in body, body
        wait_for(lambda: ready(server) == (200, []))
        assert server.request("/v1", b"good")[:2] == (200, b"good")
    finally:
        assert server.stop() == 0


def test_one_of_two_is_enough(tmp_path: Path) -> None:
    server = serve(tmp_path, workers=2)
    try:
        gate = Gate(tmp_path / "hold")
        assert server.request("/v1", b"SIGKILL")[0] == 500
        for _ in range(20):
            assert server.request("/v1", b"good")[:2] == (200, b"good")
            assert ready(server) == (200, [])
        gate.open()
    finally:
        assert server.stop() == 0
