"""The HTTP units without an engine: a fake Entry behind them, real sockets before them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelbox._core.memory import Pool
from modelbox.buffer import Buffer, BufferList
from modelbox.configuration import Configuration
from modelbox.device import CPU
from modelbox.errors import ModelBoxError, Where
from modelboxd.drivers.unit_toml import read_unit
from modelboxd.engine.engine import load_builtin
from modelboxd.engine.unit import Services
from modelboxd.graph.model import Node
from modelboxd.loop import IoThread
from modelboxd.server.listener import Handler, Listeners, Route, Tls

LIMIT_S = 30.0
UNITS = Path(__file__).resolve().parents[3] / "flowunits"


class FakeSession:
    """A session that only its test drives on."""

    def __init__(self, private: dict[str, Any], on_end: Callable[[Any], None] | None) -> None:
        self.id = "fake"
        self.private = private
        self.error: ModelBoxError | None = None
        self.ended = False
        self.cancelled = threading.Event()
        self._on_end = on_end

    def end(self, error: ModelBoxError | None = None) -> None:
        if not self.ended:
            self.ended = True
            self.error = error
            if self._on_end is not None:
                self._on_end(self)

    def cancel(self, reason: ModelBoxError) -> None:
        self.end(reason)
        self.cancelled.set()


@dataclass
class FakeEntry:
    """What arrives goes to `work`, on the I/O thread; sessions are kept for the test to look at."""

    work: Callable[[FakeSession, Buffer], None]
    refuse: Callable[[], ModelBoxError] | None = None
    sessions: list[FakeSession] = field(default_factory=list)
    trouble: list[tuple[str, str]] = field(default_factory=list)
    opened: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def open(self, private: Any = None, on_end: Any = None) -> FakeSession:
        if self.refuse is not None:
            raise self.refuse()
        session = FakeSession(private or {}, on_end)
        self.sessions.append(session)
        self.opened.release()
        return session

    def send(self, session: Any, port: str, buffers: Sequence[Buffer], *, end: bool = False) -> None:
        for buffer in buffers:
            self.work(session, buffer)

    def send_list(self, session: Any, port: str, items: Any, *, end: bool = False) -> None:
        assert (port, items.count, end) == ("out_request_info", 1, True)
        self.send(session, port, list(BufferList.from_core(items)))

    def has_room(self) -> bool:
        return True

    def troubles(self) -> list[tuple[str, str]]:
        return self.trouble

    def wait_session(self) -> FakeSession:
        """The next session that a request opened."""
        assert self.opened.acquire(timeout=LIMIT_S)
        return self.sessions[-1]


class Bench:
    """Makes units on one I/O thread and one set of listeners."""

    def __init__(self, *, bodies_limit: int = 0) -> None:
        self.io = IoThread()
        self.io.start()
        self.pool = Pool(guard_all=True)
        self.listeners = Listeners(self.io, close_timeout_s=0.5, bodies_limit=bodies_limit)
        self.services = Services("job", self.pool, self.io, self.listeners, 2, 2)
        self._started: list[Any] = []
        self._routes: list[Route] = []

    def unit(self, name: str, **options: object) -> Any:
        spec = read_unit(UNITS / name / f"{name}.toml", builtin_dir=UNITS)
        assert spec is not None
        texts = {key: str(value) for key, value in options.items()}
        node = Node(name.rpartition("_")[2], spec, Where("g.toml", 3), texts, 1, {}, 1)
        return load_builtin(spec)(node, Configuration(texts), self.services)

    def serve(
        self,
        work: Callable[[FakeSession, Buffer], None] | None = None,
        *,
        kind: str = "httpserver_sync_receive",
        reply: dict[str, object] | None = None,
        **options: object,
    ) -> tuple[Any, FakeEntry]:
        """A started source; without `work` the reply unit sends each body back."""
        options.setdefault("endpoint", "http://127.0.0.1:0/v1")
        unit = self.unit(kind, **options)
        back = self.unit("httpserver_sync_reply", **(reply or {}))

        def echo(session: FakeSession, buffer: Buffer) -> None:
            self.hand(back, session, Buffer(CPU, buffer.as_bytes()))

        entry = FakeEntry(work or echo)
        unit.open()
        unit.start(entry)
        self._started.append(unit)
        return unit, entry

    def listen(
        self, port: int, prefix: str, handler: Handler, host: str = "127.0.0.1", tls: Tls | None = None
    ) -> Route:
        """A route that is released at the end of the test."""
        self._routes.append(self.listeners.acquire(host, port, prefix, handler, tls=tls))
        return self._routes[-1]

    def answer(self, session: FakeSession, buffer: Buffer, **options: object) -> None:
        """Hands a buffer to a reply unit. [any thread]"""
        self.hand(self.unit("httpserver_sync_reply", **options), session, buffer)

    def hand(self, unit: Any, session: FakeSession, buffer: Buffer) -> None:
        """As the engine does it."""
        unit.receive(session, self.core(buffer))

    def core(self, buffer: Buffer) -> Any:
        """A core list of one buffer."""
        return BufferList([buffer]).to_core(self.pool)

    def close(self) -> None:
        for unit in self._started:
            unit.stop()
            unit.close()
        for route in self._routes:
            self.listeners.release(route)
        self.io.stop()
        live = self.pool.stats().live_buffers
        assert live == 0, f"{live} buffers were never released"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A connection on which a test writes bytes as it likes."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self._file = self.sock.makefile("rb")

    def send(self, data: bytes) -> Client:
        self.sock.sendall(data)
        return self

    def post(self, body: bytes = b"", path: str = "/v1", method: str = "POST", headers: str = "") -> Answer:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return self.send(head.encode() + body).answer()

    def answer(self) -> Answer:
        """The next answer; its length must be told."""
        line = self._file.readline().split()
        assert line, "the server closed the connection without an answer"
        headers = {}
        while (text := self._file.readline().strip()) != b"":
            name, _, value = text.decode("latin-1").partition(":")
            headers[name] = value.strip()
        return Answer(int(line[1]), headers, self._file.read(int(headers.get("Content-Length", "0"))))

    def at_end(self) -> bool:
        """Waits until the server closes; False when it sends something first."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
