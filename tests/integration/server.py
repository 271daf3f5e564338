"""A real daemon for tests: started on graphs with free ports, talked to over HTTP, stopped by signal."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
TOP = Path(__file__).resolve().parents[2]


class Server:
    """`modelbox -V --graph ...` as a child process. Endpoints in the graphs use port 0."""

    def __init__(self, *graphs: Path, config: str = "", folder: Path) -> None:
        command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(folder / "modelbox.conf")]
        (folder / "modelbox.conf").write_text(with_api(config, folder))
        for graph in graphs:
            command += ["--graph", str(graph)]
        self.lines: list[str] = []
        self.ports: dict[str, int] = {}  # node -> port
        self.api = 0  # port
        self._changed = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=TOP)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                found = re.search(r"the (API) listens on https?://.*:(\d+)", line)
                if found:
                    self.api = int(found[2])
                found = re.search(r"node '(\w+)' listens on .* \(port (\d+)\)", line)
                if found:
                    self.ports[found[1]] = int(found[2])
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_for(self, text: str) -> str:
        """Waits for a log line that contains `text` and returns it."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or any(text in line for line in self.lines), LIMIT_S)
            found = next((line for line in self.lines if text in line), None)
        assert found is not None, f"no line with {text!r} in:\n" + "\n".join(self.lines)
        return found

    def wait_until(self, true: Callable[[list[str]], bool]) -> None:
        """Waits until something is true of all lines."""
        with self._changed:
            assert self._changed.wait_for(lambda: true(self.lines), LIMIT_S), "\n".join(self.lines)

    def ready(self) -> Server:
        self.wait_for("is ready:")
        return self

    @property
    def port(self) -> int:
        return next(iter(self.ports.values()))

    def request(
        self, path: str, body: bytes | None = None, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request on a connection of its own: status, body, headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def ask(
        self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """One request to the API, JSON both ways: status, value (None: no body), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=LIMIT_S)
        body = None if value is None else json.dumps(value)
        given = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, path, body, given | (headers or {}))
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data) if data else None, dict(response.getheaders())
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL, and the end of it."""
        self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code


def with_api(config: str, folder: Path) -> str:
    """A configuration whose API has a port and a state directory of its own, and without a control socket, since its
    usual place may be another server's, where it does not say."""
    if "[control]" not in config:
        config += "\n[control]\nenable = false\n"
    lines = [f'state_dir = "{folder}/state"', *(["port = 0"] if "port =" not in config else [])]
    lines = [line for line in lines if line.partition(" ")[0] not in config]
    if "[server]" in config:
        return config.replace("[server]", "\n".join(["[server]", *lines]))
    return config + "\n" + "\n".join(["[server]", *lines]) + "\n"


def write_graph(folder: Path, dot: str, name: str = "graph.toml") -> Path:
    """A graph file with driver.dir = its own folder."""
    path = folder / name
    path.write_text(f'[driver]\ndir = ["."]\n[graph]\nformat = "graphviz"\ngraphconf = """{dot}"""\n')
    return path


def http_graph(
    folder: Path, unit: str, *, receive: str = "", reply: str = "", attrs: str = "", name: str = "graph.toml"
) -> Path:
    """receive -> unit (ports in, out) -> reply."""
    return write_graph(
        folder,
        f"""digraph g {{
        rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"{", " + receive if receive else ""}]
        u [flowunit={unit}{", " + attrs if attrs else ""}]
        tx [flowunit=httpserver_sync_reply{", " + reply if reply else ""}]
        rx:out_request_info -> u:in; u:out -> tx:in_reply_info }}""",
        name,
    )
