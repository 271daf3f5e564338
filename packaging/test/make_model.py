"""Writes an ONNX model that doubles four numbers: make_model.py FILE."""

import sys

from onnx import TensorProto, helper, save

number = TensorProto.FLOAT
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "x"], ["y"])],
    "double",
    [helper.make_tensor_value_info("x", number, ["n", 4])],
    [helper.make_tensor_value_info("y", number, ["n", 4])],
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), sys.argv[1])
