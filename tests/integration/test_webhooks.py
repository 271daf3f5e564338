"""Webhooks of tasks through a real daemon: signed, tried again, refused, and those that hang."""

from __future__ import annotations

import hmac
import http.client
import http.server
import json
import queue
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.integration.server import LIMIT_S
from tests.integration.tasks import Rig


class Receiver:
    """An HTTP server that gets webhooks. `answers`: the statuses it gives, one after the other; 0 = none at all."""

    def __init__(self, *answers: int) -> None:
        self.got: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        left = list(answers)
        release = self.release = threading.Event()
        got = self.got

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = left.pop(0) if left else 204
                if not status:
                    release.wait(LIMIT_S)
                got.put((dict(self.headers), body))
                self.send_response(status or 204)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


def test_webhooks(rigs: Any, tmp_path: Path) -> None:
    receiver = Receiver(500, 302)
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n")
    host = urlsplit(receiver.url).netloc
    rig: Rig = rigs(f'[tasks]\nwebhook_hosts = ["{host}"]\nwebhook_secret = "{secret}"\n')
    try:
        task_id = rig.start("ada", f"&webhook={receiver.url}")
        for _ in range(3):  # an error and a redirect, which is not followed
            headers, body = receiver.got.get(timeout=LIMIT_S)
        told = json.loads(body)
        assert (told["id"], told["outputs"]) == (task_id, {"out": [{"text": "ADA"}]})
        assert headers["X-Modelbox-Task"] == task_id
        signed = headers["X-Modelbox-Timestamp"].encode() + b"." + body
        expected = hmac.new(b"0123456789abcdef", signed, "sha256").hexdigest()
        assert headers["X-Modelbox-Signature"] == f"sha256={expected}"
        while (hook := rig.end(task_id)["webhook"])["state"] == "sending":
            pass
        assert hook == {"url": receiver.url, "state": "delivered", "attempts": 3}
        # it is told of failures and of what was cancelled, too
        rig.start("bad", f"&webhook={receiver.url}")
        assert json.loads(receiver.got.get(timeout=LIMIT_S)[1])["error"]["node"] == "work"
        for url in ("http://127.0.0.1:22/", "http://localhost/", f"http://{host}@evil.org/", "gopher://x/"):
            assert rig.send(b"x", f"?webhook={url}")[0] == 422
        assert "0123456789abcdef" not in "\n".join(rig.server.lines)
    finally:
        receiver.close()


def test_webhooks_that_hang_stop_nobody(rigs: Any) -> None:
    receiver = Receiver(*[0] * 20)
    rig: Rig = rigs(f'[tasks]\nwebhook_hosts = ["{urlsplit(receiver.url).netloc}"]\n')
    try:
        ids = [rig.start("x", f"&webhook={receiver.url}") for _ in range(20)]
        assert {rig.end(task_id)["webhook"]["state"] for task_id in ids} == {"sending"}
        assert rig.send(b"x")[0] == 200
        assert rig.server.stop() == 0
    finally:
        receiver.close()
