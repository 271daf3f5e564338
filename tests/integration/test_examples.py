"""The examples as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.integration.server import TOP, Server

TEXT = TOP / "examples/text_detection"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (TEXT / "page.png").exists():
        pytest.skip("the example's files are not there; `make setup` copies them")
    folder = tmp_path_factory.mktemp("graphs")
    graphs = []
    for name, port in (("hello_world", 7770), ("text_detection", 7771)):
        example = TOP / "examples" / name
        text = (example / f"graph/{name}.toml").read_text().replace(f"127.0.0.1:{port}", "127.0.0.1:0")
        graphs.append(folder / f"{name}.toml")
        graphs[-1].write_text(text.replace("../flowunit", str(example / "flowunit")))
    # One port each, since both endpoints ask for any: the last one is text detection's.
    made = Server(*graphs, folder=folder)
    made.wait_for("job 'text_detection' runs")
    made.ready()
    yield made
    assert made.stop() == 0


def post(server: Server, body: bytes) -> tuple[int, dict[str, object]]:
    line = server.wait_for("/v1/text (port ")
    port = int(line.split("(port ")[1].rstrip(")"))
    saved, server.ports = server.ports, {"receive": port}
    try:
        status, answer, _ = server.request("/v1/text", body)
    finally:
        server.ports = saved
    return status, json.loads(answer)


def test_lines_of_the_page_are_found(server: Server) -> None:
    status, answer = post(server, (TEXT / "page.png").read_bytes())
    assert status == 200
    boxes = answer["boxes"]
    assert isinstance(boxes, list)
    assert len(boxes) == 7
    # The dark pixels of the print lie inside the boxes.
    page = cv2.imread(str(TEXT / "page.png"), cv2.IMREAD_GRAYSCALE)
    dark = (page < cv2.blur(page, (25, 25)).astype(int) - 40).astype(np.uint8)
    inside = np.zeros_like(dark)
    cv2.fillPoly(inside, [np.array(box["corners"], np.int32) for box in boxes], 1)
    assert (dark & inside).sum() / dark.sum() > 0.9
    assert all(box["score"] > 0.5 for box in boxes)


def overlap(left: list[list[int]], right: list[list[int]]) -> float:
    """Intersection over union of two convex boxes."""
    a, b = np.array(left, np.float32), np.array(right, np.float32)
    common = cv2.intersectConvexConvex(a, b)[0]
    return float(common / (cv2.contourArea(a) + cv2.contourArea(b) - common))


def test_boxes_are_those_of_rapidocr(server: Server) -> None:
    """rapidocr resizes to another size and clips otherwise, so a pixel or two may differ."""
    theirs = json.loads((TOP / "tests/data/page_boxes_rapidocr.json").read_text())["boxes"]
    _, answer = post(server, (TEXT / "page.png").read_bytes())
    ours = [box["corners"] for box in answer["boxes"]]  # type: ignore[attr-defined]
    assert len(ours) == len(theirs)
    for box in theirs:
        assert max(overlap(box, other) for other in ours) > 0.85


def test_hello_world_greets(server: Server) -> None:
    line = server.wait_for("/hello (port ")
    saved, server.ports = server.ports, {"receive": int(line.split("(port ")[1].rstrip(")"))}
    try:
        assert server.request("/hello", b"Ada\n")[:2] == (200, b"hello, Ada\n")
        assert server.request("/hello", method="GET")[:2] == (200, b"hello, world\n")
    finally:
        server.ports = saved


def test_bad_pictures_are_refused_and_the_next_one_works(server: Server) -> None:
    good = (TEXT / "page.png").read_bytes()
    jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(good, np.uint8), 1))[1].tobytes()
    frame = jpeg.index(b"\xff\xc0")
    lying = jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :]
    for body in (b"", b"no image", b"\xff\xd8\xff", jpeg[:100], lying, good[:50], b"\x89PNG\r\n\x1a\n" + b"\xff" * 60):
        status, answer = post(server, body)
        assert status == 500
        assert answer["error_code"] == "ImageDecoder.DecodeFailed"
        assert len(str(answer["error_msg"])) > 5
    assert post(server, jpeg)[0] == 200


def test_the_demo(tmp_path: Path) -> None:
    if not (TEXT / "page.png").exists():
        pytest.skip("the example's files are not there; `make setup` copies them")
    done = subprocess.run([sys.executable, "examples/demo.py"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 lines of text" in done.stdout
    assert "modelbox stopped with exit code 0" in done.stdout
    assert (TOP / "build/demo/page-boxes.png").stat().st_size > 10_000
