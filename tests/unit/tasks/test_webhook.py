"""Webhooks: where they may go, and how they are signed."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from modelbox.errors import ConfigError
from modelboxd.settings import TaskSettings
from modelboxd.tasks.model import TaskInputError
from modelboxd.tasks.webhook import Webhooks, is_own, signature


def hooks(*hosts: str, secret: str = "") -> Webhooks:
    settings = TaskSettings(webhook_hosts=hosts, webhook_secret=secret)
    return Webhooks(settings, cast(Any, None), lambda _: {})


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/a?b=c",
        "https://hooks.example.com/",
        "http://HOOKS.example.com:80",
        "http://10.0.0.5:8080/x",
        "http://[::1]:9000/",
    ],
)
def test_allowed(url: str) -> None:
    hooks("hooks.example.com", "10.0.0.5:8080", "[::1]:9000").check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example.com/",
        "http://hooks.example.com.evil.org/",
        "http://hooks.example.com:81/",
        "http://10.0.0.5/",
        "http://hooks.example.com@evil.org/",
        "http://user:secret@hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "//hooks.example.com/",
        "http:///x",
        "http://hooks.example.com:99999/",
        "http://hooks.example.com\\@evil.org/",
        "http://hooks.example.com/\r\nX: y",
        "http://hooks.example.com/ x",
        "http://hooks.exämple.com/",
        "http://[::1/",
        "http://169.254.169.254/latest",
        "http://hooks.example.com/" + "a" * 3000,
        "",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(TaskInputError) as caught:
        hooks("hooks.example.com", "10.0.0.5:8080").check(url)
    assert caught.value.problems[0][0] == "?webhook"


def test_nothing_is_allowed_without_hosts() -> None:
    with pytest.raises(TaskInputError, match="names no host"):
        hooks().check("http://localhost/")


@pytest.mark.parametrize("host", ["", "*.example.com", "http://x/", "a@b", "x:port", "exämple.com"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ConfigError, match="is no host"):
        hooks(host)


def test_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match="cannot be read"):
        hooks(secret=str(file))
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="less than 16 bytes"):
        hooks(secret=str(file))
    file.write_text("0123456789abcdef\n")
    hooks(secret=str(file))


def test_signature() -> None:
    # echo -n '12.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
    expected = "sha256=" + hmac.new(b"0123456789abcdef", b"12.{}", "sha256").hexdigest()
    assert signature(b"0123456789abcdef", "12", b"{}") == expected
    assert signature(b"0123456789abcdef", "13", b"{}") != expected


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("169.254.169.254", True), ("fe80::1", True),
     ("0.0.0.0", True), ("10.0.0.1", False), ("93.184.216.34", False), ("2001:db8::1", False)],
)  # fmt: skip
def test_addresses_of_this_machine(address: str, own: bool) -> None:
    assert is_own(ipaddress.ip_address(address)) is own


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_to_this_machine_is_not_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        place: tuple[Any, ...] = (address, port, 0, 0) if family == socket.AF_INET6 else (address, port)
        return [(family, socket.SOCK_STREAM, 6, "", place)]

    async def attempt(port: int) -> str:
        made = hooks(f"hooks.example.com:{port}")
        try:
            return await made._try(f"http://hooks.example.com:{port}/", b"{}", "task-1")
        finally:
            await made.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        error = asyncio.run(attempt(listener.getsockname()[1]))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            listener.accept()
    assert asked and "leads to" in error, error
