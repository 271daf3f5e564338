"""The ONNX inference unit with small models: batches, shapes, types, and what it says when they do not fit."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelbox.buffer import Buffer, BufferList
from modelbox.configuration import Configuration
from modelbox.device import CPU
from modelbox.errors import ConfigError, Where
from modelbox.spec import PortSpec, UnitKind, UnitSpec
from modelboxd.engine.engine import load_builtin
from modelboxd.engine.unit import Services
from modelboxd.graph.model import Node

TOP = Path(__file__).resolve().parents[3]
OnnxInference = load_builtin(
    UnitSpec(
        "inference_onnx",
        "cpu",
        "1.0.0",
        "",
        UnitKind.BUILTIN,
        str(TOP / "flowunits/inference_onnx/inference_onnx.toml"),
        entry="inference_onnx@OnnxInference",
    )
)  # fmt: skip


def model(path: Path, batch: Any = "n", kind: int = TensorProto.FLOAT) -> Path:
    """y = x + x, z = x reduced over its last dimension."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("ReduceMax", ["x"], ["z"], axes=[-1], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind, [batch, "h", 3])],
        [
            helper.make_tensor_value_info("y", kind, [batch, "h", 3]),
            helper.make_tensor_value_info("z", kind, [batch, "h"]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(path))
    return path


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def make(path: Path, inputs: str = "x", outputs: str = "y z", base: Any = None, **options: object) -> Any:
    spec = UnitSpec(
        "net", "cpu", "1.0.0", "", UnitKind.INFERENCE, "net.toml",
        tuple(PortSpec(name) for name in inputs.split()), tuple(PortSpec(name) for name in outputs.split()),
        entry=str(path), virtual_type="onnx", base=base or {},
    )  # fmt: skip
    node = Node("infer", spec, Where("g.toml"), {}, 8, {}, 1)
    unit = OnnxInference(node, Configuration(options), Services("job", None, None, None, 2, 2))  # type: ignore[arg-type]
    unit.open()
    return unit


class Call:
    session = None

    def __init__(self, *arrays: Any, **more: list[Any]) -> None:
        """Arrays for port x, lists of arrays for others."""
        columns = {"x": arrays, **more}
        self.inputs = {port: BufferList([Buffer(CPU, array) for array in column]) for port, column in columns.items()}
        self.outputs = {"y": BufferList(), "z": BufferList()}

    def input(self, port: str) -> BufferList:
        return self.inputs[port]

    def output(self, port: str) -> BufferList:
        return self.outputs[port]


def rows(height: int, start: int = 0) -> Any:
    return np.arange(start, start + 3 * height, dtype=np.float32).reshape(height, 3)


@pytest.mark.parametrize("batch", ["n", 1])
def test_batches_and_mixed_shapes_keep_their_order(tmp_path: Path, batch: Any) -> None:
    unit = make(model(tmp_path / "m.onnx", batch))
    arrays = [rows(2), rows(4), rows(2, 7), rows(1), rows(4, 9)]
    call = Call(*arrays)
    unit.process(call)
    for got, low, array in zip(call.outputs["y"], call.outputs["z"], arrays, strict=True):
        assert np.array_equal(got.numpy(), array * 2)
        assert got.get("shape") == list(array.shape)
        assert np.array_equal(low.numpy(), array.max(1))
        assert sorted(got.keys()) == ["shape", "type"]


def test_a_buffer_that_brings_its_batch_of_one(tmp_path: Path) -> None:
    unit = make(model(tmp_path / "m.onnx"), outputs="y")
    call = Call(rows(2)[np.newaxis])
    unit.process(call)
    assert call.outputs["y"][0].get("shape") == [2, 3]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (rows(2).astype(np.float64), "node 'infer' port 'x': the model takes float32, the buffer holds float64"),
        (rows(2).reshape(6), "node 'infer' port 'x': the model takes [?, ?, 3] (batch first), the buffer has [6]"),
        (rows(2).reshape(3, 2), "the buffer has [3, 2]"),
        ("text", "node 'infer' port 'x': the buffer has no meta 'shape'"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, array: Any, text: str) -> None:
    unit = make(model(tmp_path / "m.onnx"))
    call = Call(rows(2), array, rows(2, 5))
    unit.process(call)
    for port in ("y", "z"):
        good, bad, last = call.outputs[port]
        assert not good.has_error() and not last.has_error()  # the rest of the batch goes on
        assert bad.get_error_code() == "net.ProcessError"
        assert text in bad.get_error_msg()
    assert np.array_equal(call.outputs["y"][2].numpy(), rows(2, 5) * 2)


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        (
            "xx",
            "y",
            "input port 'xx' is no tensor of the model (did you mean 'x'? its inputs: x; ports are named in net.toml)",
        ),
        ("x", "yy", "output port 'yy' is no tensor of the model (did you mean 'y'? its outputs: y, z"),
    ],
)
def test_ports_are_tensors(tmp_path: Path, inputs: str, outputs: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(model(tmp_path / "m.onnx"), inputs, outputs)
    assert text in str(caught.value)


KINDS = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8, "int16": TensorProto.INT16, "uint16": TensorProto.UINT16, "int32": TensorProto.INT32,
    "uint32": TensorProto.UINT32, "int64": TensorProto.INT64, "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_element_types(tmp_path: Path, name: str) -> None:
    shape = ["n", 2]
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", KINDS[name], shape)],
        [helper.make_tensor_value_info("y", KINDS[name], shape)],
    )
    unit = make(path, outputs="y")
    array = np.array([0, 1], name)
    call = Call(array)
    unit.process(call)
    got = call.outputs["y"][0].numpy()
    assert got.dtype == array.dtype
    assert np.array_equal(got, array)


