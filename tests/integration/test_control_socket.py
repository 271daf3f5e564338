"""modelbox-tool server against a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration.server import LIMIT_S, TOP, Server, write_graph
from tests.integration.workers import write_unit

WAIT = """import _flowunit as modelbox
class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.path = config.get_string("pipe", "")
        return modelbox.Status()
    def process(self, context):
        if self.path:
            open(self.path).close()
        for buffer in context.input("in"):
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""
GRAPH = """digraph g {{ input [type=input] u [flowunit=wait, pipe="{pipe}"] output [type=output]
    input -> u:in; u:out -> output }}"""


class Service:
    """A server whose graph is a file of its configuration, so that it can be reloaded."""

    def __init__(self, folder: Path, pipe: str = "", more: str = "") -> None:
        write_unit(folder, "wait", WAIT)
        self.socket = folder / "run" / "c.sock"
        (folder / "flow").mkdir()
        self.graph = folder / "flow" / "work.toml"
        self.write(pipe)
        config = f'[server]\nflow_path = "{folder}/flow"\n[control]\nlisten = "{self.socket}"\n{more}'
        self.server = Server(folder=folder, config=config).ready()
        self.conf = folder / "modelbox.conf"

    def write(self, pipe: str = "", more: str = "") -> None:
        write_graph(self.graph.parent, GRAPH.format(pipe=pipe), "work.toml")
        text = self.graph.read_text().replace('dir = ["."]', 'dir = [".."]')
        self.graph.write_text(text + more)

    def tool(self, *words: str, code: int = 0, by: tuple[str, ...] = ()) -> str:
        """What `modelbox-tool server ...` prints on stdout, or on stderr where it fails."""
        done = tool(*(by or ("-conf", str(self.conf))), *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelboxd.tool.main", "server", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=TOP)


def test_what_a_running_server_answers(tmp_path: Path) -> None:
    service = Service(tmp_path)
    server = service.server
    try:
        assert server.ask("POST", "/v1/jobs/work/tasks", {"inputs": {"input": "x"}})[0] == 200
        # log
        assert service.tool("log", "-getlevel") == "Log Level : INFO\n"
        assert service.tool("log", "-setlevel", "debug") == "Log Level : DEBUG\n"
        server.wait_for("the log level is DEBUG now, it was INFO")
        assert service.tool("log", "--getlevel", by=("-conn", str(service.socket))) == "Log Level : DEBUG\n"
        assert "there is no level 'LOUD'" in service.tool("log", "-setlevel", "LOUD", code=1)
        # jobs
        assert re.search(r"^work +running +0 +file +\S+/work.toml$", service.tool("jobs"), re.M)
        (job,) = json.loads(service.tool("jobs", "-json"))["jobs"]
        assert (job["id"], job["state"]) == ("work", "running")
        # stat
        stats = json.loads(service.tool("stat", "-json"))
        assert stats.keys() == server.ask("GET", "/v1/stats")[1].keys()
        assert stats["tasks"]["ended"] == {"work": {"succeeded": 1}}
        table = service.tool("stat")
        assert re.search(rf"^{server.process.pid} +modelbox +", table, re.M)
        assert re.search(r"^work +u +worker +1 +1 +0 ", table, re.M)
        assert "jobs.work.nodes.u.buffers_in = 1\n" in service.tool("stat", "-all")
        assert "work.u.buffers_out = 1\n" in service.tool("stat", "-node", "u")
        assert "there is no node 'v'; there are: input, output, u" in service.tool("stat", "-node", "v", code=1)
        # slab
        assert re.search(r"^cpu:0 +\d", service.tool("slab", "-device", "-type", "cpu", "-id", "0"), re.M)
        (device,) = json.loads(service.tool("slab", "-json"))["devices"]
        assert device["free_bytes"] == device["arena_bytes"] - device["block_bytes"]
        assert "there is no such device; there is cpu:0" in service.tool("slab", "-type", "cuda", code=1)
        # stack
        stacks = service.tool("stack")
        for text in ("python stack of thread", "native stack of thread", "python stack of python worker work/u#0"):
            assert text in stacks
        assert "native stack of python-master" in stacks
        assert "job 'work' node 'u': idle" in stacks
        # help
        assert "--setlevel" in service.tool("help", "log")
        # many clients that say nothing
        silent = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for sock in silent:
            sock.connect(str(service.socket))
        assert service.tool("log", "-getlevel") == "Log Level : DEBUG\n"
        assert server.ask("GET", "/health/ready")[0] == 200
        for sock in silent:
            sock.close()
    finally:
        assert server.stop() == 0
    assert not service.socket.exists()
    assert list(service.socket.parent.iterdir()) == []


def test_reload_says_what_changed_and_what_is_wrong(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        assert service.tool("reload") == "unchanged: work\n"
        service.write("", "# changed\n")
        assert service.tool("reload") == "replaced: work\n"
        service.write("", "nonsense\n")
        said = service.tool("reload", code=1)
        assert re.search(r"^modelbox-tool: job 'work': \S*work.toml:\d+", said), said
        assert service.server.ask("POST", "/v1/jobs/work/tasks", {"inputs": {"input": "x"}})[0] == 200
        other = service.graph.with_name("other.toml")
        other.write_text("[graph]\n")
        said = service.tool("reload", code=1)
        assert "other.toml" in said and "work.toml" in said
    finally:
        assert service.server.stop() == 0


def test_reload_tries_a_graph_again_whose_unit_was_mended(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        good = (tmp_path / "wait" / "wait.py").read_text()
        (tmp_path / "wait" / "wait.py").write_text(good.replace("self.path =", "self.path = 1 / 0 if 1 else"))
        service.write("", "# changed\n")
        assert "division by zero" in service.tool("reload", code=1)
        assert "division by zero" in service.tool("reload", code=1)
        assert service.server.ask("POST", "/v1/jobs/work/tasks", {"inputs": {"input": "x"}})[0] == 200
        (tmp_path / "wait" / "wait.py").write_text(good)
        assert service.tool("reload") == "replaced: work\n"
        assert service.tool("reload") == "unchanged: work\n"
    finally:
        assert service.server.stop() == 0


def test_reload_takes_a_signal_where_there_is_no_socket(tmp_path: Path) -> None:
    """What ExecReload= of the unit files does."""
    service = Service(tmp_path)
    server = service.server
    pid = str(server.process.pid)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            assert service.tool("reload", "-pid", pid) == "unchanged: work\n"
            # The socket is another server's: that one is left alone.
            said = service.tool("reload", "-pid", str(bystander.pid))
            assert f"is of process {pid}, another server; sent SIGHUP to process {bystander.pid}" in said
            assert bystander.wait(LIMIT_S) == -signal.SIGHUP
            for wrong in ("-1", "0", "1x", ""):
                assert tool("-conf", str(service.conf), "reload", f"-pid={wrong}").returncode == 2
        finally:
            bystander.kill()
    try:
        service.write("", "# changed\n")
        said = service.tool("reload", "-pid", pid, by=("-conn", str(tmp_path / "none.sock")))
        assert re.search(rf"there is no control socket \S+none.sock.*; sent SIGHUP to process {pid}", said), said
        server.wait_for("graph files were read again: 0 added, 1 replaced")
        off = tmp_path / "off.conf"
        off.write_text("[control]\nenable = false\n")
        service.write("", "# changed again\n")
        assert "control.enable = false; sent SIGHUP" in service.tool("reload", "-pid", pid, by=("-conf", str(off)))
        assert "no such process" in service.tool(
            "reload", "-pid", "4000000000", by=("-conn", str(tmp_path / "none.sock")), code=1
        )
    finally:
        assert server.stop() == 0


def test_drain_finishes_what_runs_and_ends_the_server(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    service = Service(tmp_path, str(pipe))
    server = service.server
    status, task, _ = server.ask("POST", "/v1/jobs/work/tasks?mode=async", {"inputs": {"input": "x"}})
    assert status == 202 and task["state"] == "running"
    command = [sys.executable, "-m", "modelboxd.tool.main", "server", "-conn", str(service.socket), "drain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TOP) as drain:
        assert drain.stdout is not None
        assert drain.stdout.readline() == "draining: 1 sessions are under way\n"
        server.wait_for("stopping by modelbox-tool server drain")
        with open(pipe, "w"):  # the call goes on
            pass
        assert drain.stdout.readline() == f"the server (pid {server.process.pid}) has ended\n"
        assert drain.wait(LIMIT_S) == 0
    assert server.process.wait(LIMIT_S) == 0
    server.wait_for("job 'work' stopped, 0 sessions lost")
    assert "no server runs: there is no control socket" in tool("-conn", str(service.socket), "jobs").stderr


def test_drain_keep_leaves_a_server_without_jobs_that_run(tmp_path: Path) -> None:
    service = Service(tmp_path)
    server = service.server
    try:
        assert service.tool("drain", "-keep") == "drained: work\n"
        assert service.tool("drain", "-keep") == "drained: no job ran\n"
        assert re.search(r"^work +stopped ", service.tool("jobs"), re.M)
        status, ready, _ = server.ask("GET", "/health/ready")
        assert (status, ready["reasons"][0]["reason"]) == (503, "all jobs were drained on demand")
        assert server.ask("POST", "/v1/jobs/work/start")[0] == 200
        assert server.ask("GET", "/health/ready")[0] == 200
    finally:
        assert server.stop() == 0


def test_two_servers_and_one_that_was_killed(tmp_path: Path) -> None:
    service = Service(tmp_path)
    other = tmp_path / "other.conf"
    other.write_text(service.conf.read_text().replace("/state", "/other"))
    command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(other)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=TOP)
    assert second.returncode == 78
    assert re.search(r"other.conf:\d+: control.listen: another server is at \S+c.sock", second.stderr)
    assert service.tool("log", "-getlevel") == "Log Level : INFO\n"
    service.server.kill()
    assert "was left over by one that has ended" in service.tool("jobs", code=1)
    again = Server(folder=tmp_path, config=service.conf.read_text()).ready()
    try:
        assert service.tool("log", "-getlevel") == "Log Level : INFO\n"
        # One that is stopped is there too.
        again.process.send_signal(signal.SIGSTOP)
        second = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=TOP)
        assert "another server is at" in second.stderr
        again.process.send_signal(signal.SIGCONT)
    finally:
        assert again.stop() == 0


def test_a_server_without_the_socket(tmp_path: Path) -> None:
    write_unit(tmp_path, "wait", WAIT)
    graph = write_graph(tmp_path, GRAPH.format(pipe=""))
    server = Server(graph, folder=tmp_path, config="[control]\nenable = false\n").ready()
    try:
        done = tool("-conf", str(tmp_path / "modelbox.conf"), "jobs")
        assert (done.returncode, "control.enable = false" in done.stderr) == (1, True)
    finally:
        assert server.stop() == 0
