"""Complaints about a key name the line on which that very key stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelboxd.graph.keys import key_line
from modelboxd.graph.loader import parse_graph

G = 'format = "graphviz"\ngraphconf = "digraph { a [flowunit=x] }"\n'


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        pytest.param(f"[graph]\n{G}[graph2]\nformat = 1\n", "section [graph2]", 4, id="a common prefix"),
        pytest.param(f"[graph2]\nwrong = 1\n[graph]\nwrong = 2\n{G}", "graph.wrong", 4, id="a common prefix before"),
        pytest.param(f"[graph]\n{G}[graph.sub]\nx = 1\n", "graph.sub", 4, id="a table in the section"),
        pytest.param(f"[ graph ]\n{G}[ graph . sub ]\nx = 1\n", "graph.sub", 4, id="spaces in a header"),
        pytest.param(f"[graph.sub]\nwrong = 1\n[graph]\n{G}wrong = 2\n", "graph.wrong", 6, id="the table comes first"),
        pytest.param(f"[args.graph]\nwrong = 1\n[graph]\n{G}wrong = 2\n", "graph.wrong", 6, id="a table of that name"),
        pytest.param(f"[graph]\n{G}[[graph.things]]\na = 1\n", "graph.things", 4, id="an array of tables"),
        pytest.param(f"[graph]\n{G}[[extra]]\na = 1\n[[extra]]\na = 2\n", "section [extra]", 4, id="the first of them"),
        pytest.param(
            'graph.format = "graphviz"\nflow.wrong = 3\ngraph.wrong = 1\ngraph.graphconf = "digraph { a }"\n',
            "graph.wrong", 3, id="dotted keys",
        ),
        pytest.param(f"[graph]\n{G}a.b = 1\n", "graph.a", 4, id="a dotted key in the section"),
        pytest.param(f'driver = {{ wrong = 1 }}\nflow = {{ name = "a", wrong = 1 }}\n[graph]\n{G}', "flow.wrong", 2, id="inline"),
        pytest.param(f'flow = {{ name = "wrong = 3" }}\ndriver = {{ wrong = 1 }}\n[graph]\n{G}', "driver.wrong", 2, id="in a text"),
        pytest.param(f'[driver]\ndir = [\n "a", # ]\n "[x]"\n]\nother = [[], [1]]\nwrong = [\n"x=1",\n]\n[graph]\n{G}', "driver.wrong", 7, id="arrays"),
        pytest.param(f"[\"graph\"]\n{G}\"wro ng\" = 1\n", "graph.wro ng", 4, id="quoted"),
        pytest.param(f"[graph]\n{G}\"wr\\u006fng\" = 1\n", "graph.wrong", 4, id="escaped"),
        pytest.param(f"wrong = 1\n[graph]\n{G}", "section [wrong]", 1, id="outside any section"),
        pytest.param(
            '{\n "graph2": {"wrong": 1},\n "graph": {"format": "graphviz",\n  "wrong": 1, "graphconf": "digraph { a }"}}',
            "graph.wrong", 4, id="json",
        ),
    ],
)  # fmt: skip
def test_the_line_of_an_unknown_key(text: str, key: str, line: int) -> None:
    warnings = parse_graph(text, "g.json" if text.startswith("{") else "g.toml").warnings
    (found,) = (warning for warning in warnings if f"{key} is not known" in warning.message)
    assert found.where is not None
    assert found.where.line == line


WORDS = st.sampled_from(["a", "b", "a b", "graph", "graph2", "x.y", "é", "#", '"', "[a]", "= 1"])
VALUES = st.recursive(
    st.sampled_from(["1", '"a = 2"', "'[a]'", '"""\na = 3\n[b]\n"""', "'''\nb = \"\n'''", "true", "1.5 # a = 1\n"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "\n]"),
    max_leaves=5,
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """A TOML text with sections, and the line of every key."""
    text, places = "", {}
    for section in draw(st.lists(WORDS, unique=True, max_size=4)):
        places[(section,)] = text.count("\n") + 1
        text += f"  [ {json.dumps(section)} ]  # a = 1\n"
        for key in draw(st.lists(WORDS, unique=True, max_size=4)):
            text += draw(st.sampled_from(["", "# b = 2\n", "\n\n", "\t"]))
            places[section, key] = text.count("\n") + 1
            bare = key.isascii() and key.isalnum()
            value = draw(VALUES)
            if draw(st.booleans()) and "\n" not in value:
                places[section, key, "inner"] = places[section, key]
                value = f'{{ "other" = "inner = 1", inner = {value} }}'
            text += f"{key if bare else json.dumps(key)} = {value}\n"
    return text, places


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(documents())
def test_every_key_is_found(document: tuple[str, dict[tuple[str, ...], int]]) -> None:
    text, places = document
    data = tomllib.loads(text)
    assert {path: key_line(text, *path) for path in places} == places
    for path in places:
        value: Any = data
        for word in path:
            value = value[word]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("[]{}=\"'.,# \na", max_size=30))
def test_what_is_not_well_formed_is_survived(text: str) -> None:
    assert key_line(text, "no such key") == 0


def test_a_file_that_is_nested_deeply() -> None:
    assert key_line("a = 1\nb = " + "[" * 100_000, "a") == 1
