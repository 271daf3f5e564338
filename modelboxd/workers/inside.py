"""Units inside the server's own process (`[python] workers = 0`), for debuggers.

All units run on one thread, the main one, so that pdb, breakpoint() and an IDE work, with the terminal's input and
output. They speak the same protocol over a socket as workers in processes do, so that nothing else differs. Nothing
protects the server from them, nor them from each other: for development only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from modelboxd.workers.pool import WorkerPool

if TYPE_CHECKING:
    from modelboxd.workers import worker as worker_module
    from modelboxd.workers.process import Worker


class Waker:
    """An event that also ends a select(), without a lock: signal handlers set it, in the middle of anything."""

    def __init__(self) -> None:
        self._is_set = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def is_set(self) -> bool:
        """Whether it was set since the last clear()."""
        return self._is_set

    def clear(self) -> None:
        """Forgets that it was set."""
        self._is_set = False

    def set(self) -> None:
        """Ends sleep() and a select() on it. [any thread, signal handlers]"""
        self._is_set = True
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            return  # it is full of them

    def set_on_signals(self) -> None:
        """Ends sleep() with every signal that Python handles. A signal that comes just before the main thread goes to
        sleep, or that another thread gets, would not be heard else. [main thread]"""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def sleep(self) -> None:
        """Until set(), or a signal after set_on_signals()."""
        select.select([self._read], [], [])
        self.drain()

    def fileno(self) -> int:
        """Becomes readable with set(); for select()."""
        return self._read

    def drain(self) -> None:
        """Forgets what made it readable."""
        while True:
            try:
                if len(os.read(self._read, 4096)) < 4096:
                    return
            except BlockingIOError:
                return


class Inside:
    """The units of this process. serve() runs them, on the thread that calls it."""

    def __init__(self) -> None:
        self._new: deque[tuple[WorkerPool, Worker, bytes, socket.socket]] = deque()
        self._units: dict[socket.socket, tuple[WorkerPool, Worker, worker_module.Worker]] = {}
        self._news = Waker()

    def add(self, pool: WorkerPool, worker: Worker, order: bytes) -> None:
        """A unit that serve() makes. [any thread]"""
        self._new.append((pool, worker, order, worker.remote.dup()))
        self._news.set()

    def serve(self, until: Waker) -> None:
        """Runs units until the event is set."""
        while not until.is_set():
            places: list[Any] = [until, self._news, *self._units]
            readable, _, _ = select.select(places, [], [])
            if until in readable:
                until.drain()
            if self._news in readable:
                self._news.drain()
                self._take_new()
            for sock in readable:
                if sock in self._units:
                    self._turn(sock)

    def _take_new(self) -> None:
        from modelboxd.workers import worker as worker_module

        while self._new:
            pool, worker, order, sock = self._new.popleft()
            self._units[sock] = (pool, worker, worker_module.Worker(sock))
            pool.io.call(worker.started, os.getpid(), order)

    def _turn(self, sock: socket.socket) -> None:
        pool, worker, end = self._units[sock]
        end.enter()
        try:
            code = end.serve_one()
        except (BrokenPipeError, ConnectionResetError):
            code = 0
        if code is not None:
            del self._units[sock]
            sock.close()
            pool.io.call(worker.exited, code, 0)


class InsidePool(WorkerPool):
    """A pool whose workers are units of this process."""

    inside: Inside

    def spawn(self, worker: Worker, order: bytes, title: str, env: dict[str, str]) -> None:
        """Has serve() make the unit; `env` is not set, since it would be for all."""
        self.inside.add(self, worker, order)

    def close(self, timeout_s: float) -> None:
        """There is no process to end."""
