"""examples/inference and docs/inference-protocol.md, as a user finds them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.integration.inference import GRPC, tensor
from tests.integration.server import LIMIT_S, TOP, Server


def test_the_example_gives_what_onnxruntime_gives(tmp_path: Path) -> None:
    """A real model, PP-OCRv6, over both doors; and the client as a user runs it."""
    import cv2
    import onnxruntime

    text = TOP / "examples/text_detection"
    if not (text / "page.png").exists():
        pytest.skip("the example's files are not there; `make setup` copies them")
    sys.path.insert(0, str(TOP / "examples/inference"))
    try:
        from client import tensor_of  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    server = Server(TOP / "examples/inference/graph/text_map.toml", folder=tmp_path, config=GRPC).ready()
    try:
        address = "127.0.0.1:" + server.wait_for("gRPC listens on").rpartition(":")[2]
        picture = tensor_of(cv2.imread(str(text / "page.png")))
        batch = np.concatenate([picture, picture[:, :, :, ::-1]])
        session = onnxruntime.InferenceSession(str(text / "flowunit/text_det/PP-OCRv6_det_small.onnx"))
        wanted = session.run(None, {"x": batch})[0]
        for module, url in ((triton_http, f"127.0.0.1:{server.api}"), (triton_grpc, address)):
            with module.InferenceServerClient(url) as client:
                assert client.get_model_config("text_map", **({"as_json": True} if module is triton_grpc else {}))
                got = client.infer("text_map", [tensor(module, "x", np.ascontiguousarray(batch))]).as_numpy(
                    "fetch_name_0"
                )
            np.testing.assert_allclose(got, wanted, atol=1e-4)
        for options in (["--url", f"127.0.0.1:{server.api}"], ["--grpc", "--url", address]):
            command = [sys.executable, str(TOP / "examples/inference/client.py"), *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
            assert re.fullmatch(r"\(1, 1, \d+, \d+\): \d+\.\d% of the pixels are text\n", done.stdout)
    finally:
        assert server.stop() == 0


def test_the_page_is_true(tmp_path: Path) -> None:
    """docs/inference-protocol.md: the request and the answer that it shows for word_count."""
    page = (TOP / "docs/inference-protocol.md").read_text()
    body = re.search(r"word_count/infer -d '(.*?)'", page, re.DOTALL)
    shown = re.search(r'(\{"model_name":"word_count".*?\}\]\}\n)', page, re.DOTALL)
    assert body is not None
    assert shown is not None
    server = Server(TOP / "examples/word_count/graph/word_count.toml", folder=tmp_path).ready()
    try:
        status, answer, _ = server.ask("POST", "/v2/models/word_count/infer", json.loads(body[1]))
        assert (status, answer) == (200, json.loads(re.sub(r"\n\s*", "", shown[1])))
    finally:
        assert server.stop() == 0
