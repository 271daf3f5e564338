"""examples/ocr as a user runs it; rapidocr's own pipeline with the same models says what is right."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyclipper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidocr import RapidOCR

from tests.integration.server import TOP, Server

EXAMPLE = TOP / "examples/ocr"
PAGE = TOP / "examples/text_detection/page.png"
Image = npt.NDArray[np.uint8]
LINES = (
    "Invoice No. 48213",
    "ModelBox pipeline 2026",
    "Total: 1,234.56 EUR",
    "The quick brown fox",
    "over the lazy dog",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (EXAMPLE / "flowunit/line_text/characters.txt").exists():
        pytest.skip("the example's files are not there; `make setup` puts them there")
    folder = tmp_path_factory.mktemp("graphs")
    text = (EXAMPLE / "graph/ocr.toml").read_text().replace("127.0.0.1:7772", "127.0.0.1:0")
    assert '["../flowunit", "../../text_detection/flowunit"]' in text
    (folder / "ocr.toml").write_text(text.replace('"../', f'"{EXAMPLE}/graph/../'))
    made = Server(folder / "ocr.toml", folder=folder).ready()
    yield made
    assert made.stop() == 0
    assert [line for line in made.lines if "[WARN" in line or "[ERROR" in line] == []


@pytest.fixture(scope="module")
def rapidocr() -> RapidOCR:
    return RapidOCR(params={"Global.log_level": "critical"})


# ---- pictures ------------------------------------------------------------------------------------------------


def written(width: int, height: int, lines: list[tuple[int, int, str]], scale: float = 1.0, thick: int = 2) -> Image:
    image: Image = np.full((height, width, 3), 255, np.uint8)
    for x, y, text in lines:
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thick, cv2.LINE_AA)
    return image


def note() -> Image:
    return written(800, 500, [(40, 80 + 80 * at, text) for at, text in enumerate(LINES)])


def half_turned() -> Image:
    image = note()
    image[280:] = cv2.rotate(image[280:], cv2.ROTATE_180)
    return image


def slanted(degrees: float) -> Image:
    turn = cv2.getRotationMatrix2D((400, 250), degrees, 0.8)
    return cv2.warpAffine(note(), turn, (800, 500), borderValue=(255, 255, 255))  # type: ignore[return-value]


def table() -> Image:
    cells = [(30 + 400 * column, 60 + 45 * row, f"cell {row}-{column}") for row in range(9) for column in range(3)]
    return written(1200, 500, cells, 0.8)


def page(factor: float = 1.0) -> Image:
    return cv2.resize(cv2.imread(str(PAGE)), None, fx=factor, fy=factor)  # type: ignore[return-value]


PICTURES: dict[str, functools.partial[Image]] = {
    "a photo of a printed page": functools.partial(page),
    "the page, small": functools.partial(page, 0.5),
    "the page, large": functools.partial(page, 2.7),
    "the page upside down": functools.partial(lambda: cv2.rotate(page(1.5), cv2.ROTATE_180)),
    "a note on its side": functools.partial(lambda: cv2.rotate(note(), cv2.ROTATE_90_CLOCKWISE)),
    "a note, half of it upside down": functools.partial(half_turned),
    "slanted by 12 degrees": functools.partial(slanted, 12),
    "slanted by -25 degrees": functools.partial(slanted, -25),
    "a table": functools.partial(table),
    "a flat strip": functools.partial(written, 1400, 40, [(10, 30, "one flat line of text 12345")]),
    "larger than 2000 pixels": functools.partial(
        written, 2600, 1500, [(90, 600, LINES[0]), (90, 1200, LINES[1])], 4, 8
    ),
}


def encoded(image: Image) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def post(server: Server, body: bytes) -> tuple[int, dict[str, Any]]:
    status, answer, _ = server.request("/v1/ocr", body)
    return status, json.loads(answer)


def same(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """The same texts in the same order, boxes to a pixel, scores to 0.001."""
    assert [line["text"] for line in lines] == [line["text"] for line in others]
    for line, other in zip(lines, others, strict=True):
        assert np.abs(np.array(line["box"]) - other["box"]).max() <= 1, line["text"]
        assert abs(line["score"] - other["score"]) <= 1e-3, line["text"]


# ---- tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
def test_reads_what_rapidocr_reads(server: Server, rapidocr: RapidOCR, name: str) -> None:
    image = PICTURES[name]()
    found: Any = rapidocr(image)
    assert found.txts
    expected = [
        {"text": text, "score": score, "box": box}
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
    ]
    status, answer = post(server, encoded(image))
    assert status == 200
    assert (answer["width"], answer["height"]) == (image.shape[1], image.shape[0])
    same(answer["lines"], expected)


def test_the_page_reads_as_it_is_printed(server: Server) -> None:
    _, answer = post(server, PAGE.read_bytes())
    assert [line["text"] for line in answer["lines"]][:2] == [
        "Region-based segmentation",
        "Let us first determine markers of the coins and the",
    ]


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (3000, 64), (20, 20)])
def test_a_picture_without_text_has_no_lines(server: Server, size: tuple[int, int]) -> None:
    blank: Image = np.full((size[1], size[0], 3), 200, np.uint8)
    assert post(server, encoded(blank)) == (200, {"width": size[0], "height": size[1], "lines": []})


def test_boxes_without_readable_text_are_no_lines(server: Server, rapidocr: RapidOCR) -> None:
    board: Image = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((25, 25))).astype(np.uint8)[..., None].repeat(3, 2)
    board *= 255
    assert len(rapidocr(board, use_cls=False, use_rec=False).boxes) > 0  # type: ignore[union-attr, arg-type]
    assert post(server, encoded(board))[1]["lines"] == []


def test_requests_at_once_do_not_change_each_other(server: Server) -> None:
    blank: Image = np.full((480, 640, 3), 200, np.uint8)
    bodies = [encoded(image) for image in (page(), note(), table(), half_turned(), slanted(12), blank, page(), note())]
    alone = [post(server, body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        for _ in range(2):
            together = list(pool.map(lambda body: post(server, body), bodies))
            for (status, answer), (_, expected) in zip(together, alone, strict=True):
                assert status == 200
                same(answer["lines"], expected["lines"])


def test_bad_pictures_are_refused_with_a_reason_and_the_next_one_works(server: Server) -> None:
    jpeg = bytes(cv2.imencode(".jpg", note())[1])
    long = encoded(np.full((3200, 64, 3), 255, np.uint8))
    for body, code, text in (
        (b"", "ImageDecoder.DecodeFailed", "there is no data"),
        (b"no picture", "ImageDecoder.DecodeFailed", "no image of a known format"),
        (jpeg[: len(jpeg) // 2], "ImageDecoder.DecodeFailed", "was cut off"),
        (long, "OcrPage.TooLong", "64 x 3200 is too long"),
    ):
        status, answer = post(server, body)
        assert (status, answer["error_code"]) == (500, code)
        assert text in answer["error_msg"]
    assert len(post(server, jpeg)[1]["lines"]) == len(LINES)


@functools.cache
def rectangle() -> ModuleType:
    path = EXAMPLE / "flowunit/text_lines/rectangle.py"
    spec = importlib.util.spec_from_file_location("rectangle", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.floats(50, 900), st.floats(50, 900)),
    st.tuples(st.floats(3, 600), st.floats(3, 200)),
    st.floats(-90, 90),
)
def test_boxes_grow_as_clipper_grows_them(center: tuple[float, float], size: tuple[float, float], angle: float) -> None:
    corners, _ = rectangle().corners_of(cv2.boxPoints((center, size, angle)))
    width, height = np.linalg.norm(corners[0] - corners[1]), np.linalg.norm(corners[1] - corners[2])
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    theirs = np.array(offset.Execute(width * height * 1.6 / (2 * (width + height)))[0])
    ours, side = rectangle().corners_of(rectangle().grown(corners, 1.6))
    expected, expected_side = rectangle().corners_of(theirs)
    assert np.abs(ours - expected).max() <= 1
    assert abs(side - expected_side) <= 1


def test_the_client(server: Server, tmp_path: Path) -> None:
    client = [sys.executable, str(EXAMPLE / "client.py"), "--out", str(tmp_path / "boxes.png")]
    done = subprocess.run(
        [*client, "--url", f"http://127.0.0.1:{server.port}/v1/ocr"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Region-based segmentation" in done.stdout
    assert (tmp_path / "boxes.png").stat().st_size > 10_000
