"""The daemon over HTTP: answers, limits, errors, disconnects, stopping, and what kill -9 leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.integration.server import LIMIT_S, Server, http_graph
from tests.integration.workers import write_unit

HEAD = "import _flowunit as modelbox\nclass Unit(modelbox.FlowUnit):\n    def process(self, ctx):\n"
ECHO = (
    HEAD
    + """
        for b in ctx.input("in"):
            ctx.output("out").push_back(modelbox.Buffer(self.get_bind_device(), b.as_bytes()))
        return modelbox.Status()
"""
)
# Says that it has begun, and waits until the file that the request names exists.
WAIT = (
    HEAD
    + """
        import os, select
        for b in ctx.input("in"):
            modelbox.info("has begun")
            while not os.path.exists(str(b)):
                select.select([], [], [], 0.01)
            ctx.output("out").push_back("done")
        return modelbox.Status()
"""
)
REFUSE = """b = modelbox.Buffer(self.get_bind_device(), "x"); b.set_error("Unit.Bad", "worse")
        ctx.output("out").push_back(b)
        return modelbox.Status()"""
Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def make(code: str = ECHO, *, config: str = "", **graph: str) -> Server:
        write_unit(tmp_path, "unit", code)
        server = Server(http_graph(tmp_path, "unit", **graph), config=config, folder=tmp_path)
        servers.append(server)
        return server.ready()

    yield make
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0


def test_answers(start: Start) -> None:
    server = start(reply="content_type=json")
    status, body, headers = server.request("/v1", b"hello")
    assert (status, body) == (200, b"hello")
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Frame-Options"] == "DENY"
    assert server.request("/v1/below/it", b"x")[:2] == (200, b"x")
    assert server.request("/v1/health", method="GET")[:2] == (200, b'{"status":200,"message":"success"}')
    assert server.request("/other", b"x")[0] == 404
    status, _, headers = server.request("/v1", method="OPTIONS")
    assert status == 405
    assert headers["Allow"] == "POST, PUT, GET, DELETE"


def test_request_meta_and_reply_meta(start: Start) -> None:
    server = start(
        HEAD
        + """
        import json
        for b in ctx.input("in"):
            seen = {key: b.get(key) for key in ("size", "method", "uri", "endpoint")}
            seen["agent"] = b.get("headers")["X-Who"]
            made = modelbox.Buffer(self.get_bind_device(), json.dumps(seen))
            made.set("status", 201)
            made.set("headers", {"X-Made": "yes", "Content-Type": "text/special", "Bad\\nName": "x"})
            ctx.output("out").push_back(made)
        return modelbox.Status()
"""
    )
    status, body, headers = server.request("/v1/a?b=c", b"12345", method="PUT", headers={"X-Who": "me"})
    assert status == 201
    assert json.loads(body) == {
        "size": 5,
        "method": "PUT",
        "uri": "/v1/a?b=c",
        "endpoint": "http://127.0.0.1:0/v1",
        "agent": "me",
    }
    assert headers["X-Made"] == "yes"
    assert headers["Content-Type"] == "text/special"


def test_body_limit(start: Start) -> None:
    server = start(receive="max_body_size=1000")
    assert server.request("/v1", b"x" * 1001)[0] == 413
    # Without a length known before: chunks, counted as they come.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    connection.request("POST", "/v1", iter([b"x" * 600, b"x" * 600]), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert server.request("/v1", b"x" * 1000)[0] == 200


def test_200_mb_body_is_refused_by_its_head(start: Start) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as sock:
        sock.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 209715200\r\n\r\n" + b"x" * 100_000)
        assert b" 413 " in sock.recv(4096)
    assert server.request("/v1", b"after")[1] == b"after"


def test_large_bodies_pass(start: Start) -> None:
    server = start()
    data = os.urandom(8_000_000)
    assert server.request("/v1", data)[1] == data


def test_time_limit_and_request_limit(start: Start, tmp_path: Path) -> None:
    server = start(WAIT, receive="max_requests=1, time_out_ms=1500")
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(4) as pool:
        held = pool.submit(server.request, "/v1", str(gate).encode())
        server.wait_for("has begun")
        status, _, headers = server.request("/v1", str(gate).encode())
        assert (status, headers["Retry-After"]) == (429, "1")
        assert held.result()[0] == 408
    gate.touch()
    assert server.request("/v1", str(gate).encode())[:2] == (200, b"done")


def test_back_pressure_is_503(start: Start, tmp_path: Path) -> None:
    server = start(WAIT, receive="queue_size_external=2, time_out_ms=20000", attrs="queue_size=1")
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(64) as pool:
        held = [pool.submit(server.request, "/v1", str(gate).encode()) for _ in range(64)]
        status, _, headers = server.request("/v1", str(gate).encode())
        while status != 503:
            status, _, headers = server.request("/v1", str(gate).encode())
        assert headers["Retry-After"] == "1"
        gate.touch()
        assert {future.result()[0] for future in held} <= {200, 503}
    assert server.request("/v1", str(gate).encode())[0] == 200


def test_client_gone_cancels(start: Start, tmp_path: Path) -> None:
    server = start(WAIT, receive="max_requests=1, time_out_ms=30000")
    gate = tmp_path / "gate"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        name = str(gate).encode()
        sock.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
        server.wait_for("has begun")
        assert server.request("/v1", name)[0] == 429
    gate.touch()
    while server.request("/v1", name)[0] == 429:  # its place is free once the server has seen the end
        pass
    assert server.request("/v1", name)[:2] == (200, b"done")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("return None", "returned NoneType"),
        ("return modelbox.Status(modelbox.Status.StatusCode.STATUS_FAULT, 'refused')", "refused"),
        (REFUSE, "worse"),
    ],
)  # fmt: skip
def test_errors_are_answered_at_once(start: Start, code: str, text: str) -> None:
    server = start(HEAD + f"        {code}\n")
    for _ in range(2):
        status, body, _ = server.request("/v1", b"x")
        assert status == 500
        assert text in json.loads(body)["error_msg"]
    # The unit's own frames are told in the log, nothing of ours.
    frames = [line for line in server.lines if ' File "' in line]
    assert bool(frames) == code.startswith("raise") and all("/unit.py" in line for line in frames)


def test_no_reply_is_told(start: Start) -> None:
    server = start(HEAD + "        return modelbox.Status()\n")
    status, body, _ = server.request("/v1", b"x")
    assert status == 500
    assert (
        json.loads(body)["error_msg"] == "node 'u' port 'out': input buffer count 1 should equal output buffer count 0"
    )


def test_killed_worker_costs_its_request_only(start: Start) -> None:
    server = start(HEAD + """
        import os, signal
        for b in ctx.input("in"):
            if str(b) == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            ctx.output("out").push_back(b)
        return modelbox.Status()
