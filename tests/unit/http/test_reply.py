"""httpserver_sync_reply: from a buffer, an error or a session's end to an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelbox._core import ffi, lib
from modelbox._core.memory import new_list
from modelbox.buffer import Buffer
from modelbox.device import CPU
from modelbox.errors import (
    BusyError,
    ConfigError,
    InternalError,
    ModelBoxError,
    OutOfMemoryError,
    ShutdownError,
    TimedOutError,
    UnitError,
    WorkerLostError,
)
from tests.unit.http.fake import Answer, Bench, Client, FakeSession


def answers(bench: Bench, make: Callable[[], Buffer], method: str = "POST", **options: object) -> Answer:
    """What a client gets when the graph answers with a buffer."""

    def work(session: FakeSession, _: Buffer) -> None:
        bench.answer(session, make(), **options)

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        return client.post(method=method)


def buffer(data: Any, **meta: object) -> Buffer:
    made = Buffer(CPU, data)
    for key, value in meta.items():
        made.set(key, value)
    return made


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("txt", "text/plain; charset=utf-8"),
        ("json", "application/json"),
        ("htm", "text/html; charset=utf-8"),
        ("jpg", "image/jpeg"),
        ("svg", "image/svg+xml"),
        ("mp3", "audio/mpeg"),
        ("application/x-protobuf", "application/x-protobuf"),
        ("text/csv; charset=latin-1", "text/csv; charset=latin-1"),
    ],
)
def test_content_type_and_security_headers(bench: Bench, word: str, kind: str) -> None:
    answer = answers(bench, lambda: buffer("text"), content_type=word)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"text", kind)
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("word", ["jsno", "application", "a/b\r\nX: 1", "/json"])
def test_content_types_that_are_none(bench: Bench, word: str) -> None:
    with pytest.raises(ConfigError, match=r"g\.toml:3: node 'reply': content_type"):
        bench.unit("httpserver_sync_reply", content_type=word)


def test_bodies(bench: Bench) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert answers(bench, lambda: buffer(array)).body == array.tobytes()
    assert answers(bench, lambda: buffer(b"\x00\xff")).body == b"\x00\xff"
    assert answers(bench, lambda: buffer("")).body == b""
    large = bytes(range(256)) * 80_000
    assert answers(bench, lambda: buffer(large)).body == large


@pytest.mark.parametrize("status", [200, 201, 404, 503, 599])
def test_status(bench: Bench, status: int) -> None:
    answer = answers(bench, lambda: buffer("x", status=status))
    assert (answer.status, answer.body) == (status, b"x")


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body(bench: Bench, status: int) -> None:
    def work(session: FakeSession, request: Buffer) -> None:
        bench.answer(session, buffer("x", status=status) if request.get("uri") == "/v1/none" else buffer("next"))

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        client.send(b"GET /v1/none HTTP/1.1\r\nHost: x\r\n\r\nGET /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"next"):  # no body bytes in between
            received += client.sock.recv(4096)
        first, _, rest = received.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status)
        assert rest.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("status", [0, 99, 101, 600, -1, True, "200", 200.0, None])
def test_status_that_is_none(bench: Bench, status: object) -> None:
    answer = answers(bench, lambda: buffer("x", status=status))
    assert answer.status == 500
    assert answer.json()["error_code"] == "Reply.BadStatus"
    assert repr(status) in answer.json()["error_msg"]


def test_headers(bench: Bench) -> None:
    given = {
        "X-One": "1",
        "X-Two": 2,
        "content-type": "text/special",
        "x-frame-options": "SAMEORIGIN",
        "X-Split": "a\r\nX-Injected: 1",
        "X-Nul": "a\0b",
        "X-Half": "\udc80",
        "Bad Name": "x",
        "Bad\r\nName": "x",
        "": "x",
        "Content-Length": "99",
        "Transfer-Encoding": "chunked",
        "X-Accent": "é",
        3: "x",
    }
    answer = answers(bench, lambda: buffer("body", headers=given))
    assert (answer.status, answer.body) == (200, b"body")
    names = set(answer.headers)
    assert answer.headers["X-One"] == "1"
    assert answer.headers["X-Two"] == "2"
    assert answer.headers["content-type"] == "text/special"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["Content-Length"] == "4"
    assert "X-Accent" in names
    assert not names & {"X-Split", "X-Injected", "X-Nul", "X-Half", "Transfer-Encoding", "Content-Type", "3", ""}


@pytest.mark.parametrize("headers", [None, "text", ["a"], 5])
def test_headers_that_are_none(bench: Bench, headers: object) -> None:
    assert answers(bench, lambda: buffer("body", headers=headers)).status == 200


def test_a_request_that_is_passed_through_keeps_its_headers_to_itself(bench: Bench) -> None:
    def work(session: FakeSession, request: Buffer) -> None:
        bench.answer(session, request)

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        answer = client.post(b"x", headers="X-Secret: 1\r\n")
    assert answer.body == b"x"
    assert "X-Secret" not in answer.headers


@pytest.mark.parametrize(("status", "answered"), [(404, 404), ("404", 500), (99, 500)])
def test_status_of_a_request_that_is_passed_through(bench: Bench, status: object, answered: int) -> None:
    def work(session: FakeSession, request: Buffer) -> None:
        copy = Buffer(request)
        copy.set("status", status)
        bench.answer(session, copy)

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        answer = client.post(b"x", headers="X-Secret: 1\r\n")
    assert answer.status == answered
    assert "X-Secret" not in answer.headers


def test_error_buffers(bench: Bench) -> None:
    def make() -> Buffer:
        made = Buffer(CPU, "x")
        made.set_error("ImageDecoder.DecodeFailed", 'no image: "é"')
        return made

    answer = answers(bench, make)
    assert answer.status == 500
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {"error_code": "ImageDecoder.DecodeFailed", "error_msg": 'no image: "é"'}


def test_only_the_first_buffer_counts(bench: Bench) -> None:
    def work(session: FakeSession, request: Buffer) -> None:
        for text in ("first", "second"):
            bench.answer(session, buffer(text))
        session.end()

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        assert client.post().body == b"first"
        assert client.post().body == b"first"


def test_answers_come_from_any_thread(bench: Bench) -> None:
    threads: list[threading.Thread] = []

    def work(session: FakeSession, request: Buffer) -> None:
        data = request.as_bytes()
        threads.append(threading.Thread(target=lambda: bench.answer(session, buffer(data))))
        threads[-1].start()

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        for number in range(20):
            assert client.post(b"%d" % number).body == b"%d" % number
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, 500, "NoReply"),
        (UnitError("node 'u': failed"), 500, "UnitError"),
        (WorkerLostError("node 'u': its process was killed by SIGKILL"), 502, "WorkerLostError"),
        (TimedOutError("node 'u': took too long"), 504, "TimedOutError"),
        (BusyError("full"), 503, "BusyError"),
        (OutOfMemoryError("buffer memory is limited"), 503, "OutOfMemoryError"),
        (ShutdownError("job 'j' was stopped"), 503, "ShutdownError"),
    ],
)
def test_sessions_that_end_without_a_reply(bench: Bench, error: ModelBoxError | None, status: int, code: str) -> None:
    unit, _ = bench.serve(lambda session, _: session.end(error))
    with Client(unit.port) as client:
        answer = client.post()
        assert (answer.status, answer.json()["error_code"]) == (status, code)
        assert answer.json()["error_msg"] == (error.message if error else "the graph ended without a reply")
        if status == 503:
            assert "Retry-After" in answer.headers


def test_the_end_of_a_session_does_not_overtake_its_answer(bench: Bench) -> None:
    """Another thread answers, the session ends on the I/O thread before that thread's answer has come there."""

    def work(session: FakeSession, buffer: Buffer) -> None:
        thread = threading.Thread(target=lambda: bench.answer(session, Buffer(CPU, "answer")))
        thread.start()
        thread.join()
        session.end()

    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        answer = client.post(b"x")
        assert (answer.status, answer.body) == (200, b"answer")


def test_bugs_of_ours_are_not_spread(bench: Bench) -> None:
    unit, _ = bench.serve(lambda session, _: session.end(InternalError("node 'u': KeyError: /usr/lib/secret")))
    with Client(unit.port) as client:
        answer = client.post()
    assert answer.status == 500
    assert answer.json() == {"error_code": "InternalError", "error_msg": "internal error"}


def test_a_session_that_no_request_began(bench: Bench) -> None:
    bench.answer(FakeSession({}, None), buffer("x"))
    bench.answer(FakeSession({"reply": "something else"}, None), buffer("x"))


def test_positions_without_a_value_are_no_answer(bench: Bench) -> None:
    """A condition upstream has sent the request another way, or only what follows came this way."""

    def work(session: FakeSession, request: Buffer) -> None:
        holes = new_list(1)
        lib.mb_list_push(holes, ffi.NULL)
        back.receive(session, holes)
        values = bench.core(buffer("value"))
        lib.mb_list_extend(holes, values, 0, 1)
        back.receive(session, holes)

    back = bench.unit("httpserver_sync_reply")
    unit, _ = bench.serve(work)
    with Client(unit.port) as client:
        assert client.post().body == b"value"
