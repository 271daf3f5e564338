"""Telling other servers of the end of a task: POST, signed, again after failures, and to allowed hosts only.

A request must not make this server speak to a place that its operator has not named (server-side request forgery):
the host of a webhook has to stand in tasks.webhook_hosts, redirects are not followed, and what a name resolves to must
not be a loopback or link-local address unless the name is written as such an address.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

from modelbox.errors import BusyError, ConfigError
from modelboxd.tasks.model import Hook, Task, TaskInputError

if TYPE_CHECKING:
    from modelboxd.jobs.runtime import Runtime
    from modelboxd.settings import TaskSettings

log = logging.getLogger(__name__)

TRY_S = 10.0  # of one attempt
DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # between attempts
WAITING_MAX = 1000  # webhooks that are under way or wait
PER_HOST = 4  # attempts side by side, so that a host that hangs does not stop others
URL_MAX = 2048
PORTS = {"http": 80, "https": 443}


def signature(secret: bytes, moment: str, body: bytes) -> str:
    """HMAC-SHA256 over the time, a point and the body."""
    return "sha256=" + hmac.new(secret, moment.encode() + b"." + body, hashlib.sha256).hexdigest()


class _Refused(OSError):
    """A name leads to an address that it must not lead to."""


class _Resolver(AbstractResolver):
    """Resolves names, but not to this machine or its link."""

    def __init__(self) -> None:
        self._threaded = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
        """Addresses of a name. Raises OSError."""
        found = await self._threaded.resolve(host, port, family)
        for entry in found:
            address = ipaddress.ip_address(entry["host"].partition("%")[0])
            if host != "localhost" and is_own(address):
                raise _Refused(errno.EACCES, f"{host} leads to {address}")
        return found

    async def close(self) -> None:
        """Nothing is held."""


def is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address means this machine, its link or nobody."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast


class Webhooks:
    """All webhooks of the daemon. [I/O thread]"""

    def __init__(
        self,
        settings: TaskSettings,
        runtime: Runtime,
        view: Callable[[Task], dict[str, Any]],
        *,
        delays_s: tuple[float, ...] = DELAYS_S,
        try_s: float = TRY_S,
    ) -> None:
        """Raises ConfigError: a host or the file of the secret cannot be used."""
        self._allowed: dict[str, set[int]] = {}
        for text in settings.webhook_hosts:
            host, ports = _allowed(text)
            self._allowed.setdefault(host, set()).update(ports)
        self._secret = _read_secret(settings.webhook_secret)
        self._runtime = runtime
        self._view = view
        self._delays_s = delays_s
        self._try_s = try_s
        self._session: aiohttp.ClientSession | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._hosts: dict[str, asyncio.Semaphore] = {}

    def check(self, url: str) -> None:
        """Whether a client may name this URL. Raises TaskInputError, BusyError."""
        if not self._allowed:
            raise _refused("is not possible: tasks.webhook_hosts of modelbox.conf names no host")
        if len(url) > URL_MAX or not url.isascii() or any(char <= " " or char == "\\" for char in url):
            raise _refused(f"must be a URL of at most {URL_MAX} plain characters")
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refused("is no URL") from None
        if parts.scheme not in PORTS or not parts.hostname:
            raise _refused("must begin with http:// or https:// and a host")
        if "@" in parts.netloc:
            raise _refused("must not hold a name or password")
        ports = self._allowed.get(parts.hostname.lower())
        if ports is None or port not in ports:
            raise _refused(f"names {parts.netloc[:80]}, which is not in tasks.webhook_hosts")
        if len(self._sending) >= WAITING_MAX:
            error = BusyError("too many webhooks wait")
            error.retry_after_s = 5.0
            raise error

    def send(self, task: Task) -> None:
        """Tells of the end of a task, and keeps trying."""
        hook = task.hook
        assert hook is not None
        if len(self._sending) >= WAITING_MAX:
            hook.state, hook.error = "failed", "too many webhooks wait"
            return
        hook.state = "sending"
        sending = self._runtime.io.loop.create_task(self._deliver(task, hook))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _deliver(self, task: Task, hook: Hook) -> None:
        body = json.dumps(self._view(task)).encode()
        host = urlsplit(hook.url).netloc.lower()
        turns = self._hosts.setdefault(host, asyncio.Semaphore(PER_HOST))
        for delay in (*self._delays_s, None):
            async with turns:
                hook.attempts += 1
                hook.error = await self._try(hook.url, body, task.id)
            if not hook.error:
                hook.state = "delivered"
                return
            if delay is not None:
                await asyncio.sleep(delay)
        hook.state = "failed"
        log.warning(
            "webhook of task %s to %s failed %d times: %s", task.id, host, hook.attempts, hook.error,
            extra={"job": task.job, "task": task.id},
        )  # fmt: skip

    async def _try(self, url: str, body: bytes, task_id: str) -> str:
        """One attempt. Returns why it failed; "" when it did not."""
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=_Resolver(), limit=0, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
        moment = str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "modelbox", "X-Modelbox-Task": task_id}
        if self._secret:
            headers["X-Modelbox-Timestamp"] = moment
            headers["X-Modelbox-Signature"] = signature(self._secret, moment, body)
        limit = aiohttp.ClientTimeout(total=self._try_s)
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                return "" if 200 <= answer.status < 300 else f"it answered {answer.status}"
        except TimeoutError:
            return f"no answer within {self._try_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"[:200]

    async def close(self) -> None:
        """What is under way is given up."""
        for sending in list(self._sending):
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


def _refused(text: str) -> TaskInputError:
    return TaskInputError([("?webhook", text)])


def _allowed(text: str) -> tuple[str, tuple[int, ...]]:
    """Host and ports of an entry of tasks.webhook_hosts; no port: 80 and 443. Raises ConfigError."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path or "@" in text or "*" in text or not text.isascii():
        raise ConfigError(
            f"tasks.webhook_hosts: {text!r} is no host", hint="such as hooks.example.com or 10.0.0.5:8080"
        )
    return host.lower(), (port,) if port else tuple(PORTS.values())


def _read_secret(file: str) -> bytes:
    """The secret that signs webhooks. Raises ConfigError."""
    if not file:
        return b""
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"tasks.webhook_secret: {file} cannot be read: {error.strerror}") from None
    if len(secret) < 16:
        raise ConfigError(
            f"tasks.webhook_secret: {file} has less than 16 bytes", hint="openssl rand -hex 32 makes some"
        )
    return secret