""")  # fmt: skip
    status, body, _ = server.request("/v1", b"die")
    assert status == 500
    assert "was killed by SIGKILL" in json.loads(body)["error_msg"]
    assert server.request("/v1", b"fine")[:2] == (200, b"fine")


def test_requests_in_flight_survive_a_stop(start: Start, tmp_path: Path) -> None:
    server = start(WAIT, receive="max_requests=1, time_out_ms=30000")
    gate = tmp_path / "gate"
    name = str(gate).encode()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(server.request, "/v1", name)
        server.wait_for("has begun")
        assert server.request("/v1", name)[0] == 429
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping by SIGTERM")
        gate.touch()
        assert held.result()[:2] == (200, b"done")
    assert server.process.wait(LIMIT_S) == 0


def test_kill_9_leaves_nothing(start: Start, tmp_path: Path) -> None:
    server = start(attrs="workers=2")
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) == 3
    port = server.port
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(server.request, "/v1", b"x" * 100_000) for _ in range(40)]
        server.process.kill()
        server.process.wait(LIMIT_S)
        for future in futures:
            future.exception()  # refused or cut off, either is right
    _, alive = psutil.wait_procs(children, timeout=2)
    assert not alive
    # The port is free for the next start.
    graph = tmp_path / "graph.toml"
    graph.write_text(graph.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    again = Server(graph, folder=tmp_path).ready()
    assert again.request("/v1", b"back")[:2] == (200, b"back")
    assert again.stop() == 0


def test_two_graphs_share_a_port(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    graphs = []
    for name in ("one", "two"):
        graph = http_graph(tmp_path, "unit", name=f"{name}.toml")
        graph.write_text(graph.read_text().replace("127.0.0.1:0/v1", f"127.0.0.1:{port}/{name}"))
        graphs.append(graph)
    server = Server(*graphs, folder=tmp_path).ready()
    assert server.request("/one", b"1")[1] == b"1"
    assert server.request("/two", b"2")[1] == b"2"
    assert server.request("/three", b"3")[0] == 404
    assert server.stop() == 0


def test_tls(start: Start, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    write_unit(tmp_path, "unit", ECHO)
    graph = http_graph(tmp_path, "unit", receive=f'cert="{cert}", key="{key}"')
    graph.write_text(graph.read_text().replace("http://127", "https://127"))
    server = Server(graph, folder=tmp_path).ready()
    context = ssl.create_default_context(cafile=str(cert))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=LIMIT_S)
    connection.request("POST", "/v1", b"secret")
    assert connection.getresponse().read() == b"secret"
    connection.close()
    assert server.stop() == 0


def test_async_answers_202(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", HEAD + """
        for b in ctx.input("in"):
            open(str(b), "w").close()
        return modelbox.Status()
""", stream=True)  # fmt: skip
    toml = tmp_path / "unit/unit.toml"
    toml.write_text(toml.read_text().replace('[output]\n[output.output1]\nname = "out"\n', ""))
    graph = tmp_path / "graph.toml"
    graph.write_text(
        '[driver]\ndir = "."\n[graph]\nformat = "graphviz"\ngraphconf = """digraph g { '
        'rx [flowunit=httpserver_async, endpoint="http://127.0.0.1:0/v1"]; u [flowunit=unit]; '
        'rx:out_request_info -> u:in }"""\n'
    )
    server = Server(graph, folder=tmp_path).ready()
    done = tmp_path / "done"
    status, body, _ = server.request("/v1", str(done).encode())
    assert status == 202
    assert "session_id" in json.loads(body)
    while not done.exists():
        assert server.process.poll() is None
    assert server.stop() == 0


def test_malformed_requests(start: Start) -> None:
    server = start()
    for junk in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /v1 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                 b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as sock:
            sock.sendall(junk)
            answer = sock.recv(4096)
            assert any(status in answer for status in (b" 400 ", b" 431 ")) or answer == b""
    assert server.request("/v1", b"fine")[1] == b"fine"


def test_health_of_an_endpoint_while_its_node_has_no_workers(start: Start) -> None:
    server = start(
        ECHO.replace("for b", "import os; os.path.exists(str(ctx.input('in')[0])) and os._exit(7)\n        for b"),
        attrs="max_restarts=2",
    )
    assert server.request("/v1/health", method="GET")[0] == 200
    assert server.request("/v1", b"x")[:2] == (200, b"x")
    for _ in range(2):
        assert server.request("/v1", b"/")[0] in (500, 502)
    server.wait_for("2 crashes in a row")
    status, body, _ = server.request("/v1/health", method="GET")
    assert status == 503
    message = json.loads(body)["message"]
    assert message.startswith("node 'u': its workers are given up after 2 crashes in a row; next try in "), message
