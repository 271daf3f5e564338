"""Types of ports that units add to the tree, and strict ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbox.errors import GraphError
from modelboxd.drivers.registry import Registry
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import parse_graph
from tests.unit.drivers.test_registry import library, scan

UNIT = """[base]
name = "{name}"
type = "python"
device = "cpu"
version = "1.0.0"
description = "a unit"
entry = "{name}@Unit"
{types}
{ports}
"""
PORT = '[{side}.{side}1]\nname = "{side}"\ntype = "{type}"\n{more}'


def write(folder: Path, name: str, inputs: str = "", outputs: str = "", types: str = "", more: str = "") -> Path:
    ports = [PORT.format(side=s, type=t, more=more) for s, t in (("input", inputs), ("output", outputs)) if t]
    path = folder / f"{name}.toml"
    path.write_text(UNIT.format(name=name, types=types, ports="\n".join(ports)))
    return path


def complaints(registry: Registry) -> list[str]:
    dot = "a [flowunit=a]; b [flowunit=b]; a:output -> b:input"
    spec = parse_graph(f'[graph]\nformat = "graphviz"\ngraphconf = """digraph {{ {dot} }}"""', "g.toml")
    try:
        check_graph(spec, registry)
    except GraphError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("out_type", "in_type", "fits"),
    [
        ("face", "image", True), ("image", "face", True), ("face", "raw", True), ("face", "face", True),
        ("face", "crop", True), ("face", "plate", False), ("crop", "plate", False), ("face", "string", False),
    ],
)  # fmt: skip
def test_types_of_units_are_checked(tmp_path: Path, out_type: str, in_type: str, fits: bool) -> None:
    types = '[types]\nface = "image"\nplate = "image"\ncrop = "face"'
    write(tmp_path, "a", outputs=out_type, types=types)
    write(tmp_path, "b", inputs=in_type, types=types)
    registry = scan(tmp_path)
    assert not registry.problems
    wrong = f"g.toml:3:58: type mismatch: a:output gives {out_type}, b:input takes {in_type}"
    assert complaints(registry) == ([] if fits else [wrong])


def test_words_of_other_units_mean_nothing(tmp_path: Path) -> None:
    """Users write element types, for editors."""
    write(tmp_path, "a", outputs="string")
    write(tmp_path, "b", inputs="image")
    registry = scan(tmp_path)
    assert [port.type for unit in registry.units for port in (*unit.inputs, *unit.outputs)] == ["raw", "raw"]
    assert complaints(registry) == []


def test_a_plugin_adds_types(tmp_path: Path) -> None:
    library(tmp_path, "modelbox_x.so", types='{"bgr", "packed"}, {"packed", "image"}, {"mine", NULL}')
    registry = scan(tmp_path)
    assert registry.find("mine").types == (("bgr", "packed"), ("packed", "image"), ("mine", "raw"))
    assert registry.types.line("bgr") == ["bgr", "packed", "image", "tensor", "raw"]
    assert "mine" in registry.types
    cache = tmp_path / "cache" / "drivers.json"
    assert scan(tmp_path, cache).types.line("bgr") == scan(tmp_path, cache).types.line("bgr")
    assert "bgr" in scan(tmp_path, cache).types  # what is remembered has them as well


def test_a_plugin_built_before_there_were_types(tmp_path: Path) -> None:
    library(tmp_path, "modelbox_x.so", size="offsetof(mb_plugin, types)")
    registry = scan(tmp_path)
    assert not registry.problems
    assert registry.find("mine").types == ()
    assert "bgr" not in registry.types


def test_types_that_contradict_each_other(tmp_path: Path) -> None:
    first = write(tmp_path, "a", outputs="x", types='[types]\nx = "image"')
    second = write(tmp_path, "b", inputs="x", types='[types]\nx = "string"\ny = "z"')
    registry = scan(tmp_path)
    assert [str(problem) for problem in registry.problems] == [
        f"{second}: type 'x' is below 'image' already",
        f"{second}: type 'z', which 'y' is to be below, is not known",
    ]
    assert registry.find("a").path == str(first)
    assert complaints(registry) == []


@pytest.mark.parametrize("line", ["x = 5", 'x = ""', '"a b" = "raw"', 'x = "1"'])
def test_types_of_the_wrong_form(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, "a", outputs="x", types=f"[types]\n{line}")
    (problem,) = scan(tmp_path).problems
    assert str(problem).startswith(f"{path}:9: types.")
    assert str(problem).endswith('is not the name of a type and its parent (such as bgr_image = "image")')


def test_strict_ports(tmp_path: Path) -> None:
    write(tmp_path, "a", outputs="image", more="strict = true")
    write(tmp_path, "b", inputs="image")
    registry = scan(tmp_path)
    port = registry.find("a").outputs[0]
    assert (port.type, port.strict) == ("image", True)
    assert not registry.find("b").inputs[0].strict
    assert complaints(registry) == []


def test_a_strict_port_of_an_unknown_type(tmp_path: Path) -> None:
    path = write(tmp_path, "a", outputs="imge", more="strict = true")
    write(tmp_path, "b", inputs="image")
    assert complaints(scan(tmp_path)) == [
        f"g.toml:3:26: node 'a' port 'output': type 'imge' is not known, but the port is strict (see {path}; [types] imge = \"raw\" makes it known)"
    ]


@pytest.mark.parametrize(
    ("word", "more", "message"),
    [
        ("image", "strict = 5", "output.output1.strict = 5 is not true or false"),
        (" ", "strict = true", 'output.output1.strict needs a type (such as type = "image")'),
    ],
)
def test_strict_of_the_wrong_form(tmp_path: Path, word: str, more: str, message: str) -> None:
    path = write(tmp_path, "a", outputs=word, more=more)
    assert [str(problem) for problem in scan(tmp_path).problems] == [f"{path}:9: {message}"]
