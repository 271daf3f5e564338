"""httpserver_sync_receive and _async: what becomes a session, what is refused, and how."""

from __future__ import annotations

import gc
import logging
import socket
from typing import Any

import pytest

from modelbox.buffer import Buffer
from modelbox.device import CPU
from modelbox.errors import BusyError, ConfigError, OutOfMemoryError, ShutdownError, TimedOutError
from modelboxd.server import receive
from tests.unit.http.fake import LIMIT_S, Bench, Client, FakeSession
from tests.waiting import wait_for


def hold(session: FakeSession, buffer: Buffer) -> None:
    """A graph that never answers."""


def test_the_buffer_of_a_request(bench: Bench) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def look(session: FakeSession, buffer: Buffer) -> None:
        seen.append((buffer.as_object(), dict(buffer.meta_dict())))
        bench.answer(session, Buffer(CPU, "ok"))

    unit, _ = bench.serve(look)
    with Client(unit.port) as client:
        assert client.post(b"abc", "/v1/a%20b?c=%C3%A9", "PUT", "X-One: 1\r\nX-Two: \xe9\r\nX-Two: 3\r\n").body == b"ok"
        assert client.post(b"", "/v1/", "GET").status == 200
        assert client.post(b"x" * 300_000, "/v1", "DELETE").status == 200
    (text, meta), (empty, second), (large, third) = seen
    assert text == "abc"
    assert meta == {
        "size": 3,
        "method": "PUT",
        "uri": "/v1/a%20b?c=%C3%A9",
        "endpoint": "http://127.0.0.1:0/v1",
        "headers": {"Host": "x", "Content-Length": "3", "X-One": "1", "X-Two": "é, 3"},
    }
    assert (empty, second["size"], second["method"], second["uri"]) == ("", 0, "GET", "/v1/")
    assert (len(large), third["size"], third["method"]) == (300_000, 300_000, "DELETE")


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("/v1//x/%7e/../y?q=%20", "/v1//x/%7e/../y?q=%20"),
        ("//v1", "//v1"),
        ("/v1?a#b", "/v1?a"),
        ("http://other/v1?q=1", "/v1?q=1"),
    ],
)
def test_the_uri_is_what_was_sent(bench: Bench, target: str, uri: str) -> None:
    seen: list[str] = []

    def look(session: FakeSession, buffer: Buffer) -> None:
        seen.append(buffer.get("uri"))
        bench.answer(session, Buffer(CPU, "ok"))

    unit, _ = bench.serve(look, endpoint="http://127.0.0.1:0/")
    with Client(unit.port) as client:
        for way in (
            " HTTP/1.1\r\nHost: x",
            " HTTP/1.0\r\nConnection: keep-alive",
        ):  # directly, and by aiohttp's handler
            client.send(f"POST {target}{way}\r\nContent-Length: 0\r\n\r\n".encode())
            assert client.answer().status == 200
    assert seen == [uri, uri]


@pytest.mark.parametrize(("option", "value"), [("time_out_ms", 0), ("max_requests", 0), ("max_body_size", -1)])
def test_numbers_that_would_refuse_everything(bench: Bench, option: str, value: int) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.unit("httpserver_sync_receive", endpoint="http://127.0.0.1:0/", **{option: value})
    text = f"node 'receive': option {option}={value} is too small (at least {value + 1})"
    assert str(caught.value) == f"g.toml:3: {text}"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "HEAD", "PATCH"])