def test_several_inputs_are_matched(tmp_path: Path) -> None:
    dims = ["n", 2]
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Sub", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "w")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
    )
    unit = make(path, "x w", "y")
    left = [np.float32([number, 10 * number]) for number in range(5)]
    right = [np.float32([1, number]) for number in range(5)]
    right[3] = np.float32([1, 2, 3])
    call = Call(*left, w=right)
    unit.process(call)
    for number, got in enumerate(call.outputs["y"]):
        if number == 3:
            assert "port 'w'" in got.get_error_msg()
        else:
            assert np.array_equal(got.numpy(), left[number] - right[number])
    with pytest.raises(ConfigError, match="the model's input 'w' has no port"):
        make(path, "x", "y")


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_a_batch_of_fixed_size_is_filled_up(tmp_path: Path, count: int) -> None:
    unit = make(model(tmp_path / "m.onnx", 4))
    arrays = [rows(2, number) for number in range(count)]
    call = Call(*arrays)
    unit.process(call)
    assert [got.numpy().tolist() for got in call.outputs["y"]] == [(array * 2).tolist() for array in arrays]


def test_outputs_of_a_model_for_one_that_do_not_begin_with_one(tmp_path: Path) -> None:
    """As of a detector that ends in a list of boxes."""
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Squeeze", ["x", "axes"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "boxes", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["boxes", 6])],
    )
    loaded = onnx.load(str(path))
    loaded.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [0]))
    onnx.save(loaded, str(path))
    unit = make(path, outputs="y")
    boxes = np.arange(18, dtype=np.float32).reshape(3, 6)
    call = Call(boxes, boxes[:2])
    unit.process(call)
    assert [got.get("shape") for got in call.outputs["y"]] == [[3, 6], [2, 6]]
    assert np.array_equal(call.outputs["y"][0].numpy(), boxes)


