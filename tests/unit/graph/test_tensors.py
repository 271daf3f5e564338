"""[model] of graph files: what it says, and what is wrong with it, with the line."""

from __future__ import annotations

from typing import Any

import pytest

from modelbox.errors import GraphError
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import parse_graph
from modelboxd.graph.tensors import ModelDecl

HEAD = '[graph]\nformat = "graphviz"\ngraphconf = "digraph g { a [type=input]; b [type=output]; a -> b }"\n'


class NoUnits:
    def find(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("this graph has no units")


def read(text: str) -> ModelDecl:
    graph = check_graph(parse_graph(HEAD + text, "g.toml"), NoUnits())  # type: ignore[arg-type]
    assert graph.model is not None
    return graph.model


def test_all_of_it() -> None:
    made = read(
        '[model]\nname = "resnet"\nversion = 3\nmax_batch = 8\n[model.inputs]\na = {datatype = "FP32", shape = [3, -1]}\n'
        '[model.outputs]\nb = {datatype = "BYTES", shape = [1], name = "fc.out"}\n'
    )
    assert (made.name, made.version, made.max_batch) == ("resnet", "3", 8)
    assert (made.inputs["a"].datatype, made.inputs["a"].shape, made.inputs["a"].where.line) == ("FP32", (3, -1), 9)
    assert made.outputs["b"].name == "fc.out"


def test_nothing_but_the_section() -> None:
    made = read("[model]\n")
    assert (made.name, made.version, made.max_batch, made.inputs) == ("", "1", None, {})
    assert parse_graph(HEAD, "g.toml").model is None


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("[model]\nbatch = 1\n", "model.batch is not known", 5),
        ('[model]\nname = ".x"\n', "model.name = '.x' is not allowed", 5),
        ("[model]\nname = 5\n", "model.name = 5 is not allowed", 5),
        ('[model]\nversion = "a b"\n', "model.version = 'a b' is no version", 5),
        ("[model]\nmax_batch = -1\n", "model.max_batch = -1 is no whole number from 0 to 4096", 5),
        ("[model]\nmax_batch = true\n", "model.max_batch = True is no whole number", 5),
        ("[model]\ninputs = 3\n", "model.inputs must be a table", 5),
        ("[model.inputs]\na = 3\n", "model.inputs.a must have datatype and shape", 5),
        ('[model.inputs]\na = {datatype = "FP32"}\n', "model.inputs.a must have datatype and shape", 5),
        ('[model.inputs]\na = {datatype = "float", shape = []}\n', "datatype = 'float' is not known", 5),
        ('[model.inputs]\na = {datatype = "BF16", shape = []}\n', "BF16 is not supported", 5),
        ('[model.inputs]\na = {datatype = "FP32", shape = [0]}\n', r"shape = \[0\] is no list of sizes", 5),
        ('[model.inputs]\na = {datatype = "FP32", shape = 3}\n', "shape = 3 is no list of sizes", 5),
        ('[model.inputs]\na = {datatype = "BYTES", shape = [2, 2]}\n', "each element of BYTES is a value", 5),
        (
            '[model]\nmax_batch = 2\n[model.inputs]\na = {datatype = "BYTES", shape = [-1]}\n',
            "each element of BYTES",
            7,
        ),
        ('[model.inputs]\nc = {datatype = "FP32", shape = []}\n', "model.inputs.c: there is no input node 'c'", 5),
        ('[model.outputs]\na = {datatype = "FP32", shape = []}\n', "model.outputs.a: there is no output node 'a'", 5),
    ],
)
def test_what_is_wrong(text: str, message: str, line: int) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        read(text)
    assert caught.value.where is not None
    assert caught.value.where.line == line
