"""Who may use the API: addresses, names of the server, origins of web pages, tokens, client certificates."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from modelbox.errors import ConfigError
from modelboxd.api.problems import Problem
from modelboxd.api.tokens import ROLES, Role, Token, hash_of, read_tokens
from modelboxd.server.listener import Tls
from modelboxd.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever sent a request."""

    address: str
    role: Role
    name: str = ""  # of its token or certificate; "" = it has none


def parse_networks(settings: Settings) -> list[Network]:
    """[acl] allow. Raises ConfigError."""
    networks = []
    for text in settings.acl.allow:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            where = settings.origins.get("acl.allow")
            hint = "such as 192.168.1.5 or 10.0.0.0/8"
            raise ConfigError(f"acl.allow: {text!r} is no address or range", where=where, hint=hint) from None
    return networks


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_of(settings: Settings) -> Tls | None:
    """The certificates of the API, tried; None without. Raises ConfigError."""
    server = settings.server
    if not server.cert:
        return None
    tls = Tls(server.cert, server.key, client_ca=server.client_ca)
    try:
        tls.context()
    except ConfigError as error:
        where = settings.origins.get("server.cert")
        raise ConfigError(error.message, where=where, hint="server.cert, server.key, server.client_ca") from None
    return tls


class Access:
    """The rules of one configuration. Raises ConfigError when it would open the API to strangers."""

    def __init__(self, settings: Settings) -> None:
        server = settings.server
        self._networks = parse_networks(settings)
        self._tokens: dict[str, Token] = (
            {token.hash: token for token in read_tokens(Path(server.tokens))} if server.tokens else {}
        )
        self._has_certificates = bool(server.client_ca)
        self._certificate_role = ROLES[server.client_role]
        self._secure = bool(server.cert)
        own = {"localhost", server.ip.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self._hosts = own | {name.lower().rstrip(".") for name in server.hosts}
        self._origins = {origin.lower().rstrip("/") for origin in server.origins}
        if self._has_certificates and not self._secure:
            where = settings.origins.get("server.client_ca")
            raise ConfigError("server.client_ca needs server.cert and server.key", where=where)
        if bool(server.cert) != bool(server.key):
            where = settings.origins.get("server.cert") or settings.origins.get("server.key")
            raise ConfigError("server.cert and server.key go together", where=where)
        guarded = bool(self._tokens) or self._has_certificates
        if not is_loopback(server.ip) and not guarded and not (settings.acl.allow and settings.acl.insecure):
            raise ConfigError(
                f"server.ip = {server.ip} lets other machines start programs here, and nothing keeps them from it",
                where=settings.origins.get("server.ip"),
                hint="set server.tokens (modelbox-tool token), or server.client_ca, or [acl] allow and insecure = true",
            )

    @property
    def has_tokens(self) -> bool:
        """Whether clients need one."""
        return bool(self._tokens)

    def check_address(self, address: str) -> None:
        """Raises Problem."""
        if not self._networks:
            return
        try:
            found: Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            raise Problem(403, "address_not_allowed", "the address of the client is not allowed") from None
        mapped = getattr(found, "ipv4_mapped", None)
        if not any((mapped or found) in network for network in self._networks):
            raise Problem(403, "address_not_allowed", "the address of the client is not allowed")

    def check_host(self, request: web.BaseRequest) -> None:
        """A page of a name that was rebound to our address calls us by that name. Raises Problem."""
        given = request.headers.getall("Host", [])
        if len(given) != 1:
            raise Problem(400, "bad_request", "one Host header is needed")
        names = [_host_name(given[0])]
        if request.host != given[0]:  # GET http://name/path, as proxies get it: then that name is meant
            names.append(request.host.lower().rstrip("."))
        for name in names:
            if name is None:
                raise Problem(400, "bad_request", "the Host header is not well-formed")
            if name not in self._hosts and not _is_address(name):
                raise Problem(403, "host_not_allowed", "the request names another server as host; see server.hosts")

    def check_origin(self, request: web.BaseRequest) -> None:
        """A web page may only use us if it came from us, or is allowed to. Raises Problem."""
        scheme = "https" if self._secure else "http"
        own = f"{scheme}://{request.headers.get('Host', '')}".lower()
        for origin in request.headers.getall("Origin", []):
            if origin.lower() not in self._origins and _normal(origin) != _normal(own):
                raise Problem(403, "origin_not_allowed", "web pages of this origin are not allowed; see server.origins")
        site = request.headers.get("Sec-Fetch-Site", "none").lower()
        allowed = request.headers.get("Origin", "").lower() in self._origins
        if request.method not in _SAFE and site in ("cross-site", "same-site") and not allowed:
            raise Problem(403, "origin_not_allowed", "a page of another site may not do this; see server.origins")

    def client(self, request: web.BaseRequest, address: str) -> Client:
        """Who sent a request. Raises Problem."""
        name = ""
        if self._has_certificates:  # the handshake has verified it
            certificate = request.get_extra_info("peercert") or {}
            name = next(
                (value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), ""
            )
        return self.identify(address, request.headers.get("Authorization", ""), name)

    def identify(self, address: str, authorization: str, name: str) -> Client:
        """Who that is, by the header and the name in the certificate; without tokens and certificates everybody is an
        admin. Raises Problem."""
        role = self._certificate_role if self._has_certificates else Role.ADMIN
        if not self._tokens:
            return Client(address, role, name)
        scheme, _, secret = authorization.partition(" ")
        token = self._tokens.get(hash_of(secret.strip())) if scheme.lower() == "bearer" else None
        if token is None:
            what = "the token is not known" if secret else "a token is needed: Authorization: Bearer ..."
            raise Problem(401, "unauthorized", what, {"WWW-Authenticate": 'Bearer realm="modelbox"'})
        return Client(address, token.role if not self._has_certificates else min(token.role, role), token.name)


def check_role(client: Client, role: Role) -> None:
    """Raises Problem."""
    if client.role < role:
        text = f"this needs the role {role.name.lower()}; yours is {client.role.name.lower()}"
        raise Problem(403, "forbidden", text)


def _host_name(host: str) -> str | None:
    """The name in a Host header, in lower case, without its port; None when it is no such header."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", host)
    if match is None:
        return None
    return (match[1] or match[2]).lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _normal(origin: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(origin.lower())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
