"""What native code prints is logged: the daemon's stderr holds nothing but log lines, and the last words of a crash."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.server import TOP, Server, write_graph
from tests.unit.flowunits.images import encode, picture, with_exif

LOG_LINE = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+\]\[(DEBUG|INFO |NOTICE|WARN |ERROR)\]\[[\w.-]+:\d+\] ")
GRAPH = """digraph g {
  rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
  decode [flowunit=image_decoder]
  tx [flowunit=httpserver_sync_reply]
  rx:out_request_info -> decode:in_encoded_image
  decode:out_image -> tx:in_reply_info
}"""


def damaged(data: bytes, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    made = bytearray(data)
    for at in random.integers(8, min(len(made), 300), 3):
        made[int(at)] = int(random.integers(0, 256))
    return bytes(made)


def test_damaged_images_leave_only_log_lines(tmp_path: Path) -> None:
    server = Server(write_graph(tmp_path, GRAPH), folder=tmp_path).ready()
    try:
        for form in (".png", ".tiff", ".webp", ".jpg", ".jp2", ".bmp"):
            good = encode(picture(41, 57), form)
            turned = with_exif(good, 6) if form == ".jpg" else good  # which OpenCV decodes, not libjpeg-turbo itself
            for seed in range(20):
                status, body, _ = server.request("/v1", damaged(turned, seed))
                assert status == 200 or (status == 500 and b"ImageDecoder.DecodeFailed" in body)
            assert server.request("/v1", good)[0] == 200
        server.wait_for("libpng")
        server.wait_for("OpenJPEG2000")
        server.wait_for("Corrupt JPEG data")
    finally:
        assert server.stop() == 0
    assert [line for line in server.lines if not LOG_LINE.match(line)] == []


CRASH = """
import logging, os, signal, sys
from modelboxd import logs, prints
from modelboxd.loop import IoThread
from modelboxd.settings import LogSettings
logs.set_up(LogSettings(), verbose=True)
io = IoThread()
io.start()
kept = prints.NativeOutput(io)
os.write(2, b"printed\\n")
os.write(1, b"printed to stdout\\n")
os.write(2, b"not ended")
if sys.argv[1:]:
    io.loop.call_soon_threadsafe(signal.pause)  # the log is late
    os.write(2, b"last words\\n")
    os.kill(os.getpid(), int(sys.argv[1]))
kept.close()
logging.getLogger("x").info("after")
os.write(2, b"plain again\\n")
"""


def run(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", CRASH, *arguments], capture_output=True, text=True, cwd=TOP)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_all_of_it_is_logged_until_the_end() -> None:
    code, lines = run()
    assert code == 0
    assert [line.split("] ", 1)[-1] for line in lines] == [
        "native code: printed", "native code: printed to stdout", "native code: not ended", "after", "plain again",
    ]  # fmt: skip
    assert all(LOG_LINE.match(line) for line in lines[:3])


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_the_last_words_of_a_crash(number: signal.Signals) -> None:
    code, lines = run(str(int(number)))
    assert code == -number
    assert any(line.startswith("Fatal Python error: ") for line in lines)
    assert "last words" in "\n".join(lines)


def test_a_full_pipe_stops_nobody() -> None:
    """The I/O thread itself prints more than a pipe holds."""
    code = (
        CRASH.split("os.write")[0]
        + """
def flood():
    for _ in range(300):
        try:
            os.write(2, b"x" * 1000 + b"\\n")
        except BlockingIOError:
            pass
    done.set()
import threading
done = threading.Event()
io.call(flood)
assert done.wait(60)
kept.close()
"""
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("native code: xxx") > 10
