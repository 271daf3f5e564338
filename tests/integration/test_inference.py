"""Triton's own clients, unmodified, against a real daemon with real models: HTTP with JSON and binary tensors, gRPC."""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from modelboxd.graph.tensors import DATATYPES
from tests.integration.models import WEIGHTS, same_types, write_graph, write_linear
from tests.integration.server import LIMIT_S, TOP, Server
from tests.integration.workers import write_unit

SHOUT = """
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.pipe = config.get_string("pipe", "")
        return modelbox.Status()

    def process(self, context):
        out = context.output("out")
        for buffer in context.input("in"):
            text = buffer.as_object()
            if text == "gate":  # waits until somebody opens the other end
                open(self.pipe).close()
            if text == "bad":
                raise ValueError("no good")
            out.push_back(modelbox.Buffer(self.get_bind_device(), text.upper()))
        return modelbox.Status()
"""
GRPC = "[server]\nport = 0\n[inference]\ngrpc = true\ngrpc_port = 0\n"


class Rig:
    """A daemon with the models linear, types and shouter (the job `shout`)."""

    def __init__(self, folder: Path) -> None:
        write_unit(folder, "shout", SHOUT)
        self.pipe = folder / "pipe"
        os.mkfifo(self.pipe)
        graphs = [
            write_linear(folder),
            same_types(folder, list(DATATYPES)),
            write_graph(
                folder,
                "shout",
                "text [type=input]; loud [type=output]; u [flowunit=shout, batch_size=1, "
                f'pipe="{self.pipe}"]; '
                "text -> u:in; u:out -> loud",
                '[model]\nname = "shouter"\nversion = "7"\nmax_batch = 4\n'
                '[model.inputs]\ntext = {datatype = "BYTES", shape = [1]}\n'
                '[model.outputs]\nloud = {datatype = "BYTES", shape = [1]}\n',
            ),
        ]
        self.server = Server(*graphs, folder=folder, config=GRPC).ready()
        self.grpc_port = int(self.server.wait_for("gRPC listens on").rpartition(":")[2])
        self.http = triton_http.InferenceServerClient(f"127.0.0.1:{self.server.api}", concurrency=4, network_timeout=50)
        self.grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{self.grpc_port}")

    @property
    def clients(self) -> list[tuple[Any, Any]]:
        """(the module, a client)."""
        return [(triton_http, self.http), (triton_grpc, self.grpc)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("inference"))
    yield made
    made.http.close()
    made.grpc.close()
    assert made.server.stop() == 0
    assert not [line for line in made.server.lines if "internal error" in line]


def tensor(module: Any, name: str, array: np.ndarray[Any, Any], datatype: str = "", **options: Any) -> Any:
    """An InferInput."""
    from tritonclient.utils import np_to_triton_dtype

    made = module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **options)
    return made


def linear(module: Any, batch: int, seed: int = 0, **options: Any) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Inputs of the model, and what comes of them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, 4), np.float32)
    b = random.standard_normal((batch, 3), np.float32)
    return [tensor(module, "x", x, **options), tensor(module, "b", b, **options)], x @ WEIGHTS + b


# ---- what there is ---------------------------------------------------------------------------------------------


def test_server_and_models_tell_what_they_are(rig: Rig) -> None:
    for module, client in rig.clients:
        as_json = {"as_json": True} if module is triton_grpc else {}
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("linear")
        assert client.is_model_ready("shouter", "7")
        assert not client.is_model_ready("shouter", "8")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata(**as_json)["name"] == "modelbox"
        model = client.get_model_metadata("linear", **as_json)
        shapes = {item["name"]: [int(dim) for dim in item["shape"]] for item in model["inputs"] + model["outputs"]}
        assert shapes == {"x": [-1, 4], "b": [-1, 3], "y": [-1, 3]}
        assert model["versions"] == ["1"]
        config = client.get_model_config("linear", **as_json)
        config = config.get("config", config)
        assert (config["max_batch_size"], config["input"][0]["data_type"]) == (32, "TYPE_FP32")
        index = client.get_model_repository_index(**as_json)
        index = index["models"] if module is triton_grpc else index
        assert {item["name"]: item["state"] for item in index} == dict.fromkeys(("linear", "types", "shouter"), "READY")
        with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
            client.get_model_metadata("nope")
        with pytest.raises(InferenceServerException, match="has no version '2', only '7'"):
            client.get_model_metadata("shouter", "2")


def test_extensions_that_are_refused(rig: Rig) -> None:
    for _, client in rig.clients:
        for refused in (
            lambda c=client: c.register_system_shared_memory("r", "/modelbox", 64),
            lambda c=client: c.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64),
            lambda c=client: c.get_system_shared_memory_status(),
            lambda c=client: c.unregister_system_shared_memory(),
        ):
            with pytest.raises(InferenceServerException, match="shared memory of clients is not accepted"):
                refused()
        with pytest.raises(InferenceServerException, match="logging extension"):
            client.get_log_settings()
        with pytest.raises(InferenceServerException, match="trace extension"):
            client.get_trace_settings()
    for module, client in rig.clients:
        inputs, _ = linear(module, 1)
        inputs[0].set_shared_memory("region", 16)
        with pytest.raises(InferenceServerException, match="shared memory of clients is not accepted"):
            client.infer("linear", inputs)
        inputs, _ = linear(module, 1)
        with pytest.raises(InferenceServerException, match="classification extension"):
            client.infer("linear", inputs, outputs=[module.InferRequestedOutput("y", class_count=3)])
        with pytest.raises(InferenceServerException, match="sequences are not supported"):
            client.infer("linear", inputs, sequence_id=5)


