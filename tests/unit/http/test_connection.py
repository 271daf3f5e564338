"""Plain requests past aiohttp's handlers: the same answers, and every way out of the plain case."""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Callable

import pytest

from modelbox.buffer import Buffer
from modelbox.device import CPU
from modelbox.errors import ShutdownError
from modelboxd.server import listener
from modelboxd.server.answer import Headers
from modelboxd.server.connection import HELD_MAX
from tests.unit.http.fake import LIMIT_S, Bench, Client, FakeSession
from tests.waiting import wait_for

HEAD = "POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n"


def request(body: bytes, headers: str = "") -> bytes:
    return HEAD.format(len(body), headers).encode() + body


def hold(session: FakeSession, buffer: Buffer) -> None:
    """A graph that answers when its test does."""


class Handled:
    """Counts the requests of a unit that went through aiohttp."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        plain = listener._Port._dispatch

        async def dispatch(port: listener._Port, request: object) -> object:
            self.count += 1
            return await plain(port, request)  # type: ignore[arg-type]

        monkeypatch.setattr(listener._Port, "_dispatch", dispatch)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Handled:
    return Handled(monkeypatch)


# ---- the same as aiohttp ---------------------------------------------------------------------------------------


def tell(bench: Bench) -> Callable[[FakeSession, Buffer], None]:
    """A graph that answers with what it got, or as the body asks for."""

    def work(session: FakeSession, buffer: Buffer) -> None:
        body = bytes(buffer.as_bytes())
        if body == b"fail":
            session.end(ShutdownError("stopped"))
            return
        made = Buffer(CPU, f"{sorted(buffer.meta_dict().items())} {body!r}")
        if body == b"error":
            made.set_error("Unit.Bad", "bad")
        elif body.isdigit():
            made.set("status", int(body))
        elif body == b"headers":
            made.set("headers", {"X-Made": "é\t1", "server": "mine", "Date": "today", "content-type": "a/b"})
        bench.answer(session, made)

    return work


REQUESTS = [
    request(b""),
    request(b"hello"),
    request(b"x" * 5000),
    request(b"hello", "Connection: close\r\n"),
    request(b"hello", "Connection: keep-alive\r\n"),
    request(b"204"),
    request(b"304"),
    request(b"205"),
    request(b"404"),
    request(b"599"),
    request(b"600"),
    request(b"204", "Connection: close\r\n"),
    request(b"error"),
    request(b"fail"),
    request(b"headers"),
    request(b"x" * 10001),
    request(b"x", "X-Two: 1\r\nX-Two: 2\r\nX-Byte: \xe9\r\nX-Empty:\r\nX-Space:  a  \r\n"),
    request(b"x", "Content-Encoding: gzip\r\n"),
    request(b"x", "Upgrade: h2c\r\n"),
    request(b"x", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
    request(b"x", "Expect: 100-continue\r\n"),
    b"GET /v1?a=%20b&c#d HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/%2e%2e/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health?x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"PUT /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx",
    b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PATCH /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
    b"GET /v1 HTTP/1.0\r\n\r\n",
    b"GET /v1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /v1 HTTP/1.1\r\n\r\n",
    b"\r\nGET /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    # Two opinions about where a request ends.
    request(b"5", "Transfer-Encoding: chunked\r\n"),
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    request(b"5", "Content-Length: 1\r\n"),
    request(b"5", "Content-Length: 2\r\n"),
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1 \r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\n Content-Length: 1\r\n\r\nx",
    b"POST /v1 HTTP/1.1\r\nHost: x\n\nGET /v1/inner HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1 HTTP/1.1\nHost: x\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"POST  /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
]
CLOSING = b"GET /v1/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def exchange(port: int, data: bytes) -> bytes:
    """All that a server says to these bytes and a last request, without what the time of day changes."""
    with Client(port) as client:
        client.send(data if b"Connection: close" in data else data + CLOSING)
        received = b""
        while True:
            try:
                piece = client.sock.recv(65536)
            except ConnectionResetError:  # closed with bytes of ours unread
                break
            if not piece:
                break
            received += piece
    # In any order, as headers may be.
    return b"\r\n".join(sorted(re.sub(rb"Date: [A-Z][a-z]{2}, [^\r]* GMT", b"Date", received).split(b"\r\n")))


def test_plain_requests_are_answered_as_by_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[bytes]] = []
    handled = Handled(monkeypatch)
    counts = []
    for plain in (True, False):
        if not plain:

            def refuse(loop: object) -> None:
                raise TypeError("another parser")

            monkeypatch.setattr(listener, "HeadReader", refuse)
        bench = Bench()
        unit, _ = bench.serve(tell(bench), max_body_size=10_000)
        said.append([exchange(unit.port, data) for data in REQUESTS])
        counts.append(handled.count)
        bench.close()
    for data, ours, theirs in zip(REQUESTS, *said, strict=True):
        assert ours == theirs, data
    assert counts[0] < counts[1] - counts[0]  # the first server has left most of them out


# ---- pieces -----------------------------------------------------------------------------------------------------


def test_a_request_in_pieces(bench: Bench, handled: Handled) -> None:
    unit, entry = bench.serve()
    data = request(b"hello")
    with Client(unit.port) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            client.send(data[at : at + 1])
        assert client.answer().body == b"hello"
        for cut in range(1, len(data)):
            client.send(data[:cut])
            client.send(data[cut:])
            assert client.answer().body == b"hello"
    assert len(entry.sessions) == len(data)
    assert handled.count == 0
    assert unit.in_flight == 0


def test_a_large_body_in_pieces_and_the_next_request_behind_it(bench: Bench, handled: Handled) -> None:
    unit, _ = bench.serve()
    large = bytes(range(256)) * 20_000
    with Client(unit.port) as client:
        client.send(request(large) + request(b"next"))
        assert client.answer().body == large
        assert client.answer().body == b"next"
    assert handled.count == 0


def test_an_answer_before_the_end_of_the_body_is_read_by_a_client_that_goes_on(bench: Bench) -> None:
    """Closing with bytes unread would reset the connection, and the answer would be lost."""
    unit, entry = bench.serve(time_out_ms=50)
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 1000)
        assert client._file.peek(1)  # it has answered
        for _ in range(20):
            client.send(b"x" * 500_000)
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (408, "close")
        assert client.at_end()
    assert entry.sessions == []
    assert unit.in_flight == 0


def test_many_requests_behind_one_that_waits(bench: Bench, handled: Handled) -> None:
    """They are not run before their turn, and no more of them is kept than was promised."""
    unit, entry = bench.serve(hold, time_out_ms=60_000)
    count = 4 * HELD_MAX // 1000
    bodies = [b"%d" % number + b"x" * 1000 for number in range(count)]
    with Client(unit.port) as client:
        sender = threading.Thread(target=lambda: client.send(b"".join(request(body) for body in bodies)))
        sender.start()
        for number in range(count):
            session = entry.wait_session()
            assert len(entry.sessions) == number + 1
            bench.answer(session, Buffer(CPU, f"{number}"))
            assert client.answer().body == b"%d" % number
        sender.join()
    assert handled.count == 0


def test_requests_behind_the_last_one(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        client.send(request(b"last", "Connection: close\r\n") + request(b"never"))
        answer = client.answer()
        assert (answer.body, answer.headers["Connection"]) == (b"last", "close")
        assert client.at_end()
    assert len(entry.sessions) == 1


# ---- lent and taken back ------------------------------------------------------------------------------------------


def test_odd_requests_do_not_slow_down_the_connection_for_ever(bench: Bench, handled: Handled) -> None:
    unit, _ = bench.serve()
    with Client(unit.port) as client:
        for number in range(3):
            assert client.post(b"x", method="OPTIONS").status == 405
            assert client.post(b"x", path="/none").status == 404
            client.send(HEAD.format(3, "Expect: 100-continue\r\n").encode())
            assert client.answer().status == 100
            assert client.send(b"odd").answer().body == b"odd"
            assert handled.count == 3 * (number + 1)
            for _ in range(3):
                assert client.post(b"plain").body == b"plain"
            assert handled.count == 3 * (number + 1)


def test_a_body_without_a_length_keeps_aiohttp(bench: Bench, handled: Handled) -> None:
    unit, _ = bench.serve()
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        client.send(b"\r\n" + request(b"next"))
        assert client.answer().body == b"abc"
        assert client.answer().body == b"next"
        assert client.post(b"more").body == b"more"
    assert handled.count == 3


def test_units_that_come_and_go(bench: Bench) -> None:
    """What is known of a head goes with the unit that it was for."""
    first, _ = bench.serve()
    second, entry = bench.serve(endpoint=f"http://127.0.0.1:{first.port}/v1/below")
    with Client(first.port) as client:
        assert client.post(b"x", path="/v1/below").body == b"x"
        assert len(entry.sessions) == 1
        second.close()
        assert client.post(b"x", path="/v1/below").body == b"x"
        assert len(entry.sessions) == 1


def test_verdicts_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEADS_KEPT", 5)
    unit, _ = bench.serve()
    (port,) = bench.listeners._ports.values()
    with Client(unit.port) as client:
        for number in range(12):
            assert client.post(b"x", path=f"/v1?{number}").body == b"x"
            assert len(port._heads) <= 5
        kept = len(port._heads)
        assert client.post(b"x", headers=f"X: {'v' * 3000}\r\n").body == b"x"
        assert len(port._heads) == kept


# ---- ends -----------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_while_its_body_comes(bench: Bench) -> None:
    unit, entry = bench.serve(time_out_ms=60_000)
    with Client(unit.port) as client:
        client.send(request(b"x" * 100)[:-1])
        with Client(unit.port) as other:
            while not unit.in_flight:
                other.post(path="/v1/health", method="GET")
            client.close()
            while unit.in_flight:
                other.post(path="/v1/health", method="GET")
    assert not entry.sessions


def test_a_body_that_comes_while_the_unit_stops(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client, Client(unit.port) as other:
        client.send(request(b"hello")[:-1])
        while not unit.in_flight:
            other.post(path="/v1/health", method="GET")
        unit.stop()
        client.send(b"o")
        assert client.answer().body == b"hello"
        assert client.post(b"more").status == 503
        assert client.at_end()
    assert len(entry.sessions) == 1


def test_closing_cuts_off_a_body_that_does_not_come(bench: Bench) -> None:
    unit, _ = bench.serve(time_out_ms=60_000)
    with Client(unit.port) as client, Client(unit.port) as other:
        client.send(request(b"hello")[:-1])
        while not unit.in_flight:
            other.post(path="/v1/health", method="GET")
        unit.close()
        assert client.at_end()
    assert unit.in_flight == 0


def test_closing_tells_those_who_have_just_come(bench: Bench) -> None:
    """Between the connection and its first request, or in the middle of its head."""
    unit, entry = bench.serve()
    (port,) = bench.listeners._ports.values()
    with Client(unit.port) as new, Client(unit.port) as part, Client(unit.port) as silent, Client(unit.port) as used:
        part.send(request(b"x")[:20])
        wait_for(lambda: [connection._held for connection in port.connections].count(b"") == 3)
        assert used.post(b"x").body == b"x"
        closing = threading.Thread(target=unit.close)
        closing.start()
        assert used.at_end()
        new.send(request(b"x"))
        part.send(b"x" * 1000)  # it goes on, and reads its answer all the same
        for client in (new, part):
            answer = client.answer()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert client.at_end()
        assert silent.at_end()
        closing.join(LIMIT_S)
        assert not closing.is_alive()
    assert len(entry.sessions) == 1


def test_closing_waits_for_answers(bench: Bench) -> None:
    bench.listeners._close_timeout_s = LIMIT_S
    unit, entry = bench.serve(hold)
    with Client(unit.port) as client, Client(unit.port) as used:
        assert used.post(b"x", method="OPTIONS").status == 405  # aiohttp knows this connection
        sessions = []
        for one in (client, used):
            one.send(request(b"x"))
            sessions.append(entry.wait_session())
        closer = threading.Thread(target=unit.close)
        closer.start()
        while True:  # nobody listens any more
            try:
                socket.create_connection(("127.0.0.1", client.sock.getpeername()[1])).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:  # it was closing just then
                continue
        for session in sessions:
            bench.answer(session, Buffer(CPU, "done"))
        for one in (client, used):
            assert one.answer().body == b"done"
            assert one.at_end()
        closer.join()


def test_a_client_that_does_not_read(bench: Bench) -> None:
    """Its next request waits until it has taken its answer."""
    large = Buffer(CPU, b"x" * 30_000_000)
    unit, entry = bench.serve(lambda session, buffer: bench.answer(session, large))
    with Client(unit.port) as client:
        client.send(b"".join(request(b"%d" % number) for number in range(5)))
        entry.wait_session()
        assert select.select([client.sock], [], [], LIMIT_S)[0]
        with Client(unit.port) as other:
            for _ in range(20):
                assert other.post(path="/v1/health", method="GET").status == 200
        assert len(entry.sessions) == 1
        for _ in range(5):
            assert len(client.answer().body) == 30_000_000
    assert len(entry.sessions) == 5


# ---- time -----------------------------------------------------------------------------------------------------------


def test_heads_that_stop_coming(bench: Bench) -> None:
    bench.listeners._head_timeout_s = 0.05
    unit, entry = bench.serve()
    chunked = b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    for before in (b"", request(b"x"), chunked):
        for piece in (b"PO", b"POST /v1 HTTP/1.1\r\nHost: x\r\n", b"OPTIONS /v1 HTTP/1.1\r\n"):
            with Client(unit.port) as client:
                if before:
                    client.send(before)
                    assert client.answer().status == 200
                client.send(piece)
                answer = client.answer()
                assert (answer.status, answer.headers["Connection"]) == (408, "close")
                assert client.at_end()
    assert len(entry.sessions) == 6


def test_a_head_that_drips(bench: Bench) -> None:
    """Every byte in time is not enough."""
    bench.listeners._head_timeout_s = 0.2
    unit, _ = bench.serve()
    for start in (b"POST /v1 HTTP/1.1\r\nX: ", b"OPTIONS /v1 HTTP/1.1\r\nX: "):
        with Client(unit.port) as client:
            client.send(start)
            while not select.select([client.sock], [], [], 0.01)[0]:
                client.send(b"x")
            assert client.sock.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("before", [b"", request(b"x"), b"OPTIONS /v1 HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_idle_connections_are_closed(bench: Bench, before: bytes) -> None:
    unit, _ = bench.serve(keepalive_timeout_sec=1)
    with Client(unit.port) as client:
        if before:
            client.send(before)
            client.answer()
        assert client.at_end()


def test_a_connection_that_waits_for_its_answer_is_not_idle(bench: Bench) -> None:
    unit, entry = bench.serve(hold, keepalive_timeout_sec=1, time_out_ms=60_000)
    with Client(unit.port) as client, Client(unit.port) as odd, Client(unit.port) as idle:
        client.send(request(b"x"))
        sessions = [entry.wait_session()]
        odd.send(HEAD.format(1, "Expect: 100-continue\r\n").encode())
        assert odd.answer().status == 100
        odd.send(b"x")
        sessions.append(entry.wait_session())
        assert idle.at_end()
        with Client(unit.port) as idle_too:
            assert idle_too.at_end()
        for session, one in zip(sessions, (client, odd), strict=True):
            bench.answer(session, Buffer(CPU, "late"))
            assert one.answer().body == b"late"


def test_deadlines_one_by_one(bench: Bench) -> None:
    unit, entry = bench.serve(hold, time_out_ms=100)
    clients = [Client(unit.port) for _ in range(5)]
    for client in clients:
        client.send(request(b"x"))
        entry.wait_session()
    bench.answer(entry.sessions[1], Buffer(CPU, "in time"))
    statuses = [client.answer().status for client in clients]
    assert statuses in ([408, 200, 408, 408, 408], [408] * 5)
    assert [session.cancelled.wait(LIMIT_S) for session in entry.sessions if session.error]
    for client in clients:
        assert client.post(b"x").status == 408
        client.close()
    assert unit.in_flight == 0


# ---- the form of answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"X": "a\r\nY: b"},
        {"X": "a\nb"},
        {"X\r\nY": "b"},
        {"X": "a\0"},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
        {"CONNECTION": "close"},
    ],
)
def test_headers_that_would_break_an_answer(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        Headers(fields)


def test_reply_meta_again_and_again(bench: Bench) -> None:
    """What a block of meta means is kept, and belongs to that block."""
    number = iter(range(1000))

    def work(session: FakeSession, request: Buffer) -> None:
        made = Buffer(CPU, "x")
        made.set("status", 200 + next(number) % 3)
        made.set("headers", {"X-Number": str(made.get("status"))})
        back.receive(session, bench.core(made))

    back = bench.unit("httpserver_sync_reply")
    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        for turn in range(9):
            answer = client.post(b"x")
            assert answer.status == 200 + turn % 3
            assert answer.headers["X-Number"] == str(answer.status)
