"""examples/ocr against rapidocr behind aiohttp: 8 connections post pictures, requests per second."""

from __future__ import annotations

import http.client
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import TOP, free_port, interleaved, wait_port

from modelboxd.cpus import cpu_count

CONNECTIONS, REQUESTS, ROUNDS = 8, 20, 3
WORDS = ["Invoice", "order", "total", "paid", "number", "date", "amount", "customer", "delivery", "street"]


def pictures() -> list[bytes]:
    """A photo of a page, the same larger and upside down, a table, a slanted note, and a photo without text."""
    import cv2

    page: Any = cv2.imread(str(TOP / "examples/text_detection/page.png"))
    table: npt.NDArray[np.uint8] = np.full((600, 900, 3), 255, np.uint8)
    for row in range(8):
        for column in range(3):
            text = f"{WORDS[(3 * row + column) % len(WORDS)]} {row * 37 + column * 11}"
            at = (30 + column * 290, 60 + row * 65)
            cv2.putText(table, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((450, 300), 12, 0.8)
    slanted = cv2.warpAffine(table[:330], turn, (900, 600), borderValue=(255, 255, 255))
    large = cv2.rotate(cv2.resize(page, None, fx=2, fy=2), cv2.ROTATE_180)
    blank = cv2.GaussianBlur(cv2.resize(page[:40, 300:340], (640, 480)), (0, 0), 30)
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in (page, large, table, slanted, blank)]


def post(port: int, bodies: list[bytes]) -> list[bytes]:
    """The answers to all bodies, posted over CONNECTIONS connections."""
    left: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    for item in enumerate(bodies):
        left.put(item)
    answers: list[bytes] = [b""] * len(bodies)

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            try:
                number, body = left.get_nowait()
            except queue.Empty:
                connection.close()
                return
            connection.request("POST", "/v1/ocr", body)
            response = connection.getresponse()
            answers[number] = response.read()
            if response.status != 200:
                answers[number] = b"{}"

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def texts(answer: bytes) -> list[str]:
    return [line["text"] for line in json.loads(answer)["lines"]]


def measure(servers: list[list[str]], ports: list[int], rounds: int = ROUNDS) -> list[float]:
    """Requests per second of each server. All must give the same texts."""
    kinds = pictures()
    bodies = [kinds[number % len(kinds)] for number in range(REQUESTS)]
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=TOP) for command in servers]
    try:
        for port in ports:
            wait_port(port)
        expected = [texts(answer) for answer in post(ports[0], kinds)]
        assert sum(map(len, expected)) > 20, expected

        def rate(port: int) -> float:
            begin = time.perf_counter()
            answers = post(port, bodies)
            seconds = time.perf_counter() - begin
            for number, answer in enumerate(answers):
                assert texts(answer) == expected[number % len(kinds)], (port, number, answer)
            return len(bodies) / seconds

        for port in ports:
            rate(port)  # warm
        return interleaved(rounds, *[lambda port=port: rate(port) for port in ports])
    finally:
        for server in started:
            server.send_signal(signal.SIGTERM)
        for server in started:
            server.wait(60)


def graph(folder: Path, port: int) -> Path:
    """The example's graph on another port."""
    example = TOP / "examples/ocr"
    text = (example / "graph/ocr.toml").read_text().replace(":7772/", f":{port}/")
    for name in ('"../../text_detection/flowunit"', '"../flowunit"'):
        text = text.replace(name, json.dumps(str((example / "graph" / json.loads(name)).resolve())))
    (folder / "ocr.toml").write_text(text)
    return folder / "ocr.toml"


def baseline(port: int, kind: str, intra: int) -> list[str]:
    return [sys.executable, str(TOP / "benchmarks/ocr_server.py"), str(port), str(cpu_count()), kind, str(intra)]


def ocr() -> list[tuple[str, str, str, str, str]]:
    """The row of the table. Processes with one thread each were the fastest baseline (ocr.py compares them)."""
    ports = [free_port(), free_port()]
    with tempfile.TemporaryDirectory() as scratch:
        ours = [sys.executable, "-m", "modelboxd", "-V", "--graph", str(graph(Path(scratch), ports[0]))]
        rates = measure([ours, baseline(ports[1], "processes", 1)], ports)
    name = f"OCR over HTTP, {CONNECTIONS} connections"
    theirs = f"rapidocr + aiohttp, {cpu_count()} processes {rates[1]:.2f}/s"
    return [(name, f"{rates[0]:.2f}/s", theirs, f"{rates[0] / rates[1]:.2f}", ">= 1.30")]


def main() -> None:
    """Which hand-written server is the fastest."""
    kinds = [("processes", 1), ("processes", -1), ("threads", 1), ("threads", -1)]
    ports = [free_port() for _ in kinds]
    rates = measure([baseline(port, *kind) for port, kind in zip(ports, kinds, strict=True)], ports)
    for (kind, intra), found in zip(kinds, rates, strict=True):
        print(f"{cpu_count()} {kind}, intra_op_num_threads {intra}: {found:.2f}/s")


if __name__ == "__main__":
    main()
