"""Who may use the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from modelbox.errors import ConfigError
from modelboxd.api.access import Access, check_role
from modelboxd.api.limits import Limits, Rate
from modelboxd.api.problems import Problem
from modelboxd.api.tokens import Role, hash_of, new_token, read_tokens, write_token
from modelboxd.settings import AclSettings, ServerSettings, Settings


class Request:
    """What Access looks at."""

    def __init__(self, method: str = "GET", certificate: Any = None, **headers: str) -> None:
        self.method = method
        self.headers = CIMultiDict(
            {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        )
        self.host = self.headers["Host"]
        self._certificate = certificate

    def get_extra_info(self, name: str) -> Any:
        assert name == "peercert"
        return self._certificate


def access(*, allow: tuple[str, ...] = (), insecure: bool = False, **server: Any) -> Access:
    return Access(Settings(server=ServerSettings(**server), acl=AclSettings(allow=allow, insecure=insecure)))


def refused(check: Any, *arguments: Any) -> str:
    with pytest.raises(Problem) as caught:
        check(*arguments)
    return f"{caught.value.status} {caught.value.code}"


@pytest.mark.parametrize(
    ("host", "verdict"),
    [
        ("localhost", ""), ("LOCALHOST:1104", ""), ("127.0.0.1:1104", ""), ("[::1]:1104", ""), ("192.168.1.7", ""), ("api.example.", ""),
        ("evil.com", "403 host_not_allowed"), ("localhost.evil.com", "403 host_not_allowed"), ("127.0.0.1.evil.com", "403 host_not_allowed"),
        ("evil.com:1104", "403 host_not_allowed"), ("0x7f.1", "403 host_not_allowed"), ("a b", "400 bad_request"), ("", "400 bad_request"),
        ("localhost@evil.com", "400 bad_request"), ("localhost:x", "400 bad_request"), ("[::1", "400 bad_request"), ("evil.com/localhost", "400 bad_request"),
    ],
)  # fmt: skip
def test_hosts(host: str, verdict: str) -> None:
    guard = access(hosts=("api.example",))
    request = cast(Any, Request(Host=host))
    if verdict:
        assert refused(guard.check_host, request) == verdict
    else:
        guard.check_host(request)


def test_one_host_is_needed() -> None:
    request = Request()
    request.headers.add("Host", "evil.com")
    assert refused(access().check_host, request) == "400 bad_request"
    del request.headers["Host"]
    assert refused(access().check_host, request) == "400 bad_request"


@pytest.mark.parametrize(
    ("method", "headers", "good"),
    [
        ("GET", {}, True),
        ("POST", {}, True),
        ("POST", {"Origin": "http://localhost:1104"}, True),
        ("POST", {"Origin": "https://shop.example"}, True),
        ("POST", {"Origin": "https://shop.example", "Sec_Fetch_Site": "cross-site"}, True),
        ("POST", {"Origin": "http://shop.example"}, False),
        ("POST", {"Origin": "http://localhost:9"}, False),
        ("POST", {"Origin": "http://evil.com"}, False),
        ("GET", {"Origin": "http://evil.com"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": "file://"}, False),
        ("POST", {"Sec_Fetch_Site": "cross-site"}, False),
        ("POST", {"Sec_Fetch_Site": "same-origin"}, True),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, True),
    ],
)
def test_origins(method: str, headers: dict[str, str], good: bool) -> None:
    guard = access(origins=("https://shop.example/",))
    request = Request(method, Host="localhost:1104", **headers)
    if good:
        guard.check_origin(cast(Any, request))
    else:
        assert refused(guard.check_origin, request) == "403 origin_not_allowed"


def test_addresses() -> None:
    guard = access(allow=("10.0.0.0/8", "::1", "192.168.1.5"))
    for address in ("10.1.2.3", "::1", "192.168.1.5", "::ffff:10.1.2.3"):
        guard.check_address(address)
    for address in ("11.1.2.3", "::2", "192.168.1.6", "::ffff:11.1.2.3", "", "nonsense"):
        assert refused(guard.check_address, address) == "403 address_not_allowed"
    access().check_address("8.8.8.8")
    with pytest.raises(ConfigError, match=r"acl.allow: '10.0.0.0/33' is no address or range"):
        access(allow=("10.0.0.0/33",))


@pytest.fixture
def token_file(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A file with a token per role; the secrets by role."""
    secrets = {}
    for role in ("read", "operate", "admin"):
        secrets[role], token = new_token(f"my-{role}", role)
        write_token(tmp_path / "tokens", token)
    return str(tmp_path / "tokens"), secrets


