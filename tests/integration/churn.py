"""Jobs that are made and deleted again and again: what of the server grows? `python -m tests.integration.churn 1000`
prints descriptors, threads, mappings and private memory on the way."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.integration.server import Server
from tests.integration.test_http import ECHO
from tests.integration.workers import write_unit

FLOW = "rx:out_request_info -> u:in; u:out -> tx:in_reply_info; u [flowunit=echo]"
PLAIN = "rx:out_request_info -> tx:in_reply_info"
GRAPH = """digraph g { rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/x"]
tx [flowunit=httpserver_sync_reply]; %s }"""


@dataclass(frozen=True)
class Use:
    """What the server holds; memory in KiB, of the daemon alone, without what it shares."""

    descriptors: int
    threads: int
    mappings: int
    private: int
    children: int

    @staticmethod
    def of(server: Server) -> Use:
        process = psutil.Process(server.process.pid)
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        mappings = len(Path(f"/proc/{process.pid}/maps").read_text().splitlines())
        children = len(process.children(recursive=True))
        return Use(process.num_fds(), process.num_threads(), mappings, private, children)


def turn(server: Server, number: int, python: bool) -> None:
    """One job: made, replaced, stopped, started, deleted; and one that is refused."""
    graph = {"graph": {"format": "graphviz", "graphconf": GRAPH % (FLOW if python else PLAIN)}}
    job_id = f"job-{number}"
    path = f"/v1/jobs/{job_id}"
    assert server.ask("POST", "/v1/jobs", {"id": job_id, "graph": graph})[0] == 201
    assert server.ask("PUT", path, {"graph": graph})[0] == 200
    assert server.ask("POST", f"{path}/stop")[0] == 200
    assert server.ask("POST", f"{path}/start")[0] == 200
    assert server.ask("DELETE", path)[0] == 204
    assert server.ask("POST", "/v1/jobs", {"id": job_id, "graph": {}})[0] == 422


def serve(folder: Path) -> Server:
    write_unit(folder / "units", "echo", ECHO)
    return Server(config=f'[driver]\ndir = "{folder}/units"\n', folder=folder).ready()


def main(count: int, folder: Path) -> None:
    server = serve(folder)
    try:
        for number in range(count + 1):
            if number % max(1, count // 10) == 0:
                print(f"{number:6} jobs: {Use.of(server)}", flush=True)
            if number < count:
                turn(server, number, python=number % 10 == 0)
    finally:
        assert server.stop() == 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, Path(scratch))
