"""The API does what its document says: schemathesis reads it and asks everything that it can think of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.server import Server


def test_against_the_document(tmp_path: Path) -> None:
    server = Server(config="[server]\n", folder=tmp_path).ready()
    try:
        # A graph that fits the document may still be wrong, which is 422 then.
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run",
                f"http://127.0.0.1:{server.api}/openapi.json", "--checks", "all",
                "--exclude-checks", "positive_data_acceptance", "--max-examples", "15", "--seed", "1", "--generation-deterministic",
            ],
            capture_output=True, text=True, timeout=110, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    finally:
        assert server.stop() == 0
    assert not [line for line in server.lines if "Traceback" in line or "internal error" in line]
