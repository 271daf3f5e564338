"""The units of docs/python-units.md, taken out of the page and run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.server import TOP, Server, write_graph

PAGE = (TOP / "docs/python-units.md").read_text(encoding="utf-8")
# More units for the graph around the examples, in the form of the page.
OWN = """
```python
# mark.toml: stream = false; input: in; output: out
class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(f"({buffer})")
        return modelbox.Status()
```
```python
# halve.toml: stream = false; input: in; output: out
class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(str(buffer)[: len(str(buffer)) // 2])
        return modelbox.Status()
```
```python
# tell.toml: stream = true; input: in
class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            modelbox.info(f"heard {buffer}")
        return modelbox.Status()

    def data_post(self, context):
        modelbox.info("heard the end")
        return modelbox.Status()
```
"""


def write_units(folder: Path, page: str) -> list[str]:
    """Every example as a unit; its first line says what its TOML has."""
    names = []
    for code in re.findall(r"```python\n(# \w+\.toml: .*?)```", page, re.DOTALL):
        head = code.split("\n", 1)[0]
        name = head[2:].split(".", 1)[0]
        parts = [part.strip() for part in head.split(": ", 1)[1].split(";")]
        toml = f'[base]\nname = "{name}"\ntype = "python"\ndevice = "cpu"\nversion = "1.0.0"\n'
        toml += f'description = "{name}"\nentry = "{name}@Unit"\n' + parts[0].replace(", ", "\n") + "\n"
        for part in parts[1:]:
            side, ports = part.split(": ")
            side = side.rstrip("s")
            toml += f"[{side}]\n"
            for number, port in enumerate(ports.split(", "), 1):
                toml += f'[{side}.{side}{number}]\nname = "{port}"\n'
        (folder / f"{name}.toml").write_text(toml)
        (folder / f"{name}.py").write_text(f"import threading\n\nimport modelbox\n\n{code}")
        names.append(name)
    return names


def test_units_of_every_kind(tmp_path: Path) -> None:
    assert write_units(tmp_path, PAGE) == ["choose", "words", "together", "until", "twice", "ticks"]
    write_units(tmp_path, OWN)
    graph = write_graph(
        tmp_path,
        """digraph kinds {
        rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
        tx [flowunit=httpserver_sync_reply]
        words [flowunit=words]; choose [flowunit=choose]; mark [flowunit=mark]
        together [flowunit=together]; until [flowunit=until]; halve [flowunit=halve]; twice [flowunit=twice]
        rx:out_request_info -> words:in; words:out -> choose:in
        choose:long -> mark:in; mark:out -> together:in; choose:short -> together:in
        together:out -> until:in; until:again -> halve:in; halve:out -> until:in; until:done -> twice:in
        twice:out -> tx:in_reply_info }""",
    )
    server = Server(graph, folder=tmp_path).ready()
    try:
        assert server.request("/v1", b"a bb ccccc")[:2] == (200, b"a bb (ccccc)!")
        assert server.request("/v1", b"ccccc ddddd eeeee fffff")[:2] == (200, b"(ccccc)!")
    finally:
        assert server.stop() == 0


def test_the_source(tmp_path: Path) -> None:
    write_units(tmp_path, PAGE + OWN)
    graph = write_graph(tmp_path, "digraph g { s [flowunit=ticks]; t [flowunit=tell]; s:out -> t:in }")
    server = Server(graph, folder=tmp_path).ready()
    try:
        server.wait_for("heard the end")
        heard = [line.split("heard ")[1] for line in server.lines if "heard " in line]
        assert heard == ["tick 0", "tick 1", "tick 2", "the end"]
    finally:
        assert server.stop() == 0
