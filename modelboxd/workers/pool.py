"""The worker pool: the python-master, and the workers of each Python node with their replacement."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from modelbox._core.memory import Pool
from modelbox.errors import ModelBoxError, UnitError
from modelbox.spec import FlowType, UnitSpec
from modelboxd.cpus import cpu_count
from modelboxd.loop import IoThread
from modelboxd.workers.process import External, Worker

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
QUICK_DEATH_S = 10.0  # a worker that lived shorter is replaced with more and more delay
FIRST_DELAY_S, LAST_DELAY_S = 0.1, 5.0
RETRY_DELAY_S = 0.5  # when a worker could not be started at all, as while the python-master is being replaced
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


class WorkerPool:
    """Starts the python-master on first use and workers through it. One per daemon."""

    def __init__(self, io: IoThread, memory: Pool, *, python: str = sys.executable) -> None:
        self.io = io
        self.memory = memory
        self._python = python
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._master: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._ready = threading.Event()
        self._workers: dict[int, tuple[Worker, bytes]] = {}
        self._closing = False

    # ---- the master -------------------------------------------------------------------------------------

    def _ensure_master(self) -> None:
        with self._lock:
            if self._closing:
                raise UnitError("the worker pool is closed")
            if self._master is None:  # a dead one is cleared by _master_gone(), with its workers
                self._start_master()
        if not self._ready.wait(READY_TIMEOUT_S):
            raise UnitError(f"the python-master did not start within {READY_TIMEOUT_S:g} s ({self._python})")

    def _start_master(self) -> None:
        self._ready.clear()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = dict(os.environ)
        # Import path: the same modelbox as ours, wherever it lies.
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        env["PYTHONPATH"] = os.pathsep.join(part for part in (root, env.get("PYTHONPATH", "")) if part)
        env.setdefault("OPENBLAS_NUM_THREADS", "1")  # a thread of its own would not survive fork()
        env.setdefault("PYTHONUNBUFFERED", "1")
        self._master = subprocess.Popen(
            [self._python, "-m", "modelboxd.workers.master", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=env,
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        self._sock = ours
        self.io.call(self._watch, ours)

    def _watch(self, sock: socket.socket) -> None:
        self.io.loop.add_reader(sock, self._master_readable, sock)

    def _master_readable(self, sock: socket.socket) -> None:
        while True:
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._master_gone(sock)
                return
            self._master_said(json.loads(data))

    def _master_said(self, message: dict[str, Any]) -> None:
        if message["op"] == "ready":
            self._ready.set()
            return
        entry = self._workers.get(message["id"])
        if entry is None:
            return
        worker, order = entry
        if message["op"] == "started":
            worker.started(message["pid"], order)
        elif message["op"] == "exited":
            self._workers.pop(message["id"], None)
            worker.exited(message["code"], message["signal"])

    def _master_gone(self, sock: socket.socket) -> None:
        """Its workers died with it."""
        self.io.loop.remove_reader(sock)
        with self._lock:
            sock.close()
            master, self._master = self._master, None
            if master is not None:
                master.kill()  # it may have closed its socket without ending
                master.wait()
            workers, self._workers = list(self._workers.values()), {}
        if not self._closing:
            log.error("the python-master (pid %s) died; it and its workers are being replaced", master and master.pid)
        for worker, _ in workers:
            worker.exited(0, signal.SIGKILL)

    def tell_master(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> bool:
        """Sends one order; False when the master is gone. [any thread]"""
        sock = self._sock
        if sock is None:
            return False
        try:
            socket.send_fds(sock, [json.dumps(message).encode()], list(fds))
        except OSError as error:
            log.debug("cannot reach the python-master: %s", error)
            return False
        return True

    # ---- workers ------------------------------------------------------------------------------------------

    def spawn(self, worker: Worker, order: bytes, title: str, env: dict[str, str]) -> None:
        """Has the master fork a process for `worker`. Not on the I/O thread. Raises UnitError."""
        self._ensure_master()
        number = next(self._numbers)

        def kill(which: int) -> None:
            self.tell_master({"op": "kill", "id": number, "signal": int(which)})

        worker.kill = kill
        self._workers[number] = (worker, order)
        message = {"op": "spawn", "id": number, "title": title, "env": env}
        if not self.tell_master(message, (worker.remote.fileno(), worker.output.write_fd)):
            self._workers.pop(number, None)
            raise UnitError("the python-master is gone")

    def start_group(
        self,
        unit: UnitSpec,
        node: str,
        job: str,
        config: dict[str, str],
        *,
        workers: int,
        open_timeout_s: float,
        process_timeout_ms: int = 0,
        on_room: Callable[[], None],
        on_external: External | None = None,
        room: tuple[int, int] = (0, 0),
    ) -> WorkerGroup:
        """Starts the workers of a node; returns when every one has opened its unit. Raises UnitError.

        `on_room()` tells that a worker may take more, `on_external()` brings what a source unit sends; I/O thread.
        `room`: how many lists of a source unit may wait for their calls, and how many bytes in them.
        """
        group = WorkerGroup(self, unit, node, job, config, workers, process_timeout_ms, on_room, on_external, room)
        group.start(open_timeout_s)
        return group

    def close(self, timeout_s: float) -> None:
        """Ends the master (and with it whatever still runs)."""
        with self._lock:
            self._closing = True
            master, sock = self._master, self._sock
        if master is None or sock is None:
            return
        with contextlib.suppress(OSError):  # gone already
            sock.shutdown(socket.SHUT_RDWR)  # its end of file
        try:
            master.wait(timeout_s)
        except subprocess.TimeoutExpired:
            master.kill()
            master.wait()


class WorkerGroup:
    """The workers of one node. Dead ones are replaced, with growing delay when they die young."""

    def __init__(
        self,
        pool: WorkerPool,
        unit: UnitSpec,
        node: str,
        job: str,
        config: dict[str, str],
        workers: int,
        process_timeout_ms: int,
        on_room: Callable[[], None],
        on_external: External | None = None,
        room: tuple[int, int] = (0, 0),
    ) -> None:
        self._pool = pool
        self._on_external = on_external
        self._unit = unit
        self._node = node
        self._job = job
        self._about = {"job": job, "node": node}  # fields of log lines
        self._count = workers
        self._timeout_ms = process_timeout_ms
        self._on_room = on_room
        self._changed = threading.Condition()
        self._closing = False
        self._open = False
        self._delay_s = FIRST_DELAY_S
        self._born: dict[Worker, float] = {}
        self._failure: str | None = None
        self.workers: list[Worker] = []
        self.restarts = 0
        self._order = json.dumps(
            {
                "node": node,
                "toml": unit.path,
                "entry": unit.entry,
                "config": config,
                "inputs": [port.name for port in unit.inputs],
                "outputs": [port.name for port in unit.outputs],
                "role": unit.role if unit.inputs else "source",
                "framed": unit.flow_type is FlowType.STREAM or unit.collapse,
                "room": room,
            }
        ).encode()

    def start(self, timeout_s: float) -> None:
        """Starts all workers and waits for them. Raises UnitError with the unit's own reason."""
        try:
            for number in range(self._count):
                self._spawn(number)
            with self._changed:
                arrived = self._changed.wait_for(
                    lambda: self._failure is not None or all(worker.ready for worker in self.workers), timeout_s
                )
            if self._failure is not None:
                raise UnitError(f"node '{self._node}': unit '{self._unit.name}' did not open: {self._failure}")
            if not arrived:
                raise UnitError(
                    f"node '{self._node}': unit '{self._unit.name}' did not open within {timeout_s:g} s",
                    hint="[python] open_timeout_s",
                )
        except BaseException:
            self.close(1.0)
            raise
        self._open = True

    def _spawn(self, number: int) -> None:
        name = f"{self._job}/{self._node}#{number}"
        worker = Worker(name, number, self._pool.io, self._pool.memory, self._timeout_ms)
        worker.on_ready = self._ready
        worker.on_lost = self._lost
        worker.on_room = self._room
        if self._on_external is not None:
            worker.on_external = self._on_external
        self._born[worker] = time.monotonic()
        share = str(max(1, cpu_count() // self._count))
        self.workers = [other for other in self.workers if other.number != number] + [worker]
        env = dict.fromkeys(THREAD_VARIABLES, share)
        self._pool.spawn(worker, self._order, f"modelbox: python-worker {name}", env)

    # ---- called by workers (I/O thread) -----------------------------------------------------------------------

    def _room(self) -> None:
        if not self._closing:
            self._on_room()

    def _ready(self, worker: Worker) -> None:
        log.info("python worker %s is ready (pid %d)", worker.name, worker.pid, extra=self._about)
        with self._changed:
            self._changed.notify_all()

    def _lost(self, worker: Worker, reason: str) -> None:
        born = self._born.pop(worker, 0.0)
        if self._closing:
            with self._changed:
                self._changed.notify_all()
            return
        if not self._open:
            with self._changed:
                self._failure = worker.failure or reason
                self._changed.notify_all()
            return
        self.restarts += 1
        if time.monotonic() - born > QUICK_DEATH_S:
            self._delay_s = FIRST_DELAY_S
        delay, self._delay_s = self._delay_s, min(self._delay_s * 2, LAST_DELAY_S)
        log.error("%s; it is replaced in %.1f s", worker.failure or reason, delay, extra=self._about)
        self._pool.io.loop.call_later(delay, self._replace, worker.number)

    def _replace(self, number: int) -> None:
        # Starting may wait for the master, which the I/O thread must not do.
        threading.Thread(target=self._replace_now, args=(number,), name="mb-respawn", daemon=True).start()

    def _replace_now(self, number: int) -> None:
        if self._closing:
            return
        try:
            self._spawn(number)
        except ModelBoxError as error:
            log.error("node '%s': cannot replace a worker: %s", self._node, error, extra=self._about)
            self._pool.io.call(self._pool.io.loop.call_later, RETRY_DELAY_S, self._replace, number)

    # ---- for the engine ------------------------------------------------------------------------------------------

    def pick(self) -> Worker | None:
        """The worker with room and the least to do; None when none has room. [any thread]"""
        best: Worker | None = None
        for worker in self.workers:
            if worker.has_room() and (best is None or worker.outstanding() < best.outstanding()):
                best = worker
        return best

    def free(self) -> int:
        """How many workers have room. [any thread]"""
        return sum(worker.has_room() for worker in self.workers)

    def close(self, timeout_s: float) -> None:
        """Lets the workers close their units, kills what is still there after `timeout_s`."""
        self._closing = True
        for worker in self.workers:
            worker.stop()
        if self._pool.io.is_current():
            raise RuntimeError("close() would wait for its own thread")
        with self._changed:
            self._changed.wait_for(lambda: not any(worker.alive for worker in self.workers), timeout_s)
        for worker in self.workers:
            if worker.alive:
                text = "python worker %s (pid %d) did not end within %.1f s"
                log.warning(text, worker.name, worker.pid, timeout_s, extra=self._about)
                worker.kill(signal.SIGKILL)
        with self._changed:
            self._changed.wait_for(lambda: not any(worker.alive for worker in self.workers), timeout_s)
