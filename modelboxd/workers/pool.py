"""The worker pool: the python-master, which forks workers and says how they ended."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from modelbox._core.memory import Pool
from modelbox.errors import UnitError
from modelbox.spec import UnitSpec
from modelbox.version import VERSION
from modelboxd.graph.life import Life
from modelboxd.loop import IoThread
from modelboxd.workers import interpreter, marks
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.process import ROOM_HINT, External, Worker
from modelboxd.workers.stacks import SIGNAL, Asked, StackFile
from modelboxd.workers.title import ROOM

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
MSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
DROPPED_S = 0.25  # after which those that have nothing to do hear of memory that others have given back
COLLECT_EVERY = 64  # workers that are gone
FORK_LIMIT_S = 30.0  # a master that takes longer to fork is replaced, and all its workers with it


class WorkerPool:
    """Starts the python-master on first use and workers through it. One per daemon."""

    master_module = "modelboxd.workers.master"  # tests put one in its place whose workers misbehave

    def __init__(self, io: IoThread, memory: Pool, *, python: str = sys.executable) -> None:
        self.io = io
        self.memory = memory
        self._python = python
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._master: subprocess.Popen[bytes] | None = None
        self._mark = ""  # of the master and all that comes of it
        self._sock: socket.socket | None = None
        self._ready = threading.Event()
        self._workers: dict[int, tuple[Worker, bytes]] = {}
        self._stack_files: dict[int, StackFile] = {}  # by the number of the worker
        self._forgotten = 0  # workers that are gone
        self._master_stacks: StackFile | None = None
        self._closing = False
        self._telling = False  # _tell_dropped() will be called
        self.on_dropped: Callable[[], None] = self.forget_gone  # of several pools: forget_gone() of all

    # ---- the master -------------------------------------------------------------------------------------

    def _ensure_master(self) -> None:
        with self._lock:
            if self._closing:
                raise UnitError("the worker pool is closed")
            if self._master is None:  # a dead one is cleared by _master_gone(), with its workers
                self._start_master()
        if not self._ready.wait(READY_TIMEOUT_S):
            raise UnitError(f"the python-master did not start within {READY_TIMEOUT_S:g} s ({self._python})")
        if self._master is None:
            raise UnitError(f"the python-master ended while it started ({self._python})")

    def _start_master(self) -> None:
        self._ready.clear()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = interpreter.environment(self._python)
        env.setdefault("OPENBLAS_NUM_THREADS", "1")  # a thread of its own would not survive fork()
        env.setdefault("PYTHONUNBUFFERED", "1")
        self._mark = secrets.token_hex(16)
        env.update(marks.for_master(self._mark))
        if self._master_stacks is None:
            self._master_stacks = StackFile()
        places = (theirs.fileno(), self._master_stacks.fd)
        arguments = [str(places[0]), str(os.getpid()), str(places[1]), ROOM]
        command = [*interpreter.command(self._python, self.master_module), *arguments]
        self._master = self._keep_process(command, places, env)
        theirs.close()
        ours.setblocking(False)
        self._sock = ours
        self.io.call(self._watch, ours)

    def _keep_process(self, command: list[str], fds: tuple[int, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Starts a process on a thread that lives as long as it does: its parent-death signal comes when the thread
        that has started it ends, not when the process does. Raises UnitError."""
        made: Future[subprocess.Popen[bytes]] = Future()

        def keep() -> None:
            try:
                process = subprocess.Popen(
                    command, pass_fds=fds, stdin=subprocess.DEVNULL, env=env, cwd="/", start_new_session=True
                )
            except BaseException as error:
                made.set_exception(error)
                return
            made.set_result(process)
            process.wait()

        threading.Thread(target=keep, name="mb-master", daemon=True).start()
        try:
            return made.result()
        except OSError as error:
            raise UnitError(f"cannot start the python-master ({self._python}): {error.strerror}") from None

    def _watch(self, sock: socket.socket) -> None:
        self.io.loop.add_reader(sock, self._master_readable, sock)

    def _master_readable(self, sock: socket.socket) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(sock, 65536, 1, MSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._master_gone(sock)
                return
            self._master_said(json.loads(data), fds[0] if fds else -1)

    def _master_said(self, message: dict[str, Any], pidfd: int) -> None:
        if message["op"] == "ready":
            if message["version"] != VERSION:
                text = "the python-master is of modelbox %s, this server of %s: its files were replaced; restart it"
                log.error(text, message["version"], VERSION)
            self._ready.set()
            return
        entry = self._workers.get(message["id"])
        if entry is None:
            if pidfd >= 0:
                os.close(pidfd)
            return
        worker, order = entry
        if message["op"] == "started":
            worker.started(message["pid"], order, pidfd)
        elif message["op"] == "unborn":
            self._forget(message["id"])
            worker.abandon(f"cannot be forked: {message['reason']} ({ROOM_HINT})")
        elif message["op"] == "stopped":
            worker.watchdog.set_stopped(message["signal"])
        elif message["op"] == "exited":
            self._forget(message["id"])
            worker.exited(message["code"], message["signal"])
            self.dropped()

    def _master_gone(self, sock: socket.socket) -> None:
        """Its workers died with it."""
        self.io.loop.remove_reader(sock)
        with self._lock:
            sock.close()
            master, self._master = self._master, None
            mark = self._mark
            self._ready.set()  # nobody need wait for it any more
            if master is not None:
                master.kill()  # it may have closed its socket without ending
                master.wait()
            workers = list(self._workers.values())
            for number in list(self._workers):
                self._forget(number)
        if not self._closing:
            log.error("the python-master (pid %s) died; it and its workers are being replaced", master and master.pid)
        for worker, _ in workers:
            if worker.pid and not worker.gone:
                with contextlib.suppress(ProcessLookupError):  # processes that it has started
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.orphaned()
        self._sweep(mark)

    def _sweep(self, mark: str) -> None:
        """Ends what the workers of a master that is gone have started, wherever it is."""
        try:
            threading.Thread(target=marks.kill_all_of, args=(mark,), name="mb-sweep", daemon=True).start()
        except RuntimeError:  # no threads left
            marks.kill_all_of(mark)

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

        worker.kill_by_master = kill
        stacks = self._stack_files[number] = StackFile()
        self._workers[number] = (worker, order)
        message = {"op": "spawn", "id": number, "title": title, "env": env}
        if not self.tell_master(message, (worker.remote.fileno(), worker.output.write_fd, stacks.fd)):
            self._forget(number)
            raise UnitError("the python-master is gone")
        self.io.call(self.io.loop.call_later, FORK_LIMIT_S, self._check_fork, number)

    def _check_fork(self, number: int) -> None:
        """A master that was told to fork long ago has done so, or is stuck."""
        entry = self._workers.get(number)
        if entry is not None and not entry[0].pid and self._master is not None:
            log.error("the python-master (pid %d) has not forked for %g s", self._master.pid, FORK_LIMIT_S)
            self._master.kill()

    def _forget(self, number: int) -> None:
        """Nothing comes of this worker any more."""
        self._workers.pop(number, None)
        stacks = self._stack_files.pop(number, None)
        if stacks is not None:
            stacks.close()
        # A worker's objects refer to each other, and what has lived long is seldom looked at (see daemon.py).
        self._forgotten += 1
        if self._forgotten % COLLECT_EVERY == 0:
            gc.collect()

    def count(self) -> int:
        """Workers that there are. [any thread]"""
        return len(self._workers)

    def asked(self) -> list[Asked]:
        """All processes that can be asked for their stacks. [any thread]"""
        found = []
        master, stacks = self._master, self._master_stacks
        if master is not None and stacks is not None and self._ready.is_set():
            found.append(Asked("python-master", master.pid, stacks, partial(master.send_signal, SIGNAL)))
        for number, (worker, _) in list(self._workers.items()):
            file = self._stack_files.get(number)
            if file is not None and worker.pid:
                found.append(Asked(f"python worker {worker.name}", worker.pid, file, partial(worker.kill, SIGNAL)))
        return found

    def dropped(self) -> None:
        """A worker has given back memory, or is gone: others may map it still. I/O thread."""
        if not self._telling:
            self._telling = True
            self.io.loop.call_later(DROPPED_S, self._tell_dropped)

    def _tell_dropped(self) -> None:
        self._telling = False
        self.on_dropped()

    def forget_gone(self) -> None:
        """Tells workers that have nothing to do which memory is gone, so that they do not hold on to it. Others hear
        of it with their next message. I/O thread."""
        for worker, _ in list(self._workers.values()):
            worker.forget_gone()

    def start_group(
        self,
        unit: UnitSpec,
        node: str,
        job: str,
        config: dict[str, str],
        *,
        open_timeout_s: float,
        life: Life,
        on_room: Callable[[], None],
        on_external: External | None = None,
        room: tuple[int, int] = (0, 0),
        device_ids: Sequence[str] = (),
        reread: Callable[[], tuple[UnitSpec, dict[str, str]]] | None = None,
    ) -> WorkerGroup:
        """Starts the workers of a node; returns when every one has opened its unit. Raises UnitError.

        `on_room()` tells that a worker may take more, `on_external()` brings what a source unit sends; I/O thread.
        `room`: how many lists of a source unit may wait for their calls, and how many bytes in them; 0 = any
        number. `device_ids`: GPUs of a unit for cuda, dealt out to the workers. `reread()`: unit and config anew, when
        files of the unit have changed; raises ModelBoxError. Called on a thread of its own.
        """
        group = WorkerGroup(
            self, unit, node, job, config, life, open_timeout_s, on_room, on_external, room, device_ids, reread
        )
        group.start()
        return group

    def close(self, timeout_s: float) -> None:
        """Ends the master (and with it whatever still runs)."""
        with self._lock:
            self._closing = True
            master, sock, mark = self._master, self._sock, self._mark
        if master is None or sock is None:
            return
        with contextlib.suppress(OSError):  # gone already
            sock.shutdown(socket.SHUT_WR)  # its end of file; ours, on which we kill it, comes when it has ended
        try:
            master.wait(timeout_s)
        except subprocess.TimeoutExpired:
            master.kill()
            master.wait()
            marks.kill_all_of(mark)
