"""A daemon with one job, and how tests give it tasks."""

from __future__ import annotations

import http.client
import http.server
import json
import os
from pathlib import Path
from typing import Any

from tests.integration.server import LIMIT_S, Server, write_graph
from tests.integration.workers import write_unit

# Texts in capitals; other data doubled; "gate" waits until somebody opens the other end of the pipe.
UNIT = """
import os
import numpy as np
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.pipe = config.get_string("pipe", "")
        return modelbox.Status()

    def process(self, context):
        out = context.output("out")
        for buffer in context.input("in"):
            value = buffer.as_object()
            if isinstance(value, str):
                if value == "gate":
                    open(self.pipe).close()
                if value == "bad":
                    raise ValueError("no good")
                if value == "die":
                    os.kill(os.getpid(), 9)
                if value == "many":
                    value = "x" * 3_000_000
                made = modelbox.Buffer(self.get_bind_device(), value.upper())
            else:
                made = modelbox.Buffer(self.get_bind_device(), np.array(buffer, copy=False) * 2)
            out.push_back(made)
        return modelbox.Status()
"""
JOB = "/v1/jobs/graph/tasks"


class Rig:
    """A daemon with one job: in -> work -> out."""

    def __init__(self, folder: Path, config: str = "", attrs: str = "", extra: str = "") -> None:
        self.folder = folder
        self.pipe = folder / "pipe"
        os.mkfifo(self.pipe)
        write_unit(folder, "work", UNIT)
        self.graph = write_graph(folder, self.dot(attrs, extra))
        self.server = Server(self.graph, folder=folder, config=config).ready()

    def dot(self, attrs: str = "", extra: str = "") -> str:
        return f"""digraph g {{ in [type=input]; out [type=output]
            work [flowunit=work, batch_size=1, pipe="{self.pipe}"{attrs}]
            in -> work:in; work:out -> out; {extra} }}"""

    def send(
        self, body: bytes, options: str = "", kind: str = "text/plain", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """A raw request; what is not JSON comes back as bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.api, timeout=LIMIT_S)
        try:
            given = {"Content-Type": kind, **{key.replace("_", "-"): value for key, value in headers.items()}}
            connection.request("POST", JOB + options, body, given)
            response = connection.getresponse()
            data = response.read()
            is_json = "json" in (response.getheader("Content-Type") or "")
            return response.status, json.loads(data) if is_json else data, dict(response.getheaders())
        finally:
            connection.close()

    def start(self, text: str, options: str = "") -> str:
        """An asynchronous task; its id."""
        status, task, headers = self.send(text.encode(), f"?mode=async{options}")
        assert (status, headers["Location"]) == (202, f"/v1/tasks/{task['id']}")
        return str(task["id"])

    def end(self, task_id: str) -> dict[str, Any]:
        """Waits for the end of a task."""
        status, task, _ = self.server.ask("GET", f"/v1/tasks/{task_id}?wait=50")
        assert status == 200
        assert task["state"] not in ("queued", "running")
        return dict(task)

    def open_gate(self) -> None:
        """Lets what waits at it go on, until the result is closed."""
        with open(self.pipe, "w"):
            pass
