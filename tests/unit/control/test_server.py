"""The control socket: its place, its protocol, and clients that mean no good."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelbox.errors import ConfigError
from modelboxd.control import server as server_module
from modelboxd.control.client import Control, ControlError
from modelboxd.control.place import Place
from modelboxd.control.server import CONNECTIONS_MAX, REQUEST_BYTES, CommandError, ControlServer, Held

LIMIT_S = 30.0


def echo(request: dict[str, Any]) -> Any:
    return request


def refuse(_: dict[str, Any]) -> Any:
    raise CommandError("not today\nor tomorrow", hint="ask again")


def broken(_: dict[str, Any]) -> Any:
    raise ZeroDivisionError("oh")


class Served:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "c.sock"
        self.gate = threading.Event()
        commands = {"echo": echo, "refuse": refuse, "broken": broken, "wait": self.wait, "held": self.held}
        self.server = ControlServer(Place(self.path), commands)
        self.server.start()

    def wait(self, _: dict[str, Any]) -> Any:
        assert self.gate.wait(LIMIT_S)
        return "waited"

    def held(self, _: dict[str, Any]) -> Any:
        return Held("soon")

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        sock.settimeout(LIMIT_S)
        return sock

    def ask(self, command: str, **options: Any) -> Any:
        with Control(self.path) as control:
            return control.ask(command, **options)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.gate.set()
    made.server.stop()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it was cut off
        while part := sock.recv(65536):
            data += part
    return data


# ---- the place ----------------------------------------------------------------------------------------------------


def test_only_the_owner_may_connect_and_nothing_is_left_behind(tmp_path: Path) -> None:
    served = Served(tmp_path / "made")
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    served.server.stop()
    assert list((tmp_path / "made").iterdir()) == []


def test_what_a_crash_has_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    (tmp_path / "c.sock.lock").touch()
    with pytest.raises(ControlError, match=r"no server runs: its control socket .*c\.sock was left over"):
        Control(path)
    place = Place(path)
    place.close()
    place.socket.close()


def test_two_servers_at_one_path(served: Served) -> None:
    with pytest.raises(ConfigError, match=f"another server is at {served.path}"):
        Place(served.path)
    assert served.ask("echo", word="x")["word"] == "x"  # the first one goes on


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="is there already and is no socket"):
        Place(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "file.lock").exists()
    with pytest.raises(ConfigError, match=r"control.listen: .*file\S*: (Not a directory|File exists)"):
        Place(tmp_path / "file" / "c.sock")
    with pytest.raises(ConfigError, match="longer than the 107 bytes"):
        Place(tmp_path / ("x" * 108))


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=f"no server runs: there is no control socket {tmp_path}/none"):
        Control(tmp_path / "none")


# ---- the protocol -------------------------------------------------------------------------------------------------


def test_answers_and_errors(served: Served) -> None:
    assert served.ask("echo", number=5) == {"command": "echo", "number": 5}
    with pytest.raises(ControlError, match=r"^not today\\nor tomorrow \(ask again\)$"):
        served.ask("refuse")
    with pytest.raises(ControlError, match="internal error: ZeroDivisionError: oh; please report this"):
        served.ask("broken")
    with pytest.raises(ControlError, match="there is no such command; there are broken, echo, held"):
        served.ask("nothing")


@pytest.mark.parametrize(
    "line", [b"garbage\n", b"\xff\xfe\n", b"[1]\n", b"{}\n", b"[" * 4000 + b"\n", b'{"command": []}\n']
)
def test_garbage(served: Served, line: bytes) -> None:
    with served.connect() as sock:
        sock.sendall(line)
        assert set(json.loads(read_all(sock))) == {"error"}
    assert served.ask("echo")


def test_a_line_without_end_is_not_read_to_its_end(served: Served) -> None:
    with served.connect() as sock:
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 1 << 30:
                sent += sock.send(b"x" * 65536)
        assert sent < 16 << 20  # what the kernel and two buffers take
    assert served.ask("echo")


def test_a_client_that_says_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 0.2)
    with served.connect() as sock:
        assert json.loads(read_all(sock))["error"] == "no request came within 0.2 s"
    with served.connect() as sock:
        sock.sendall(b'{"command"')
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""


def test_a_thousand_connections(served: Served) -> None:
    there = len(os.listdir("/proc/self/fd"))
    socks = [served.connect() for _ in range(1000)]
    assert served.ask("echo", word="x")["word"] == "x"  # a newcomer gets in
    ours = len(os.listdir("/proc/self/fd")) - there - len(socks)
    assert ours <= CONNECTIONS_MAX + 1
    for sock in socks:
        sock.close()
    assert served.ask("echo")


def test_commands_that_hang_do_not_keep_others_from_being_answered(served: Served) -> None:
    waiting = []
    for _ in range(server_module.COMMANDS_MAX - 1):
        sock = served.connect()
        sock.sendall(b'{"command": "wait"}\n')
        waiting.append(sock)
    assert served.ask("echo")
    served.gate.set()
    for sock in waiting:
        assert json.loads(read_all(sock)) == {"result": "waited"}
        sock.close()


def test_too_many_commands(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "COMMANDS_MAX", 0)
    with pytest.raises(ControlError, match="0 commands run already; try again later"):
        served.ask("echo")


def test_another_user_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_uid", lambda sock: 12345)
    with pytest.raises(ControlError, match="user 12345 may not use the control socket"):
        served.ask("echo")


def test_the_kernel_says_who_the_peer_is() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert server_module.peer_uid(one) == os.geteuid()


def test_a_client_that_is_held_sees_the_end(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with Control(served.path) as control:
        assert control.ask("held") == "soon"
        ender = threading.Thread(target=served.server.stop)
        ender.start()
        control.wait_for_end()
        ender.join(LIMIT_S)


def test_a_request_of_the_largest_size(served: Served) -> None:
    request = json.dumps({"command": "echo", "pad": ""}).encode()
    pad = "x" * (REQUEST_BYTES - len(request) - 1)
    assert served.ask("echo", pad=pad)["pad"] == pad
