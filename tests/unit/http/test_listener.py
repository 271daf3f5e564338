"""Ports shared by path, TLS, and what is said when a port cannot be had."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelbox.errors import ConfigError
from modelboxd.server.listener import Handler, Tls
from tests.unit.http.fake import LIMIT_S, Bench, Client


def says(text: str) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=text)

    return handle


def certificate(folder: Path, name: str, *, password: str = "") -> tuple[str, str]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    lock = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *lock, "-keyout", key,
         "-out", cert, "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


def test_the_longest_prefix_wins(bench: Bench) -> None:
    first = bench.listen(0, "/a", says("a"))
    port = first.port
    for prefix in ("/a/b", "/c/", "/c/d/e"):
        bench.listen(port, prefix, says(prefix))
    with Client(port) as client:
        for path, text in (("/a", "a"), ("/a/", "a"), ("/a/x/y", "a"), ("/a/b", "/a/b"), ("/a/b/c?d=/c", "/a/b"),
                           ("/c", "/c/"), ("/c/d", "/c/"), ("/c/d/e/f", "/c/d/e")):  # fmt: skip
            assert client.post(path=path).body == text.encode(), path
        for path in ("/", "/ab", "/b", "/A"):
            answer = client.post(path=path)
            assert answer.status == 404
            assert answer.json() == {"error_code": "HTTP_404", "error_msg": "no such path"}
        bench.listen(port, "/", says("rest"))
        assert client.post(path="/b").body == b"rest"
        assert client.post(path="/a").body == b"a"


def test_the_last_one_out_closes_the_port(bench: Bench) -> None:
    one = bench.listen(0, "/one", says("one"))
    two = bench.listen(one.port, "/two", says("two"))
    with Client(one.port) as client:
        bench.listeners.release(one)
        bench.listeners.release(one)  # nothing more happens
        assert client.post(path="/one").status == 404
        assert client.post(path="/two").body == b"two"
        bench.listeners.release(two)
        assert client.at_end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.port))
    again = bench.listen(one.port, "/one", says("again"))
    with Client(again.port) as client:
        assert client.post(path="/one").body == b"again"
    bench.listeners.release(again)


def test_units_that_went_while_the_server_stops(bench: Bench) -> None:
    one = bench.listen(0, "/one", says("one"))
    bench.listen(one.port, "/two", says("two"))
    bench.listeners.stop()
    with Client(one.port) as client:
        assert client.post(path="/two").body == b"two"
        bench.listeners.release(one)
        answer = client.post(path="/one")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


def test_a_taken_prefix(bench: Bench) -> None:
    route = bench.listen(0, "/a/", says("a"))
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{route.port}/a is taken by another node"):
        bench.listen(route.port, "/a", says("b"))


def test_a_port_of_somebody_else(bench: Bench) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            bench.serve(endpoint=f"http://127.0.0.1:{port}/v1")
    text = str(caught.value)
    assert text.startswith(f"g.toml:3: node 'receive': cannot listen on 127.0.0.1:{port}: ")
    assert f"{port}: Address already in use (" in text
    assert text.endswith("(is another server running there? change endpoint)")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours(bench: Bench, host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:0: "):
        bench.listen(0, "/", says("x"), host)


def test_one_port_under_two_names(bench: Bench) -> None:
    route = bench.listen(0, "/a", says("a"))
    with pytest.raises(ConfigError) as caught:
        bench.listen(route.port, "/b", says("b"), "0.0.0.0")
    assert f"127.0.0.1:{route.port} is open here already; write the same host in both endpoints" in str(caught.value)


def test_ipv6(bench: Bench) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    unit, _ = bench.serve(endpoint="http://[::1]:0/v1")
    with socket.create_connection(("::1", unit.port), timeout=LIMIT_S) as sock:
        sock.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_request_in_flight_keeps_the_port_until_its_deadline(bench: Bench) -> None:
    unit, entry = bench.serve(lambda session, buffer: None, time_out_ms=60_000)
    with Client(unit.port) as client:
        client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        session = entry.wait_session()
        unit.close()
        assert session.cancelled.wait(LIMIT_S)
        assert client.at_end()


def tls_get(port: int, cert: str) -> bytes:
    context = ssl.create_default_context(cafile=cert)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        received = b""
        while not received.endswith(b"\r\n\r\nhi"):
            received += sock.recv(4096)
        return received


def test_tls(bench: Bench, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "plain")
    locked_cert, locked_key = certificate(tmp_path, "locked", password="word")
    locked: dict[str, Any] = {"cert": locked_cert, "key": locked_key, "passwd": "word"}
    for options in ({"cert": cert, "key": key}, locked):
        unit, _ = bench.serve(endpoint="https://127.0.0.1:0/v1", **options)
        assert tls_get(unit.port, options["cert"]).startswith(b"HTTP/1.1 200 ")
        with Client(unit.port) as client:  # plain HTTP to a TLS port
            client.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in client.sock.recv(4096)


def test_certificates_that_cannot_be_used(bench: Bench, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    other_cert, locked_key = certificate(tmp_path, "two", password="word")
    (tmp_path / "empty").write_text("")
    for tls in (
        Tls(cert, locked_key, "wrong"),
        Tls(cert, locked_key),
        Tls(other_cert, key),
        Tls(str(tmp_path / "empty"), key),
    ):
        with pytest.raises(ConfigError) as caught:
            bench.listen(0, "/", says("x"), tls=tls)
        assert tls.cert in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="none does not exist"):
        bench.listen(0, "/", says("x"), tls=Tls(cert, str(tmp_path / "none")))


def test_tls_and_plain_do_not_share(bench: Bench, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    route = bench.listen(0, "/a", says("a"), tls=Tls(cert, key))
    with pytest.raises(ConfigError, match="another certificate or without one"):
        bench.listen(route.port, "/b", says("b"))
    bench.listen(route.port, "/c", says("c"), tls=Tls(cert, key))
