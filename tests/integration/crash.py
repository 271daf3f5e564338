"""A daemon that is killed at random moments while jobs are written, and started again: each job is wholly there, as
somebody was told or was about to be told, or wholly not. `python -m tests.integration.crash 500` does it 500 times."""

from __future__ import annotations

import http.client
import json
import random
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.server import LIMIT_S, Server

IDS = [f"job-{number}" for number in range(6)]
GRAPH = """digraph g { rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/x"]
tx [flowunit=httpserver_sync_reply]; rx:out_request_info -> tx:in_reply_info }"""


@dataclass
class Known:
    """What a job may be after a crash: description and whether it runs; None: not there."""

    told: tuple[str, bool] | None = None
    asked: list[tuple[str, bool] | None] = field(default_factory=list)


class Writer:
    """Creates, replaces, stops, starts and deletes its jobs until the server is gone."""

    def __init__(self, port: int, ids: list[str], known: dict[str, Known], seed: int) -> None:
        self._port = port
        self._ids = ids
        self._known = known
        self._chance = random.Random(seed)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        try:
            while True:
                self._step(connection, self._chance.choice(self._ids))
        except (OSError, http.client.HTTPException):
            connection.close()  # killed

    def _step(self, connection: http.client.HTTPConnection, job_id: str) -> None:
        known = self._known[job_id]
        text = f"{self._chance.random()} " + "x" * self._chance.randrange(1, 100_000)
        graph: dict[str, Any] = {"graph": {"format": "graphviz", "graphconf": GRAPH}, "flow": {"desc": text}}
        path = f"/v1/jobs/{job_id}"
        if known.told is None:
            self._ask(connection, known, (text, True), 201, "POST", "/v1/jobs", {"id": job_id, "graph": graph})
            return
        what = self._chance.choice(("replace", "replace", "delete", "turn"))
        if what == "replace":
            self._ask(connection, known, (text, True), 200, "PUT", path, {"graph": graph})
        elif what == "delete":
            self._ask(connection, known, None, 204, "DELETE", path)
        else:
            text, runs = known.told
            self._ask(connection, known, (text, not runs), 200, "POST", f"{path}/{'stop' if runs else 'start'}")

    @staticmethod
    def _ask(
        connection: http.client.HTTPConnection,
        known: Known,
        wish: tuple[str, bool] | None,
        status: int,
        method: str,
        path: str,
        value: Any = None,
    ) -> None:
        known.asked = [wish]
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        data = response.read()
        assert response.status == status, (method, path, response.status, data)
        known.told, known.asked = wish, []


def there(server: Server) -> dict[str, tuple[str, bool]]:
    """The jobs of a server: description, and whether each runs."""
    status, value, _ = server.ask("GET", "/v1/jobs")
    assert status == 200
    found = {}
    for job in value["jobs"]:
        assert job["state"] in ("running", "stopped"), job
        found[job["id"]] = (job.get("description", ""), job["state"] == "running")
    return found


def kill_and_start(folder: Path, rounds: int, seed: int = 1) -> int:
    """Returns how many operations were told to be done. Raises AssertionError."""
    chance = random.Random(seed)
    known = {job_id: Known() for job_id in IDS}
    done = 0
    for number in range(rounds + 1):
        server = Server(config="[server]\n", folder=folder).ready()
        found = there(server)
        for job_id, entry in known.items():
            now = found.get(job_id)
            possible = [entry.told, *entry.asked]
            # A job that is stopped has no graph, and so no description, until it is started again.
            fits = any(now == wish or (now and wish and not now[1] and not wish[1]) for wish in possible)
            assert fits, f"round {number}: {job_id} is {str(now)[:80]}, not one of {str(possible)[:200]}"
            if now is not None and not now[1]:
                assert server.ask("POST", f"/v1/jobs/{job_id}/start")[0] == 200
                now = there(server)[job_id]
                assert now[0] in [wish[0] for wish in possible if wish], f"round {number}: {job_id} has another graph"
            entry.told, entry.asked = now, []
        assert not list((folder / "state/jobs").glob("*.damaged"))
        if number == rounds:
            assert server.stop() == 0
            return done
        writers = [Writer(server.api, IDS[at::3], known, chance.randrange(1 << 30)) for at in range(3)]
        threading.Event().wait(chance.uniform(0.0, 0.5))  # the random moment
        server.kill()
        for writer in writers:
            writer.thread.join(LIMIT_S)
        done += len(server.lines)
    return done


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
        lines = kill_and_start(Path(scratch), count)
        print(f"{count} kills, {lines} log lines of servers that were killed, every job whole")