# ---- inference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_http_in_every_form(rig: Rig, batch: int) -> None:
    for binary in (True, False):
        inputs, wanted = linear(triton_http, batch, binary_data=binary)
        for output in (True, False):
            asked = [triton_http.InferRequestedOutput("y", binary_data=output)]
            for algorithm in (None, "gzip", "deflate"):
                result = rig.http.infer(
                    "linear", inputs, outputs=asked, request_id="ünï", request_compression_algorithm=algorithm,
                    response_compression_algorithm=algorithm,
                )  # fmt: skip
                np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-5)
                told = result.get_response()
                assert (told["id"], told["model_name"], told["model_version"]) == ("ünï", "linear", "1")
                assert ("data" in told["outputs"][0]) is not output
        np.testing.assert_allclose(rig.http.infer("linear", inputs, priority=1).as_numpy("y"), wanted, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_grpc(rig: Rig, batch: int) -> None:
    inputs, wanted = linear(triton_grpc, batch)
    for algorithm in (None, "gzip", "deflate"):
        result = rig.grpc.infer(
            "linear", inputs, request_id="ünï", compression_algorithm=algorithm, priority=2, timeout=50_000_000
        )
        np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-5)
        assert (result.get_response().id, result.get_response().model_name) == ("ünï", "linear")
    asked = [triton_grpc.InferRequestedOutput("y")]
    assert rig.grpc.infer("linear", inputs, model_version="1", outputs=asked).as_numpy("y").shape == (batch, 3)


def samples() -> dict[str, np.ndarray[Any, Any]]:
    """Two rows of every type, the limits of it among them."""
    made: dict[str, np.ndarray[Any, Any]] = {"BYTES": np.array([b"\xff\0\x80"], np.object_)}
    for word, name in DATATYPES.items():
        dtype = np.dtype(name) if name else None
        if dtype is None:
            continue
        if dtype.kind == "b":
            row: Any = [True, False, True]
        elif dtype.kind == "f":
            row = [np.finfo(dtype).max, np.finfo(dtype).tiny, -0.5]
        else:
            row = [np.iinfo(dtype).min, np.iinfo(dtype).max, 1]
        made[word] = np.array([row, row[::-1]], dtype)
    return made


@pytest.mark.parametrize("form", ["binary", "json", "grpc"])
def test_all_types_come_back_as_they_went(rig: Rig, form: str) -> None:
    given = samples()
    if form == "json":
        given["BYTES"] = np.array(['tëxt "'], np.object_)
    module, client = (triton_grpc, rig.grpc) if form == "grpc" else (triton_http, rig.http)
    inputs, outputs = [], []
    for word, array in given.items():
        options = {} if form == "grpc" else {"binary_data": form == "binary"}
        if form == "json" and word == "FP16":  # the client can only send it in binary form
            options = {"binary_data": True}
        inputs.append(tensor(module, f"in_{word}", array, word, **options))
        outputs.append(module.InferRequestedOutput(f"out_{word}", **options))
    result = client.infer("types", inputs, outputs=outputs)
    for word, array in given.items():
        got = result.as_numpy(f"out_{word}")
        assert got.shape == array.shape
        if word == "BYTES":
            expected = [item.encode() if isinstance(item, str) else item for item in array]
            assert [item.encode() if isinstance(item, str) else item for item in got] == expected
        else:
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)


def test_large_tensors(rig: Rig) -> None:
    array = np.random.default_rng(1).standard_normal((1500, 1500), np.float32)
    small = {word: item for word, item in samples().items() if word != "FP32"}
    for module, client in rig.clients:
        inputs = [tensor(module, "in_FP32", array)] + [
            tensor(module, f"in_{word}", item, word) for word, item in small.items()
        ]
        result = client.infer("types", inputs, outputs=[module.InferRequestedOutput("out_FP32")])
        np.testing.assert_array_equal(result.as_numpy("out_FP32"), array)


def test_text_models_with_a_batch(rig: Rig) -> None:
    words = np.array([["ada"], ["grace"], ["edsger"]], np.object_)
    for module, client in rig.clients:
        result = client.infer("shouter", [tensor(module, "text", words, "BYTES")])
        got = result.as_numpy("loud")
        assert got.shape == (3, 1)
        assert [item.decode() if isinstance(item, bytes) else item for item in got.reshape(-1)] == [
            "ADA",
            "GRACE",
            "EDSGER",
        ]
        with pytest.raises(InferenceServerException, match="a batch of 5; the model takes 4 at most"):
            client.infer("shouter", [tensor(module, "text", np.array([["x"]] * 5, np.object_), "BYTES")])
        with pytest.raises(InferenceServerException, match="no good"):
            client.infer("shouter", [tensor(module, "text", np.array([["ok"], ["bad"]], np.object_), "BYTES")])


