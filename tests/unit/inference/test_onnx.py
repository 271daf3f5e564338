"""The ONNX inference unit with small models: batches, shapes, types, and what it says when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelbox.buffer import Buffer, BufferList
from modelbox.configuration import Configuration
from modelbox.device import CPU
from modelbox.errors import ConfigError, UnitError, Where
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


def make(path: Path, inputs: str = "x", outputs: str = "y z", **options: object) -> Any:
    spec = UnitSpec(
        "net", "cpu", "1.0.0", "", UnitKind.INFERENCE, "net.toml",
        tuple(PortSpec(name) for name in inputs.split()), tuple(PortSpec(name) for name in outputs.split()),
        entry=str(path), virtual_type="onnx",
    )  # fmt: skip
    node = Node("infer", spec, Where("g.toml"), {}, 8, {}, 1)
    unit = OnnxInference(node, Configuration(options), Services("job", None, None, None, 2, 2))  # type: ignore[arg-type]
    unit.open()
    return unit


class Call:
    session = None

    def __init__(self, *arrays: Any) -> None:
        self.items = BufferList([Buffer(CPU, array) for array in arrays])
        self.outputs = {"y": BufferList(), "z": BufferList()}

    def input(self, port: str) -> BufferList:
        return self.items

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
    with pytest.raises(UnitError) as caught:
        unit.process(Call(array))
    assert text in str(caught.value)


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


def test_files_and_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.onnx does not exist"):
        make(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match=r"bad\.onnx cannot be loaded"):
        make(tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match="intra_op_num_threads = 'x' is no whole number"):
        make(model(tmp_path / "m.onnx"), intra_op_num_threads="x")
