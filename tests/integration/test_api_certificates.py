"""The API with certificates on both sides: only clients whose certificate our authority has signed are heard."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelboxd.api.tokens import new_token, write_token
from tests.integration.server import LIMIT_S, Server


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """A certificate that signs others, NAME.pem, beside its key."""
    made = folder / f"{name}.pem"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", folder / f"{name}.key", "-out", made,
    )  # fmt: skip
    return made


def signed(folder: Path, name: str, by: Path, days: int = 2) -> tuple[Path, Path]:
    """Certificate and key of NAME; `days` < 0: it is over already."""
    cert, key, request, more = (folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    more.write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", request, "-CA", by, "-CAkey", by.with_suffix(".key"), "-CAcreateserial",
        "-days", days, "-extfile", more, "-out", cert,
    )  # fmt: skip
    return cert, key


class Site:
    """A server that wants certificates, and those of some clients."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self.ours, other = authority(folder, "ours"), authority(folder, "other")
        cert, key = signed(folder, "server", self.ours)
        self.known = signed(folder, "known", self.ours)
        self.foreign = signed(folder, "foreign", other)
        self.over = signed(folder, "over", self.ours, days=-1)
        files = f'cert = "{cert}"\nkey = "{key}"\nclient_ca = "{self.ours}"\n'
        self.server = Server(config=f"[server]\n{files}{config}", folder=folder).ready()

    def ask(
        self, client: tuple[Path, Path] | None, method: str, path: str, body: Any = None, token: str = ""
    ) -> tuple[int, Any]:
        """One request with a client's certificate. Raises OSError where the server does not hear it."""
        context = ssl.create_default_context(cafile=str(self.ours))
        if client is not None:
            context.load_cert_chain(*client)
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.api, context=context, timeout=LIMIT_S)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")
        finally:
            connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, 'client_role = "read"\n')
    yield made
    assert made.server.stop() == 0


def test_who_is_heard(site: Site) -> None:
    assert site.ask(site.known, "GET", "/v1/jobs")[0] == 200
    for stranger in (None, site.foreign, site.over):
        with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
            site.ask(stranger, "GET", "/v1/jobs")
    plain = http.client.HTTPConnection("127.0.0.1", site.server.api, timeout=LIMIT_S)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("GET", "/v1/jobs")
        plain.getresponse()
    plain.close()
    assert site.ask(site.known, "GET", "/health/live")[0] == 200


def test_what_they_may_do(site: Site) -> None:
    status, problem = site.ask(site.known, "POST", "/v1/reload")
    assert (status, problem["code"]) == (403, "forbidden")
    assert "needs the role admin; yours is read" in problem["detail"]


def test_a_token_besides(tmp_path: Path) -> None:
    secret, token = new_token("someone", "operate")
    write_token(tmp_path / "tokens", token)
    site = Site(tmp_path, f'client_role = "admin"\ntokens = "{tmp_path}/tokens"\n')
    assert site.ask(site.known, "GET", "/v1/jobs")[0] == 401
    assert site.ask(site.known, "GET", "/v1/jobs", token=secret)[0] == 200
    status, problem = site.ask(site.known, "POST", "/v1/reload", token=secret)
    assert (status, "yours is operate" in problem["detail"]) == (403, True)
    assert site.server.stop() == 0