def test_a_model_that_only_says_it_can_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its shape is baked in, as some exporters leave it."""
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "size"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
    )
    loaded = onnx.load(str(path))
    loaded.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [2], [1, 6]))
    onnx.save(loaded, str(path))
    unit = make(path, outputs="y")
    for _ in range(2):
        call = Call(rows(2), rows(2, 9))
        unit.process(call)
        assert [got.numpy().tolist() for got in call.outputs["y"]] == [list(range(6)), list(range(9, 15))]
    assert len([record for record in caplog.records if "one by one from now on" in record.getMessage()]) == 1


def test_calls_side_by_side(tmp_path: Path) -> None:
    unit = make(model(tmp_path / "m.onnx"))

    def run(number: int) -> bool:
        call = Call(*(rows(2 + number % 3, number + step) for step in range(4)))
        unit.process(call)
        return all(np.array_equal(got.numpy(), rows(2 + number % 3, number + step) * 2)
                   for step, got in enumerate(call.outputs["y"]))  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(200)))


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            {"input": {"input1": {"name": "x", "type": "UINT8"}}},
            "port 'x': type = 'UINT8', but the model's input is float32",
        ),
        (
            {"output": {"output2": {"name": "y", "type": "long"}}},
            "port 'y': type = 'long', but the model's output is float32",
        ),
        (
            {"input": {"input1": {"name": "x", "type": "FLAOT"}}},
            "node 'infer' port 'x': type = 'FLAOT' is not known (did you mean 'FLOAT'?",
        ),
        ({"encryption": {"rootkey": "x"}}, "encrypted models cannot be read"),
    ],
)
def test_what_the_unit_file_says_wrong(tmp_path: Path, section: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(model(tmp_path / "m.onnx"), base=section)
    assert text in str(caught.value)
    assert "net.toml" in str(caught.value)


@pytest.mark.parametrize("word", ["float", "FLOAT", "", "tensor"])
def test_what_the_unit_file_says_right(tmp_path: Path, word: str) -> None:
    make(model(tmp_path / "m.onnx"), base={"input": {"input1": {"name": "x", "type": word}}}).close()


def test_a_type_that_the_unit_file_adds(tmp_path: Path) -> None:
    base = {"input": {"input1": {"name": "x", "type": "face"}}, "types": {"face": "tensor"}}
    make(model(tmp_path / "m.onnx"), base=base).close()


def test_onnxruntime_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="onnxruntime is not installed"):
        make(model(tmp_path / "m.onnx"))


def test_a_model_of_an_unknown_type(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["n"])],
    )
    with pytest.raises(ConfigError, match=r"node 'infer' port 'x': the model's type tensor\(string\) is not supported"):
        make(path, outputs="y")


def test_the_detection_model(tmp_path: Path) -> None:
    """A real model with free height and width: the same answer alone and in a batch."""
    spec = importlib.util.find_spec("rapidocr")
    path = Path(spec.origin or "").parent / "models/PP-OCRv6_det_small.onnx" if spec else Path("none")
    if not path.is_file():
        pytest.skip("the package rapidocr with its detection model is not installed")
    unit = make(path, "x", "fetch_name_0")
    picture = np.random.default_rng(1).normal(size=(3, 64, 96)).astype(np.float32)
    results = []
    for arrays in ([picture], [picture, picture[:, :, :64], picture], [picture[np.newaxis]]):
        call = Call(*arrays)
        call.outputs["fetch_name_0"] = BufferList()
        unit.process(call)
        results.append([got.numpy() for got in call.outputs["fetch_name_0"]])
    assert [array.shape for array in results[1]] == [(1, 64, 96), (1, 64, 64), (1, 64, 96)]
    for array in (results[1][0], results[1][2], results[2][0]):
        assert np.allclose(array, results[0][0], atol=1e-4)


def test_files_and_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.onnx does not exist"):
        make(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match=r"bad\.onnx cannot be loaded"):
        make(tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match="intra_op_num_threads = 'x' is no whole number"):
        make(model(tmp_path / "m.onnx"), intra_op_num_threads="x")
