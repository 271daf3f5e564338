"""Models for tests of the inference protocol: ONNX files, their units, and graphs around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def write_linear(folder: Path) -> Path:
    """The unit `linear`: y = x @ WEIGHTS + b, any batch; and a graph with it that says nothing of tensors."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("b", 3))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
        "linear",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], WEIGHTS.reshape(-1).tolist())],
    )
    write_model(folder, "linear", graph, ["x", "b"], ["y"])
    return write_graph(
        folder,
        "linear",
        "x [type=input]; b [type=input]; y [type=output]; net [flowunit=linear, batch_size=16]; "
        "x -> net:x; b -> net:b; net:y -> y",
    )


def write_model(folder: Path, name: str, graph: onnx.GraphProto, inputs: list[str], outputs: list[str]) -> None:
    """An ONNX file and the TOML that makes it a unit."""
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 9
    onnx.save(made, folder / f"{name}.onnx")
    text = f'[base]\nname = "{name}"\ntype = "inference"\nvirtual_type = "onnx"\ndevice = "cpu"\nversion = "1.0.0"\n'
    text += f'description = "{name}"\nentry = "{name}.onnx"\n'
    for side, ports in (("input", inputs), ("output", outputs)):
        text += "".join(f'[{side}.{side}{at}]\nname = "{port}"\n' for at, port in enumerate(ports, 1))
    (folder / f"{name}.toml").write_text(text)


def write_graph(folder: Path, name: str, dot: str, more: str = "") -> Path:
    """A graph file, with more sections behind."""
    path = folder / f"{name}_graph.toml"
    path.write_text(
        f'[driver]\ndir = ["{folder}"]\n[graph]\nformat = "graphviz"\ngraphconf = """digraph {name} {{ {dot} }}"""\n'
        f'[flow]\nname = "{name}"\n{more}'
    )
    return path


def same_types(folder: Path, datatypes: list[str]) -> Path:
    """A graph whose outputs are its inputs, one of each type, without a batch, of any two sizes; BYTES of one element."""
    dot, inputs, outputs = "", "[model]\n[model.inputs]\n", "[model.outputs]\n"
    for word in datatypes:
        low = word.lower()
        dot += f"i_{low} [type=input]; o_{low} [type=output]; i_{low} -> o_{low}; "
        shape = "[1]" if word == "BYTES" else "[-1, -1]"
        inputs += f'i_{low} = {{datatype = "{word}", shape = {shape}, name = "in_{word}"}}\n'
        outputs += f'o_{low} = {{datatype = "{word}", shape = {shape}, name = "out_{word}"}}\n'
    return write_graph(folder, "types", dot, inputs + outputs)
