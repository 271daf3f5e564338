"""Triton's own clients against real models: what the server tells, and tensors in every form and type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from modelboxd.graph.tensors import DATATYPES
from tests.integration.inference import Rig, linear, running, tensor


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from running(tmp_path_factory.mktemp("inference"))


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
