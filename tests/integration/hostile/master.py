"""The python-master with workers that misbehave: a unit whose config has `attack` runs worker.py instead of the unit."""

from __future__ import annotations

import json
import socket

from modelboxd.workers import master, worker
from modelboxd.workers.protocol import HEADER

MODULE = "tests.integration.hostile.master"
run_unit = worker.run


def run(sock: socket.socket) -> None:
    """In place of the worker's: looks at OPEN without taking it."""
    order = json.loads(sock.recv(65536, socket.MSG_PEEK)[HEADER.size :])
    if "attack" in order["config"]:
        from tests.integration.hostile.worker import Hostile

        Hostile(sock, order).run()
    run_unit(sock)


if __name__ == "__main__":
    worker.run = run
    master.main()
