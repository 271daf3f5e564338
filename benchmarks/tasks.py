"""Tasks over the API against a bare aiohttp handler that does the same work, and the API's latency under load."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import TOP, free_port, interleaved, wait_port

Row = tuple[str, str, str, str, str]
CLIENTS, SECONDS, ROUNDS = 8, 3.0, 3
JPEG_SIDE = 1280, 960
# Decodes, resizes and normalises, as benchmarks/run.py does in its graph.
BASELINE = """
import asyncio, sys
import cv2
import numpy as np
from aiohttp import web

def work(body):
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(image, (224, 224))

async def picture(request):
    result = await asyncio.to_thread(work, await request.read())
    return web.Response(body=result.tobytes(), content_type="application/octet-stream")

async def echo(request):
    return web.Response(body=await request.read(), content_type="application/octet-stream")

cv2.setNumThreads(1)
app = web.Application(client_max_size=1 << 26)
app.router.add_post("/picture", picture)
app.router.add_post("/echo", echo)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""
GRAPHS = {
    "picture": """i [type=input]; o [type=output]
        d [flowunit=image_decoder]; r [flowunit=resize, image_width=224, image_height=224]
        i -> d:in_encoded_image; d:out_image -> r:in_image; r:out_image -> o""",
    "echo": "i [type=input]; o [type=output]; i -> o",
}


def load(port: int, path: str, body: bytes, clients: int = CLIENTS, seconds: float = SECONDS) -> float:
    """Requests per second of some connections that ask one after the other."""
    counts = [0] * clients
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Content-Type": "image/jpeg", "Accept": "application/octet-stream"}
        while time.perf_counter() < end:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def latency(port: int, count: int = 300) -> float:
    """p99 of GET /v1/jobs in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        connection.request("GET", "/v1/jobs")
        connection.getresponse().read()
        times.append(time.perf_counter() - start)
    connection.close()
    return statistics.quantiles(times, n=100)[98]


def tasks() -> list[Row]:
    """Throughput of tasks, and what a saturated engine does to the API."""
    with tempfile.TemporaryDirectory() as scratch:
        port, bare = free_port(), free_port()
        folder = Path(scratch)
        (folder / "modelbox.conf").write_text(f'[server]\nport = {port}\nstate_dir = "{scratch}/state"\n')
        command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(folder / "modelbox.conf")]
        for name, dot in GRAPHS.items():
            text = f'[graph]\nformat = "graphviz"\ngraphconf = """digraph {name} {{ {dot} }}"""\n'
            (folder / f"{name}.toml").write_text(text)
            command += ["--graph", str(folder / f"{name}.toml")]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": TOP}
        ours = subprocess.Popen(command, **quiet)
        theirs = subprocess.Popen([sys.executable, "-c", BASELINE, str(bare)], **quiet)
        try:
            wait_port(port)
            wait_port(bare)
            _wait_jobs(port, len(GRAPHS))
            return _measure(port, bare)
        finally:
            for child in (ours, theirs):
                child.terminate()
                child.wait()


def _wait_jobs(port: int, count: int) -> None:
    running = 0
    while running < count:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/v1/jobs")
        jobs = json.loads(connection.getresponse().read())["jobs"]
        connection.close()
        running = sum(job["state"] == "running" for job in jobs)
        time.sleep(0.05)


def _measure(port: int, bare: int) -> list[Row]:
    import cv2
    import numpy as np

    noise = np.random.default_rng(7).integers(0, 255, (JPEG_SIDE[1] // 8, JPEG_SIDE[0] // 8, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.resize(noise, JPEG_SIDE))[1].tobytes()
    rows: list[Row] = []
    for name, body, goal in (("picture", jpeg, ">= 0.80"), ("echo", b"x" * 100, "")):
        one, other = interleaved(
            ROUNDS,
            lambda: load(port, f"/v1/jobs/{name}/tasks", body),
            lambda: load(bare, f"/{name}", body),
        )
        what = "decode and resize" if name == "picture" else "100 bytes back"
        label = f"tasks over the API, {what}, {CLIENTS} connections"
        rows.append((label, f"{one:.0f}/s", f"aiohttp {other:.0f}/s", f"{one / other:.2f}", goal))
    idle = latency(port)
    stop = threading.Thread(target=load, args=(port, "/v1/jobs/picture/tasks", jpeg, 4 * CLIENTS, 8.0))
    stop.start()
    time.sleep(1.0)  # until its connections are there
    busy = latency(port)
    stop.join()
    more = (busy - idle) * 1e3
    rows.append(
        ("API latency p99 while the engine is saturated", f"{busy * 1e3:.1f} ms", f"idle {idle * 1e3:.1f} ms",
         f"+{more:.1f} ms", "< +20 ms")
    )  # fmt: skip
    return rows