def test_other_methods(bench: Bench, method: str) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        client.send(f"{method} /v1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        if method == "HEAD":
            assert client.sock.recv(4096).startswith(b"HTTP/1.1 405 ")
            return
        answer = client.answer()
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST, PUT, GET, DELETE"
        assert client.post(b"next").body == b"next"
    assert len(entry.sessions) == 1


def test_health_is_the_exact_path(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        assert client.post(path="/v1/health", method="GET").body == b'{"status":200,"message":"success"}'
        assert not entry.sessions
        assert client.post(b"x", path="/v1/health/x").body == b"x"
        assert client.post(b"x", path="/v1/healthy").body == b"x"
        assert client.post(b"x", path="/health").status == 404
        assert client.post(b"x", path="/v10").status == 404


@pytest.mark.parametrize("way", ["HTTP/1.1", "HTTP/1.0"])  # directly, and by aiohttp's handler
def test_health_tells_troubles(bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(receive, "TROUBLE_S", 0.0)
    unit, entry = bench.serve()

    def ask() -> Any:
        with Client(unit.port) as client:
            client.send(f"GET /v1/health {way}\r\nHost: x\r\n\r\n".encode())
            return client.answer()

    for _ in range(2):
        assert ask().status == 200
        entry.trouble = [("a", "its workers sleep"), ("b", 'no "worker"')]
        answer = ask()
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")
        assert answer.json() == {"status": 503, "message": "node 'a': its workers sleep; node 'b': no \"worker\""}
        entry.trouble = []
    assert ask().status == 200
    assert not entry.sessions


# ---- limits -----------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(bench: Bench) -> None:
    unit, entry = bench.serve(max_body_size=1000)
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 209715200\r\n\r\n")
        answer = client.answer()
        assert answer.status == 413
        assert answer.headers["Connection"] == "close"
        assert answer.json()["error_msg"] == "the body is larger than 1000 bytes"
    with Client(unit.port) as client:
        assert client.post(b"x" * 1000).body == b"x" * 1000
        assert client.post(b"x" * 1001).status == 413
    assert len(entry.sessions) == 1


def test_a_chunked_body_is_counted_as_it_comes(bench: Bench) -> None:
    unit, entry = bench.serve(max_body_size=1000)
    head = b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"190\r\n" + b"x" * 0x190 + b"\r\n"
    with Client(unit.port) as client:
        assert client.send(head + 2 * chunk + b"0\r\n\r\n").answer().body == b"x" * 800
        answer = client.send(head + 3 * chunk).answer()  # no end
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
    with Client(unit.port) as client:
        assert client.send(head + 3 * chunk + b"0\r\n\r\n").answer().status == 413
        assert client.at_end()
    assert len(entry.sessions) == 1


def test_more_than_max_requests(bench: Bench) -> None:
    unit, entry = bench.serve(hold, max_requests=1)
    with Client(unit.port) as first, Client(unit.port) as second:
        first.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        session = entry.wait_session()
        answer = second.post(b"y")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert second.post(path="/v1/health", method="GET").status == 200
        bench.answer(session, Buffer(CPU, "late"))
        assert first.answer().body == b"late"
        session.end()
        second.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        bench.answer(entry.wait_session(), Buffer(CPU, "again"))
        assert second.answer().body == b"again"


def test_a_full_graph(bench: Bench) -> None:
    unit, entry = bench.serve()

    def busy() -> BusyError:
        error = BusyError("node 'receive': 1024 buffers wait already")
        error.retry_after_s = 2.6
        return error

    with Client(unit.port) as client:
        entry.refuse = busy
        answer = client.post(b"x")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
        entry.refuse = None
        assert client.post(b"x").status == 200


def test_no_memory(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        entry.refuse = lambda: OutOfMemoryError("buffer memory is limited to 1 MiB (memory.max) and in use")
        answer = client.post(b"x")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "memory.max" not in answer.json()["error_msg"]
        entry.refuse = None
        assert client.post(b"x").status == 200


def test_headers_beyond_all_measure(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        many = "".join(f"X-{number}: {'v' * 12_000}\r\n" for number in range(90))
        assert client.post(b"x", headers=many).status == 431
    with Client(unit.port) as client:
        assert client.post(b"x").body == b"x"
    with Client(unit.port) as client:
        assert client.send(b"POST /v1 HTTP/1.1\r\nX: " + b"v" * 40_000).answer().status == 431
    with Client(unit.port) as client:
        assert client.post(b"x", headers="".join(f"X-{number}: v\r\n" for number in range(300))).status == 431
    with Client(unit.port) as client:
        assert client.post(b"x", path="/v1?" + "x" * 20_000).status == 431
    assert len(entry.sessions) == 1


def test_transfer_encodings_that_nobody_undoes(bench: Bench) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.json()["error_msg"]) == (501, "of transfer encodings only chunked is known")
    assert entry.sessions == []


def test_bodies_of_all_connections_together() -> None:
    """What comes in is bounded, by whatever way it comes; the others go on, and all is given back."""
    bench = Bench(bodies_limit=100_000)
    unit, _ = bench.serve()
    bodies = bench.listeners.bodies
    with Client(unit.port) as slow, Client(unit.port) as large, Client(unit.port) as chunked:
        slow.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 60001\r\n\r\n" + b"x" * 60_000)
        wait_for(lambda: bodies.held == 60_000)
        answer = large.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 90001\r\n\r\n" + b"x" * 90_000).answer()
        assert (answer.status, answer.headers["Retry-After"], answer.headers["Connection"]) == (503, "1", "close")
        assert large.at_end()
        chunk = b"7000\r\n" + b"x" * 0x7000 + b"\r\n"
        chunked.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        answer = chunked.answer()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert slow.send(b"x").answer().body == b"x" * 60_001
        assert slow.post(b"x" * 90_000).status == 200
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 60001\r\n\r\n" + b"x" * 50_000)
        wait_for(lambda: bodies.held == 50_000)
    wait_for(lambda: bodies.held == 0)
    bench.close()


# ---- time -------------------------------------------------------------------------------------------------------


def test_no_reply_in_time(bench: Bench) -> None:
    unit, entry = bench.serve(hold, time_out_ms=50)
    with Client(unit.port) as client:
        answer = client.post(b"x")
        assert (answer.status, answer.json()["error_msg"]) == (408, "no reply within 50 ms")
        session = entry.wait_session()
        assert session.cancelled.wait(LIMIT_S)
        assert isinstance(session.error, TimedOutError)
        bench.answer(session, Buffer(CPU, "too late"))  # nobody waits; nothing happens
        assert client.post(b"x").status == 408  # the connection goes on


def test_a_body_that_stops_coming(bench: Bench) -> None:
    unit, entry = bench.serve(time_out_ms=50)
    with Client(unit.port) as client:
        answer = client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").answer()
        assert (answer.status, answer.headers["Connection"]) == (408, "close")
    assert not entry.sessions
    assert unit.in_flight == 0


def test_expect_continue(bench: Bench) -> None:
    """curl waits for the word before it sends a large body."""
    unit, entry = bench.serve(max_body_size=1000)
    head = "POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
    with Client(unit.port) as client:
        assert client.send(head.format(5).encode()).answer().status == 100
        assert client.send(b"hello").answer().body == b"hello"
        assert client.send(head.format(0).encode()).answer().status in (100, 200)
    with Client(unit.port) as client:
        assert client.send(head.format(5000).encode()).answer().status == 413
    with Client(unit.port) as client:
        assert client.send(head.format(5).encode().replace(b"100-continue", b"miracles")).answer().status == 417
    assert len(entry.sessions) == 2


# ---- clients that misbehave ----------------------------------------------------------------------------------------


def test_a_client_that_goes_cancels_its_session(bench: Bench) -> None:
    unit, entry = bench.serve(hold, time_out_ms=60_000)
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        session = entry.wait_session()
    assert session.cancelled.wait(LIMIT_S)
    assert "nobody waits" in str(session.error)
    assert unit.in_flight == 0


def test_a_client_that_goes_in_the_middle_of_its_body(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer().status == 100
        client.send(b"half")
    with Client(unit.port) as client:
        while unit.in_flight:  # the server learns of it in its own time
            assert client.post(path="/v1/health", method="GET").status == 200
        assert client.post(b"next").body == b"next"
    assert len(entry.sessions) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"GET /v1 HTTP/9\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nNo-Colon\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http(bench: Bench, caplog: pytest.LogCaptureFixture, junk: bytes) -> None:
    unit, entry = bench.serve()
    with Client(unit.port) as client:
        answer = client.send(junk).answer()
        assert answer.status == (431 if len(junk) > 16384 else 400)
        assert set(answer.json()) == {"error_code", "error_msg"}
        assert client.at_end()
    with Client(unit.port) as client:
        assert client.post(b"fine").body == b"fine"
    assert len(entry.sessions) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("target", ["*", "http://other/v1", "//v1", "/v1/../v1", "/v1/%zz", "/v1/\xff", "/v1?a=%00"])
def test_odd_targets_do_no_harm(bench: Bench, caplog: pytest.LogCaptureFixture, target: str) -> None:
    unit, _ = bench.serve()
    with Client(unit.port) as client:
        client.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".encode("latin-1"))
        assert client.answer().status in (200, 400, 404)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_requests_that_arrive_together_are_answered_in_order(bench: Bench) -> None:
    unit, _ = bench.serve()
    with Client(unit.port) as client:
        client.send(
            b"".join(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(10))
        )
        assert [client.answer().body for _ in range(10)] == [b"%d" % number for number in range(10)]


def test_a_bug_behind_the_door(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(session: FakeSession, buffer: Buffer) -> None:
        raise KeyError("/secret/path")

    unit, entry = bench.serve(fail)
    with Client(unit.port) as client:
        answer = client.post(b"x")
        assert (answer.status, answer.json()["error_msg"]) == (500, "internal error")
        assert client.post(path="/v1/health", method="GET").status == 200
    assert entry.sessions[0].ended  # nothing is left behind
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    caplog.clear()  # the record holds the frames, and they the buffer
    gc.collect()


# ---- stopping -----------------------------------------------------------------------------------------------------------


def test_stopping(bench: Bench) -> None:
    unit, entry = bench.serve(hold)
    port = unit.port
    with Client(port) as first, Client(port) as second:
        first.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        session = entry.wait_session()
        unit.stop()
        answer = second.post(b"y")
        assert answer.status == 503
        assert answer.headers["Connection"] == "close"
        assert second.at_end()
        bench.answer(session, Buffer(CPU, "done"))
        assert first.answer().body == b"done"
        unit.close()
        assert first.at_end()  # kept alive until now
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_job_that_stopped_first(bench: Bench) -> None:
    unit, entry = bench.serve()
    entry.refuse = lambda: ShutdownError("job 'job' is stopping")
    with Client(unit.port) as client:
        assert client.post(b"x").status == 503
        assert client.at_end()


# ---- async ----------------------------------------------------------------------------------------------------------------


def test_async(bench: Bench) -> None:
    unit, entry = bench.serve(hold, kind="httpserver_async", max_requests=2)
    with Client(unit.port) as client:
        answer = client.post(b"x")
        assert (answer.status, answer.json()) == (202, {"session_id": "fake"})
        assert client.post(b"x").status == 202
        assert client.post(b"x").status == 429
        entry.sessions[0].end()
        entry.sessions[1].end(TimedOutError("late"))
        while (answer := client.post(b"x")).status == 429:  # the ends are counted on the I/O thread
            pass
        assert answer.status == 202


# ---- options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    ["", "127.0.0.1:80", "ftp://127.0.0.1:80/", "http://:80/x", "http://h:99999/", "http://h:no/", "http://[::1/x"],
)
def test_bad_endpoints(bench: Bench, endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.unit("httpserver_sync_receive", endpoint=endpoint)
    assert str(caught.value).startswith("g.toml:3: node 'receive': endpoint ")
    assert "\n" not in str(caught.value)


def test_https_needs_its_files(bench: Bench) -> None:
    incomplete: list[dict[str, Any]] = [{}, {"cert": "/none/cert.pem"}, {"key": "/none/key.pem"}]
    for options in incomplete:
        with pytest.raises(ConfigError) as caught:
            bench.serve(endpoint="https://127.0.0.1:0/", **options)
        assert str(caught.value) == "g.toml:3: node 'receive': an https endpoint needs the options cert and key"
    with pytest.raises(ConfigError, match=r"node 'receive': .*/none/cert\.pem"):
        bench.serve(endpoint="https://127.0.0.1:0/", cert="/none/cert.pem", key="/none/key.pem")
