"""What strangers may try on the API: the server says no, and goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelboxd.api.tokens import new_token, write_token
from tests.integration.server import LIMIT_S, Server
from tests.integration.test_api import ECHO_GRAPH
from tests.integration.test_bad_start import modelbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("api")
    made = Server(config='[server]\nmax_body = "1MB"\n', folder=folder).ready()
    yield made
    assert made.stop() == 0
    assert not [line for line in made.lines if "Traceback" in line or "internal error" in line]


def raw(server: Server, data: bytes) -> bytes:
    """Sends bytes as they are, and reads until the server closes."""
    with socket.create_connection(("127.0.0.1", server.api), LIMIT_S) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := sock.recv(65536):
                answer += chunk
        return answer


def status_of(server: Server, data: bytes) -> int:
    """The status of the answer to bytes as they are."""
    with socket.create_connection(("127.0.0.1", server.api), LIMIT_S) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert b"root:" not in response.read()
        return response.status


def first_line(answer: bytes) -> bytes:
    return answer.partition(b"\r\n")[0]


def lives(server: Server) -> None:
    assert server.ask("GET", "/health/live")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.com"}, 403, "host_not_allowed"),
        ({"Host": "localhost.evil.com:1104"}, 403, "host_not_allowed"),
        ({"Origin": "http://evil.com"}, 403, "origin_not_allowed"),
        ({"Origin": "null"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "origin_not_allowed"),
        ({"Content-Type": "text/plain"}, 415, "media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "media_type"),
        ({"Content-Encoding": "gzip"}, 415, "media_type"),
    ],
)
def test_pages_of_others(server: Server, headers: dict[str, str], status: int, code: str) -> None:
    found, problem, answer = server.ask("POST", "/v1/jobs", {"id": "evil", "graph": ECHO_GRAPH}, headers)
    assert (found, problem["code"]) == (status, code)
    assert "Access-Control-Allow-Origin" not in answer
    if status == 403:
        for path in ("/v1/jobs", "/openapi.json", "/health/live", "/v1/modelbox/job/list/all", "/nowhere"):
            assert server.ask("PUT", path, {}, headers)[0] == 403
    assert server.ask("GET", "/v1/jobs")[1] == {"jobs": []}


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/../../etc/passwd", "/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%2e%2e", "/v1/jobs/..", "/v1/jobs/.", "/../../etc/passwd",
     "//etc/passwd", "/v1/jobs/a%00b", "/v1/modelbox/job/../../../etc/passwd", "/v1/modelbox/job/..%2f..%2fx", "/v1/jobs/" + "a" * 5000],
)  # fmt: skip
def test_paths(server: Server, path: str) -> None:
    for method in ("GET", "DELETE", "PUT", "POST"):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        assert status_of(server, head.encode()) in (400, 404, 405, 500)


@pytest.mark.parametrize("job_id", ["../../x", "..", "a/b", "a\\..\\b/", "a\0b", ".x", "x" * 65, "", "a", "a\nb", "aä"])
def test_ids(server: Server, job_id: str) -> None:
    status, problem, _ = server.ask("POST", "/v1/jobs", {"id": job_id, "graph": ECHO_GRAPH})
    assert (status, problem["code"]) == (422, "not_valid")


def test_sizes(server: Server) -> None:
    status, problem, headers = server.ask("POST", "/v1/jobs", {"id": "aa", "graph": "x" * (1 << 20)})
    assert (status, problem["code"], headers["Connection"]) == (413, "too_large", "close")
    chunks = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status_of(server, head + chunks * 40) == 413
    assert status_of(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000 + b"\r\n\r\n") == 431
    many = b"".join(b"X%d: y\r\n" % number for number in range(20000))
    assert status_of(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n") == 431
    answer = status_of(
        server,
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
    )
    assert answer == 413
    deep = b"[" * 100_000
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    assert status_of(server, head % len(deep) + deep) == 400
    lives(server)


def test_heads(server: Server) -> None:
    """HEAD is GET without the body, with the same role, and not where the answer has no end."""
    for path in ("/health/ready", "/v1/jobs", "/metrics", "/openapi.json", "/v2"):
        status, body, headers = server.ask("HEAD", path)
        assert (status, body) == (200, None) and int(headers["Content-Length"]) > 0
    # What follows is the next answer, not the body of this one.
    both = b"HEAD /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    with socket.create_connection(("127.0.0.1", server.api), LIMIT_S) as sock:
        sock.sendall(both)
        answer = b""
        while answer.count(b"\r\n\r\n") < 2:
            answer += sock.recv(65536)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and b"{" not in answer
    status, _, headers = server.ask("DELETE", "/v1/jobs")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
    status, _, headers = server.ask("HEAD", "/v1/tasks/x/events")
    assert (status, headers["Allow"]) == (405, "GET")
    assert server.ask("HEAD", "/v1/jobs/nope")[0] == 404


def test_names_in_the_request_line(server: Server) -> None:
    for name, expected in (("evil.com", 403), ("localhost", 200), (f"127.0.0.1:{server.api}", 200)):
        head = f"GET http://{name}/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert status_of(server, head.encode()) == expected


def test_codings(server: Server) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: "
    assert status_of(server, head + b"gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n") == 501
    assert status_of(server, head + b"chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n") == 422


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 10000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%zz?%zz=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/jobs?a=%ff%fe&a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\nabc",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nExpect: nonsense\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n",
    ],
)
def test_garbage(server: Server, data: bytes) -> None:
    answer = raw(server, data)
    if answer:
        assert answer.startswith(b"HTTP/1."), answer[:200]
        assert not first_line(answer).split()[1].startswith(b"5"), answer[:200]
        assert b"Traceback" not in answer and b"aiohttp" not in answer.lower()
    lives(server)


def test_random_bytes(server: Server) -> None:
    chance = random.Random(7)
    good = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
        b'{"id": "aa", "graph": 5}'
    )
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data))
            if chance.random() < 0.5:
                data[at] = chance.randrange(256)
            else:
                data[at:at] = chance.randbytes(chance.randrange(1, 4))
        answer = raw(server, bytes(data))
        for part in answer.split(b"HTTP/1.")[1:]:
            assert not part.split()[1].startswith(b"5"), (bytes(data), answer)
    lives(server)


def test_slow_clients_do_not_stop_others(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    slow = []
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    try:
        for number in range(500):
            sock = socket.create_connection(("127.0.0.1", server.api), LIMIT_S)
            slow.append(sock)
            sock.sendall(head if number % 2 else b"POS")
        for at in range(20):
            for sock in slow:
                with contextlib.suppress(ConnectionError):
                    sock.send(head[3 + at : 4 + at])
            assert server.ask("GET", "/v1/jobs")[0] == 200
    finally:
        for sock in slow:
            sock.close()
    lives(server)


def test_too_many_connections(tmp_path: Path) -> None:
    """Those that wait for nothing give way; those that are answered do not."""
    server = Server(config="[server]\nmax_connections = 8\n", folder=tmp_path).ready()
    socks = []
    try:
        for number in range(40):
            socks.append(socket.create_connection(("127.0.0.1", server.api), LIMIT_S))
            socks[-1].sendall(b"GET / HT" if number % 2 else b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX: ")
            assert server.ask("GET", "/v1/jobs")[0] == 200
        assert socks[0].recv(65536).startswith(b"HTTP/1.1 503 ")
    finally:
        for sock in socks:
            sock.close()
        server.stop()


def test_tokens(tmp_path: Path) -> None:
    secrets = {}
    for role in ("read", "operate", "admin"):
        secrets[role], token = new_token(role, role)
        write_token(tmp_path / "tokens", token)
    server = Server(config=f'[server]\ntokens = "{tmp_path}/tokens"\n', folder=tmp_path).ready()

    def ask(role: str, method: str, path: str, value: Any = None) -> int:
        headers = {"Authorization": f"Bearer {secrets[role]}"} if role else {}
        return server.ask(method, path, value, headers)[0]

    try:
        assert ask("", "GET", "/health/live") == ask("", "GET", "/health/ready") == 200
        for method, path in (
            ("GET", "/v1/jobs"),
            ("GET", "/openapi.json"),
            ("PUT", "/v1/modelbox/job"),
            ("GET", "/v1/modelbox/job/list/all"),
        ):
            status, _, headers = server.ask(method, path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="modelbox"')
        for path in ("/v1/jobs?token=x", "/v1/tasks/x?wait=y", "/v1/jobs/"):  # nothing is told before that
            assert server.ask("GET", path)[0] == 401
        new = {"id": "echo", "graph": ECHO_GRAPH}
        assert [ask(role, "POST", "/v1/jobs", new) for role in ("read", "operate", "admin")] == [403, 403, 201]
        assert [ask(role, "POST", "/v1/jobs/echo/stop") for role in ("read", "operate")] == [403, 200]
        assert [ask(role, "POST", "/v1/reload") for role in ("read", "operate", "admin")] == [403, 403, 200]
        assert [ask(role, "PUT", "/v1/modelbox/job", {}) for role in ("read", "operate", "admin")] == [403, 403, 400]
        assert [ask(role, "DELETE", "/v1/jobs/echo") for role in ("read", "operate", "admin")] == [403, 403, 204]
        wrong = {"Authorization": "Bearer mbx_guess-this"}
        seen = [server.ask("GET", "/v1/jobs", None, wrong)[0] for _ in range(40)]
        assert seen[:20] == [401] * 20 and seen[-1] == 429
        assert server.ask("GET", "/health/live")[0] == 200
    finally:
        server.stop()
    assert not [line for line in server.lines if any(secret in line for secret in (*secrets.values(), "guess-this"))]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_no_start_where_strangers_come(tmp_path: Path, address: str) -> None:
    conf = tmp_path / "modelbox.conf"
    conf.write_text(f'[log]\npath = "{tmp_path}/log"\n[server]\nip = "{address}"\nport = 0\nstate_dir = "{tmp_path}"\n')
    code, _, errors = modelbox("-c", str(conf), "-f")
    assert code == 78
    assert f"modelbox.conf:4: server.ip = {address} lets other machines start programs here" in errors


def test_other_addresses_with_an_acl(tmp_path: Path) -> None:
    config = '[acl]\nallow = ["127.0.0.1"]\ninsecure = true\n[server]\nip = "0.0.0.0"\n'
    server = Server(config=config, folder=tmp_path).ready()
    try:
        assert server.ask("GET", "/v1/jobs")[0] == 200
    finally:
        server.stop()
    server = Server(config=config.replace("127.0.0.1", "10.1.2.3"), folder=tmp_path).ready()
    try:
        status, problem, _ = server.ask("GET", "/health/live")
        assert (status, problem["code"]) == (403, "address_not_allowed")
    finally:
        server.stop()


def test_a_rate(tmp_path: Path) -> None:
    server = Server(config="[server]\nmax_rate = 5\n", folder=tmp_path).ready()
    try:
        seen = [server.ask("GET", "/v1/jobs") for _ in range(50)]
        assert {status for status, _, _ in seen} == {200, 429}
        assert all(int(headers["Retry-After"]) >= 1 for status, _, headers in seen if status == 429)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 40000 + b"\r\n", 431, "head_too_large"),
        (
            b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            "bad_request",
        ),
    ],
)
def test_errors_of_the_protocol_are_problems_too(server: Server, data: bytes, status: int, code: str) -> None:
    with socket.create_connection(("127.0.0.1", server.api), LIMIT_S) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        response = http.client.HTTPResponse(sock)
        response.begin()
        problem = json.loads(response.read())
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status, problem["status"], problem["code"]) == (status, status, code)
