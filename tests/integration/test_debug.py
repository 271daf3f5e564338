"""Units under a debugger, in the server's process; tracebacks of the user's own frames."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration.graphs import write
from tests.integration.server import LIMIT_S, TOP, Server, write_graph

DOT = """digraph g {
    rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
    a [flowunit=first]; b [flowunit=second, workers=3]
    tx [flowunit=httpserver_sync_reply]
    rx:out_request_info -> a:in; a:out -> b:in; b:out -> tx:in_reply_info
}"""
FIRST = """
    def open(self, config):
        print("opened in", __import__("threading").current_thread().name)
        return modelbox.Status()

    def process(self, ctx):
        for buffer in ctx.input("in"):
            answer = len(str(buffer))
            breakpoint()
            ctx.get_session_context().set_private("answer", answer)
            ctx.output("out").push_back(buffer)
        modelbox.warn("from the first")
        return modelbox.Status()

    def close(self):
        print("closed the first")
        return modelbox.Status()
"""
SECOND = """
    def process(self, ctx):
        import os

        for buffer in ctx.input("in"):
            answer = ctx.get_session_context().get_private("answer")
            ctx.output("out").push_back(f"{answer} {os.getpid()}")
        return modelbox.Status()
"""


class Debugged:
    """modelbox-python-debug as a child, with its terminal as pipes."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "modelboxd.debug", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TOP
        )
        self._changed = threading.Condition()
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while text := self.process.stdout.read(1):
            with self._changed:
                self.said += text
                self._changed.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: re.search(pattern, self.said), LIMIT_S), self.said
            found = re.search(pattern, self.said)
        assert found is not None
        return found

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def test_a_breakpoint_stops_in_the_units_own_lines(tmp_path: Path) -> None:
    write(tmp_path, "first", FIRST, base="stream = true")
    write(tmp_path, "second", SECOND, base="stream = true")
    debugged = Debugged("--flow", str(write_graph(tmp_path, DOT)), "--loglevel", "info")
    try:
        debugged.wait_for("opened in MainThread")
        port = int(debugged.wait_for(r"\(port (\d+)\)")[1])
        debugged.wait_for("is ready:")
        answer: list[bytes] = []

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
            connection.request("POST", "/v1", b"hello")
            answer.append(connection.getresponse().read())

        asking = threading.Thread(target=ask)
        asking.start()
        debugged.wait_for(r"first\.py\(\d+\)process\(\)")
        debugged.type("p answer * 100")
        debugged.wait_for("500")
        debugged.type("answer = 7")
        debugged.type("continue")
        asking.join(LIMIT_S)
        assert answer == [f"7 {debugged.process.pid}".encode()]  # the other unit runs in the same process
        debugged.wait_for(r"WARN.*from the first")
    finally:
        debugged.process.send_signal(signal.SIGTERM)  # ^C would be pdb's, once it has been there
        assert debugged.process.wait(LIMIT_S) == 0
    debugged.wait_for("closed the first")
    debugged.wait_for("Running result: STATUS_SUCCESS")


def test_a_unit_that_does_not_open_ends_it(tmp_path: Path) -> None:
    write(tmp_path, "first", FIRST.replace("return", "raise ValueError('no') #"), base="stream = true")
    write(tmp_path, "second", SECOND, base="stream = true")
    debugged = Debugged("--flow", str(write_graph(tmp_path, DOT)))
    assert debugged.process.wait(LIMIT_S) == 1
    debugged.wait_for(r"node 'a': unit 'first' did not open: ValueError: no")
    debugged.wait_for("Running result: STATUS_FAULT")


FAILS = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            try:
                self.inner()
            except KeyError as error:
                raise RuntimeError("in the end") from error

    def inner(self):
        modelbox.Buffer(self.get_bind_device(), "x").get("a") if False else {}["missing"]
        return modelbox.BufferList().push_back(None)
"""


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_traceback_has_the_users_frames(tmp_path: Path, level: str) -> None:
    write(tmp_path, "fails", FAILS, base="stream = true")
    dot = DOT.replace("a [flowunit=first]; b [flowunit=second, workers=3]", "a [flowunit=fails]")
    dot = dot.replace("a:out -> b:in; b:out", "a:out")
    server = Server(write_graph(tmp_path, dot), config=f'[log]\nlevel = "{level}"\n', folder=tmp_path).ready()
    for _ in range(3):
        status, _, _ = server.request("/v1", b"x")
        assert status == 500
    assert server.stop() == 0
    lines = "\n".join(server.lines)
    file = f"{tmp_path}/fails/fails.py"
    frames = re.findall(r'INFO.*File "([^"]+)", line \d+, in (\w+)', lines)
    assert frames == [(file, "process"), (file, "inner"), (file, "process")]  # told once, not three times
    assert "KeyError: 'missing'" in lines
    assert "The above exception was the direct cause" in lines
    assert ("workers/calling.py" in lines) == (level == "DEBUG")
