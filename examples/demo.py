"""`make demo`: starts modelbox on examples/text_detection, posts a photo, shows the boxes, stops."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
EXAMPLE = TOP / "examples/text_detection"
OUT = TOP / "build/demo"
LIMIT_S = 60.0


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    picture = OUT / "page-boxes.png"
    # A port of our own choice would collide with whatever runs here; port 0 lets the kernel choose.
    graph = (EXAMPLE / "graph/text_detection.toml").read_text().replace("127.0.0.1:7771", "127.0.0.1:0")
    with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=EXAMPLE / "graph") as file:
        file.write(graph)
        file.flush()
        command = [str(Path(sys.executable).parent / "modelbox"), "-V", "--graph", file.name]
        print("$ modelbox -V --graph examples/text_detection/graph/text_detection.toml")
        daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            port = wait_ready(daemon)
            client = [sys.executable, str(EXAMPLE / "client.py"), "--out", str(picture)]
            code = subprocess.call([*client, "--url", f"http://127.0.0.1:{port}/v1/text"])
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=LIMIT_S)
    print(f"modelbox stopped with exit code {daemon.returncode}")
    return code or daemon.returncode


def wait_ready(daemon: "subprocess.Popen[str]") -> int:
    """Reads the log until the daemon says that it is ready; returns the port."""
    assert daemon.stderr is not None
    port = 0
    end = time.monotonic() + LIMIT_S
    for line in daemon.stderr:
        print(line, end="")
        found = re.search(r"listens on .* \(port (\d+)\)", line)
        port = int(found[1]) if found else port
        if "is ready:" in line:
            return port
        if time.monotonic() > end:
            break
    sys.exit("the demo did not start; see the lines above")


if __name__ == "__main__":
    sys.exit(main())