def test_tokens(token_file: tuple[str, dict[str, str]]) -> None:
    path, secrets = token_file
    guard = access(tokens=path)
    for role, secret in secrets.items():
        client = guard.client(cast(Any, Request(Authorization=f"Bearer {secret}")), "1.2.3.4")
        assert (client.name, client.role) == (f"my-{role}", Role[role.upper()])
    for wrong in (
        "",
        "Bearer",
        "Bearer x",
        f"Basic {secrets['admin']}",
        secrets["admin"],
        f"Bearer {secrets['admin']}x",
        "Bearer \udcff",
    ):
        headers = {"Authorization": wrong} if wrong else {}
        assert refused(guard.client, Request(**headers), "1.2.3.4") == "401 unauthorized"
    reader = guard.client(cast(Any, Request(Authorization=f"bearer  {secrets['read']}")), "1.2.3.4")
    check_role(reader, Role.READ)
    assert refused(check_role, reader, Role.OPERATE) == "403 forbidden"
    text = Path(path).read_text()
    assert not any(secret in text for secret in secrets.values())
    assert all(hash_of(secret) in text for secret in secrets.values())


def test_token_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_tokens(path)
    write_token(path, new_token("a", "read")[1])
    assert path.stat().st_mode & 0o777 == 0o600
    good = path.read_text()
    path.write_text("# a comment\n\n" + good)
    assert [token.name for token in read_tokens(path)] == ["a"]
    for line in ("a read", "a root sha256:" + "0" * 64, "a read sha256:" + "0" * 63, "a read plain-secret"):
        path.write_text(good + line + "\n")
        with pytest.raises(ConfigError, match=r"tokens:2: this is no token") as caught:
            read_tokens(path)
        assert "plain-secret" not in str(caught.value)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="has no token"):
        read_tokens(path)
    path.write_text(good)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by others"):
        read_tokens(path)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_strangers_are_kept_out(address: str, token_file: tuple[str, dict[str, str]]) -> None:
    for more in ({}, {"allow": ("10.0.0.0/8",)}, {"insecure": True}):
        with pytest.raises(ConfigError, match="lets other machines start programs here"):
            access(ip=address, **cast(Any, more))
    access(ip=address, tokens=token_file[0])
    access(ip=address, allow=("10.0.0.0/8",), insecure=True)
    access(ip=address, cert="c", key="k", client_ca="ca")
    for mine in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        access(ip=mine)


def test_certificates() -> None:
    guard = access(cert="c", key="k", client_ca="ca", client_role="operate")
    client = guard.client(cast(Any, Request(certificate={"subject": ((("commonName", "robot"),),)})), "1.2.3.4")
    assert (client.name, client.role) == ("robot", Role.OPERATE)
    with pytest.raises(ConfigError, match=r"client_ca needs server.cert"):
        access(client_ca="ca")
    with pytest.raises(ConfigError, match="go together"):
        access(cert="c")


def test_rate() -> None:
    rate = Rate(2.0, 4.0)
    assert [rate.take("a", 10.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert rate.take("b", 10.0) == 0.0
    assert rate.take("a", 10.5) == 0.0
    assert rate.take("a", 10.5) > 0.0
    assert rate.left("a", 100.0) == 4.0


def test_limits() -> None:
    limits = Limits(2)
    limits.check_request("a", 1.0)
    limits.check_request("a", 1.0)
    assert refused(limits.check_request, "a", 1.0) == "429 too_many_requests"
    limits.check_request("a", 1.6)
    for _ in range(20):
        limits.check_guesses("a", 1.0)
        limits.wrong_token("a", 1.0)
    assert refused(limits.check_guesses, "a", 1.0) == "429 too_many_requests"
    limits.check_guesses("b", 1.0)
    limits.check_guesses("a", 5.0)
    for _ in range(1000):
        Limits(0).check_request("a", 1.0)
