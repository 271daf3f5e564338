"""A job that is replaced again and again under load, by another graph and by one that is broken: not one request fails.
`python -m tests.integration.replacing 200` does it 200 times."""

from __future__ import annotations

import http.client
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.integration.server import LIMIT_S, Server
from tests.integration.workers import write_unit

DOT = """digraph echo {
    rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/x"]
    tx [flowunit=httpserver_sync_reply]
    rx:out_request_info -> tx:in_reply_info
}"""


def answering(text: str) -> str:
    return f"""
import _flowunit as modelbox
class Unit(modelbox.FlowUnit):
    def process(self, context):
        for _ in context.input("in"):
            context.output("out").push_back(modelbox.Buffer(self.get_bind_device(), "{text}"))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""


class Load:
    """Clients that send without a pause, each on its connection, half of them slowly by two writes."""

    def __init__(self, port: int, path: str, clients: int) -> None:
        self.bad: list[str] = []
        self.seen: set[bytes] = set()
        self.count = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, path, number)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, path: str, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        while not self._stop.is_set():
            try:
                if number % 2:
                    connection.putrequest("POST", path)
                    connection.putheader("Content-Length", "4")
                    connection.endheaders(b"ab")
                    self._stop.wait(0.01)
                    connection.send(b"cd")
                else:
                    connection.request("POST", path, b"abcd")
                response = connection.getresponse()
                body = response.read()
                self.seen.add(body)
                self.count += 1
                if response.status != 200:
                    self.bad.append(f"{response.status} {body!r}")
            except Exception as error:
                self.bad.append(repr(error))
                return
        connection.close()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)


def replace_under_load(folder: Path, count: int) -> int:
    """Replaces so many times; returns the number of requests that were answered meanwhile."""
    for name in ("one", "two"):
        write_unit(folder / "units", name, answering(name))
    server = Server(config=f'[driver]\ndir = "{folder}/units"\n', folder=folder).ready()

    def graph(unit: str) -> dict[str, Any]:
        flow = f"u [flowunit={unit}]; rx:out_request_info -> u:in; u:out -> tx:in_reply_info"
        return {
            "graph": {"format": "graphviz", "graphconf": DOT.replace("rx:out_request_info -> tx:in_reply_info", flow)}
        }

    try:
        assert server.ask("POST", "/v1/jobs", {"id": "echo", "graph": graph("one")})[0] == 201
        server.wait_for("node 'rx' listens")
        load = Load(server.port, "/x", 6)
        try:
            for round_number in range(count):
                status, job, _ = server.ask("PUT", "/v1/jobs/echo", {"graph": graph(("two", "one")[round_number % 2])})
                assert (status, job["state"]) == (200, "running"), job
                assert server.ask("PUT", "/v1/jobs/echo", {"graph": graph("three")})[0] == 422
        finally:
            load.end()
        assert load.bad == []
        assert load.seen == {b"one", b"two"} and load.count > 5 * count
        assert len(set(server.ports.values())) == 1
    finally:
        assert server.stop() == 0
    return load.count


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
        answered = replace_under_load(Path(scratch), rounds)
        print(f"{rounds} replacements and as many that were refused, {answered} requests answered, none failed")