def test_many_at_once(rig: Rig) -> None:
    """What a load tool does: requests under way on several connections and calls at once."""
    cases = [linear(triton_http, 1 + number % 8, number) for number in range(40)]
    pending = [(rig.http.async_infer("linear", inputs), wanted) for inputs, wanted in cases]
    for waiting, wanted in pending:
        np.testing.assert_allclose(waiting.get_result().as_numpy("y"), wanted, rtol=1e-4)
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    cases = [linear(triton_grpc, 1 + number % 8, number) for number in range(200)]
    for number, (inputs, _) in enumerate(cases):
        rig.grpc.async_infer("linear", inputs, lambda result, error, n=number: answers.put((n, result, error)))
    for _ in cases:
        number, result, error = answers.get(timeout=LIMIT_S)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("y"), cases[number][1], rtol=1e-4)


def test_streams_answer_in_order(rig: Rig) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{rig.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        cases = [linear(triton_grpc, 1 + number % 8, number) for number in range(100)]
        for number, (inputs, _) in enumerate(cases):
            client.async_stream_infer(
                "linear" if number % 10 else "nope", inputs, request_id=str(number), enable_empty_final_response=True
            )
        for number, (_, wanted) in enumerate(cases):
            result, error = answers.get(timeout=LIMIT_S)
            if number % 10 == 0:
                assert "there is no model 'nope'" in str(error)
                continue
            assert result.get_response().id == str(number)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-4)
        client.stop_stream()


def test_statistics_count(rig: Rig) -> None:
    def stats() -> dict[str, Any]:
        return dict(rig.http.get_inference_statistics("linear")["model_stats"][0])

    before = stats()
    inputs, _ = linear(triton_http, 8)
    for _ in range(3):
        rig.http.infer("linear", inputs)
    with pytest.raises(InferenceServerException):
        rig.http.infer("linear", inputs[:1])
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 24
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    told = rig.grpc.get_inference_statistics("linear", as_json=True)["model_stats"][0]
    assert int(told["inference_count"]) == after["inference_count"]
    assert len(rig.grpc.get_inference_statistics(as_json=True)["model_stats"]) == 3
    # requests leave nothing behind
    assert rig.server.ask("GET", "/v1/tasks?job=linear")[1] == {"tasks": []}
    assert rig.server.ask("GET", "/v1/stats/tasks")[1]["held_bytes"] == 0


def test_load_and_unload(rig: Rig) -> None:
    for module, client in rig.clients:
        as_json = {"as_json": True} if module is triton_grpc else {}
        client.unload_model("types")
        assert not client.is_model_ready("types")
        index = client.get_model_repository_index(**as_json)
        index = index["models"] if module is triton_grpc else index
        found = {item["name"]: item for item in index}["types"]
        assert (found["state"], found["reason"]) == ("UNAVAILABLE", "the job is stopped")
        with pytest.raises(InferenceServerException, match="does not run"):
            client.infer("types", [])
        with pytest.raises(InferenceServerException, match="parameters of load are not supported"):
            client.load_model("types", config="{}")
        client.load_model("types")
        assert client.is_model_ready("types")
        with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
            client.load_model("nope")


def test_a_client_that_goes_away_cancels_its_work(rig: Rig) -> None:
    ask = rig.server.ask
    gate = np.array([["gate"]], np.object_)
    # gRPC: a call that is cancelled, and one whose deadline passes
    over = threading.Event()
    waiting = rig.grpc.async_infer(
        "shouter", [tensor(triton_grpc, "text", gate, "BYTES")], lambda result, error: over.set()
    )
    until(lambda: ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    waiting.cancel()
    assert over.wait(LIMIT_S)
    until(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        rig.grpc.infer("shouter", [tensor(triton_grpc, "text", gate, "BYTES")], client_timeout=0.5)
    until(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    # HTTP: a connection that is closed, and the protocol's own timeout
    body = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["gate"]}]}).encode()
    client = socket.create_connection(("127.0.0.1", rig.server.api))
    head = f"POST /v2/models/shouter/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    until(lambda: ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    client.close()
    until(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    with pytest.raises(InferenceServerException, match=r"not done within 0.2 s"):
        rig.http.infer("shouter", [tensor(triton_http, "text", gate, "BYTES")], timeout=200_000)
    held = os.open(rig.pipe, os.O_RDWR)  # the gate is open: calls of the unit that were under way end
    result = rig.http.infer("shouter", [tensor(triton_http, "text", np.array([["ok"]], np.object_), "BYTES")])
    os.close(held)
    assert result.as_numpy("loud").tolist() == [[b"OK"]]


def until(true: Callable[[], Any]) -> None:
    """Asks until something is true."""
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end


# ---- the example ----------------------------------------------------------------------------------------------


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
