"""Starts an outside service and modelbox with the plugin, waits until all orders have their results, stops; see the
README.md beside it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HERE = Path(__file__).resolve().parent
LIMIT_S = 60.0
ORDERS = [
    {"id": 1, "items": [{"count": 2, "cents": 250}, {"count": 1, "cents": 99}]},
    {"id": 2, "items": []},
    {"id": 3, "items": [{"count": "three", "cents": 1}]},  # a mistake: its result is an error
]


class Outside(BaseHTTPRequestHandler):
    """The service that knows nothing of modelbox."""

    results: dict = {}
    all_there = threading.Event()

    def do_GET(self):
        after = int(parse_qs(urlsplit(self.path).query)["after"][0])
        self.answer([order for order in ORDERS if order["id"] > after])

    def do_POST(self):
        result = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.results[result["id"]] = result
        self.answer({})
        if len(self.results) == len(ORDERS):
            self.all_there.set()

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


def main():
    outside = ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=outside.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as state:
        env = {
            **os.environ,
            "ORDERS_URL": f"http://127.0.0.1:{outside.server_port}",
            "ORDERS_PORT": "0",
            "ORDERS_STATE": state,
            "ORDERS_FOLDER": str(HERE),
        }
        command = [sys.executable, "-m", "modelboxd", "-f", "-c", str(HERE / "modelbox.conf")]
        server = subprocess.Popen(command, env=env, cwd=HERE.parents[1])
        done = Outside.all_there.wait(LIMIT_S)
        server.send_signal(signal.SIGTERM)
        code = server.wait(LIMIT_S)
    for _, result in sorted(Outside.results.items()):
        print(json.dumps(result))
    return 0 if done and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
