"""Complaints name the line and column of the file that the user edits, however the DOT text is written in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox.errors import GraphError
from modelboxd.graph.loader import load_graph, parse_graph
from modelboxd.graph.places import locate_text

HEAD = '[graph]\nformat = "graphviz"\n'


def where(text: str, name: str = "g.toml") -> tuple[int, int]:
    """The place of the only sign that DOT does not know, "$", as the complaint tells it."""
    with pytest.raises(GraphError) as caught:
        parse_graph(text, name)
    place = caught.value.where
    assert place is not None
    assert place.file == name
    assert "unexpected '$'" in str(caught.value)
    return place.line, place.column


def true_place(text: str) -> tuple[int, int]:
    before = text[: text.index("$")].split("\n")
    return len(before), len(before[-1]) + 1


@pytest.mark.parametrize(
    "text",
    [
        HEAD + 'graphconf = """digraph g {\n  a -> $\n}"""\n',
        HEAD + 'graphconf = """\ndigraph g {\n  a -> $\n}"""\n',
        HEAD + "graphconf = '''\ndigraph g {\n  a [x=\"\\\\n\"] $\n}'''\n",
        HEAD + 'graphconf = "digraph g { a $ }"\n',
        HEAD + "graphconf = 'digraph g { a $ }'\n",
        HEAD + 'graphconf = """digraph { a [x=<q\\"\\"\\" \\t \\u00e9 \\\\ >] $ }"""\n',
        HEAD + 'graphconf = """digraph { a \\\n\n     b \\\n   c $ }"""\n',
        HEAD + 'graphconf = """digraph { a\\n b\\n $ }"""\n',
        HEAD + 'graphconf = [\n  "digraph {",\n  "a",\n  "a [x=1]",  # "a"\n  "$ }",\n]\n',
        HEAD + 'graphconf = ["digraph { a", \'\'\'\nb\nc\'\'\', """d\n $""", "}"]\n',
        '# graphconf = "digraph { a }"\n[flow]\ndesc = """\ngraphconf = 1\n"""\n'
        + HEAD
        + 'graphconf = """digraph { $ }"""',
        'flow.desc = "graphconf"\ngraph.format = "graphviz"\ngraph.graphconf = """digraph {\n $ }"""',
        'graph = { format = "graphviz", graphconf = "digraph { $ }" }',
        HEAD + '"graphconf" = """digraph {\n $ }"""',
        HEAD + 'graphconf = """digraph { a [x="\U0001f600"] $ }"""',
        HEAD + 'graphconf = """digraph { a [x="\\U0001f600"] $ }"""',
    ],
)
def test_toml(text: str) -> None:
    assert where(text) == true_place(text)


@pytest.mark.parametrize(
    "dot",
    ["digraph {\n a [x=\"1\"]\n\t$ }", "digraph { ü \U0001f600 [y=2] $ }", "digraph { a [x=\"/\"] $ }"],
)  # fmt: skip
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json(dot: str, ascii_only: bool) -> None:
    for value in (dot, dot.split("\n")):
        graph = {"flow": {"name": "graphconf"}, "graph": {"format": "graphviz", "graphconf": value}}
        text = json.dumps(graph, indent=2, ensure_ascii=ascii_only)
        assert where(text, "g.json") == true_place(text)


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(
        b"\xef\xbb\xbf" + (HEAD + 'graphconf = """digraph {\n  a\n  $ }"""\n').replace("\n", "\r\n").encode()
    )
    with pytest.raises(GraphError, match=r"g\.toml:5:3: unexpected"):
        load_graph(path)
    assert where((HEAD + 'graphconf = """digraph {\n  a\n  $ }"""\n').replace("\n", "\r\n")) == (5, 3)


def test_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(HEAD + 'graphconffilepath = "d.dot"\n')
    (tmp_path / "d.dot").write_text("digraph {\n\n  $ }")
    with pytest.raises(GraphError) as caught:
        load_graph(tmp_path / "g.toml")
    assert str(caught.value).startswith(f"{tmp_path}/d.dot:3:3: unexpected '$'")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t\"'\\#"), max_size=40), st.data())
def test_every_character_is_found(value: str, data: st.DataObject) -> None:
    """A value written with random escapes: each character is where it was written."""
    source, places = 'a = "graphconf"\ngraphconf = """\n', []
    for char in value:
        if data.draw(st.booleans()):
            source += data.draw(st.sampled_from(["\\\n", "\\  \n\n  ", "\\ \n\t"])) if char not in " \t\n" else ""
        places.append(len(source))
        if char in '"\\' or data.draw(st.integers(0, 5)) == 0:
            source += f"\\U{ord(char):08x}"
        else:
            source += char
    source += '"""\nb = 1\n'
    locate = locate_text(source, "graphconf", [value], "f")
    line = column = 1
    for char, place in zip(value, places, strict=True):
        before = source[:place].split("\n")
        found = locate(line, column)
        assert (found.line, found.column) == (len(before), len(before[-1]) + 1)
        line, column = (line + 1, 1) if char == "\n" else (line, column + 1)
