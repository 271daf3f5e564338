"""The python-master whose workers have a fault when they are told to: at the first worker that comes to a state for which
there is a file of that name in the folder that the unit's option `faults` names. The file's text is the fault."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np

from modelboxd.workers import calling, master, protocol, worker
from modelboxd.workers.protocol import HEADER, MAGIC, Reader

MODULE = "tests.integration.faults.master"
MEMORY_LIMIT_MB = 60
STATES = ("starting", "opening", "idle", "reading", "computing", "writing", "releasing", "stopping")


def forever() -> None:
    while True:
        signal.pause()


def kill_with(number: int) -> None:
    os.kill(os.getpid(), number)


def exhaust() -> None:
    """More memory than there may be."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    try:
        np.ones(1 << 30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Faulty(worker.Worker):
    """A worker with faults."""

    def __init__(self, sock: socket.socket) -> None:
        self.folder = Path("/nonexistent")  # until OPEN comes
        super().__init__(sock)
        signal.signal(signal.SIGUSR1, lambda *_: self.come_to("idle"))
        read_calls, release = Reader.calls, Reader.release
        faulty = self

        def calls(reader: Reader) -> Any:
            faulty.come_to("reading")
            return read_calls(reader)

        def released(reader: Reader) -> None:
            faulty.come_to("releasing")
            release(reader)

        self.caller = FaultyCaller(self)
        Reader.calls, Reader.release = calls, released  # type: ignore[method-assign]

    def come_to(self, state: str) -> None:
        """Has the fault of this state, if there is one."""
        armed, taken = self.folder / state, self.folder / f"{state}.{os.getpid()}"
        try:
            armed.rename(taken)
        except FileNotFoundError:
            return
        fault = taken.read_text()
        if fault == "exception":
            raise RuntimeError(f"while {state}")
        if fault == "out of memory":
            exhaust()
        if fault == "memory_limit_mb":
            self.leaked = np.ones(2 * MEMORY_LIMIT_MB << 20, np.uint8)
        else:
            self.break_off(fault)

    def break_off(self, fault: str) -> None:
        if fault.startswith("SIG"):
            kill_with(getattr(signal, fault))
        elif fault == "exit 0":
            os._exit(0)
        elif fault == "os._exit(3)":
            os._exit(3)
        elif fault == "closed socket":
            self.sock.close()
        elif fault == "half a message":
            self.sock.send(HEADER.pack(MAGIC, protocol.RESULTS, 0, 0, 1, 1, 0, 0)[:12])
        elif fault == "garbage":
            self.sock.send(os.urandom(500))
        elif fault != "hang":
            raise SystemError(f"unknown fault {fault}")
        forever()

    def open(self, order: dict[str, Any]) -> bool:
        self.folder = Path(order["config"].get("faults", self.folder))
        self.come_to("starting")
        return super().open(order)

    def send(self, message: bytes) -> None:
        if message[4] == protocol.RESULTS:
            self.come_to("writing")
        super().send(message)

    def close(self) -> None:
        self.come_to("stopping")
        super().close()


class FaultyCaller(calling.Caller):
    """What calls the unit of a worker with faults."""

    def __init__(self, owner: Faulty) -> None:
        super().__init__(owner.pool, owner.writer, owner.externals, owner.sharing)
        self._owner = owner

    def use(self, unit: Any) -> None:
        super().use(unit)
        self._owner.come_to("opening")

    def _run(self, *call: Any) -> None:
        self._owner.come_to("computing")
        super()._run(*call)


if __name__ == "__main__":
    worker.Worker = Faulty  # type: ignore[misc]
    master.main()
