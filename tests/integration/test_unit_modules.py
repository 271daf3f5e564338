"""Modules beside a unit: whatever their names, the unit gets its own, and everybody else what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbox.errors import UnitError
from tests.integration.graphs import Graphs, write
from tests.integration.server import Server, write_graph
from tests.integration.workers import Caller, write_unit

NAMED = """import _flowunit as modelbox
import helper
import {name} as same
from {name} import {part} as part


class Unit(modelbox.FlowUnit):
    def process(self, ctx):
        import fractions, plistlib, {name}, uuid

        import {name} as later
        values = [same is later is {name} is helper.same, part is same.{part}]
        values.append(not str(getattr(same, "__file__", "")).startswith({folder!r}))
        values += [helper.__name__ == "helper", fractions.Fraction(1, 2) + 1 == 1.5]
        for buffer in ctx.input("in"):
            ctx.output("out").push_back(str(values))
        return modelbox.Status()
"""


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("copy", "deepcopy"),
        ("numbers", "Number"),
        ("types", "SimpleNamespace"),
        ("numpy", "array"),
        ("json", "dumps"),
        ("sys", "modules"),  # built in
        ("sndhdr_of_mine", ""),  # nobody else's
    ],
)
def test_a_unit_may_be_named_like_another_module(caller: Caller, tmp_path: Path, name: str, part: str) -> None:
    code = NAMED.format(name=name, part=part, folder=str(tmp_path))
    if not part:
        code = code.replace(f"from {name} import  as part\n", "part = None\n").replace("part is same.", "not part")
        code = code.replace("not str(", "str(")
    unit = write_unit(tmp_path, name, code)
    (tmp_path / name / "helper.py").write_text(f"import {name} as same\n")
    group = caller.start(unit)
    assert [str(buffer) for buffer in caller.call(group, "x")] == [str([True] * 5)]


HELPED = """import _flowunit as modelbox
import numbers
import queue.inner
import wave as waves
from numbers import MINE
from queue import inner as same


class Unit(modelbox.FlowUnit):
    def process(self, ctx):
        import fractions
        import numbers as later
        from queue.inner import DEEP, up

        assert later is numbers and same is queue.inner and up is queue
        assert fractions.numbers is not numbers and isinstance(fractions.Fraction(1), fractions.numbers.Number)
        for buffer in ctx.input("in"):
            ctx.output("out").push_back(f"{MINE} {DEEP} {queue.inner.DEEP} {waves.SAID} {waves.other.open.__name__}")
        return modelbox.Status()
"""


def test_helpers_may_be_named_like_other_modules(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(tmp_path, "helped", HELPED)
    folder = tmp_path / "helped"
    (folder / "numbers.py").write_text("MINE = 'mine'\n")
    (folder / "queue").mkdir()
    (folder / "queue/__init__.py").write_text("from numbers import MINE\n")
    (folder / "queue/inner.py").write_text("import queue as up\nDEEP = f'{up.MINE}, {__package__[-5:]}'\n")
    # A module that imports its own name wants the other one.
    (folder / "wave.py").write_text("import wave as other\nSAID = 'own'\n")
    group = caller.start(unit)
    (answer,) = caller.call(group, "x")
    assert str(answer) == "mine mine, queue mine, queue own open"


def test_a_helper_cannot_stand_in_for_the_sdk(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(
        tmp_path,
        "plain",
        "import _flowunit as modelbox, modelbox as same, os\n\n\nclass Unit(modelbox.FlowUnit):\n"
        "    def process(self, ctx):\n        for buffer in ctx.input('in'):\n"
        "            ctx.output('out').push_back(str(modelbox is same))\n        return modelbox.Status()\n",
    )
    for name in ("_flowunit", "modelbox"):  # such as stubs for an editor
        (tmp_path / "plain" / f"{name}.py").write_text("raise ImportError('a stub')\n")
    group = caller.start(unit)
    assert [str(buffer) for buffer in caller.call(group, "x")] == ["True"]


def test_errors_name_the_users_file(caller: Caller, tmp_path: Path) -> None:
    unit = write_unit(tmp_path, "copy", "import _flowunit as modelbox\nimport helper\n")
    (tmp_path / "copy/helper.py").write_text("import json\njson.missing\n")
    (tmp_path / "copy/json.py").write_text("")
    with pytest.raises(UnitError, match=rf"'?json' has no attribute 'missing' \({tmp_path}/copy/helper.py:2\)"):
        caller.start(unit)
    (tmp_path / "copy/helper.py").write_text("")
    with pytest.raises(UnitError, match=rf"{tmp_path}/copy/copy.py has no class 'Unit'"):
        caller.start(unit)


SET = """
    def process(self, ctx):
        from numbers import Shape

        for buffer in ctx.input("in"):
            ctx.get_session_context().set_private("shape", Shape(str(buffer)))
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
GET = """
    def process(self, ctx):
        from numbers import Shape

        for buffer in ctx.input("in"):
            shape = ctx.get_session_context().get_private("shape")
            ctx.output("out").push_back(f"{type(shape) is Shape} {shape.name}")
        return modelbox.Status()
"""


def test_values_of_a_helpers_class_reach_other_workers(tmp_path: Path) -> None:
    for name, code in (("set", SET), ("get", GET)):
        write(tmp_path, name, code, base="stream = true")
    folder = tmp_path / "set"
    for file in (tmp_path / "get").iterdir():  # both units in one folder
        file.rename(folder / file.name)
    (folder / "numbers.py").write_text("class Shape:\n    def __init__(self, name):\n        self.name = name\n")
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run(
            "s [flowunit=source]; a [flowunit=set]; b [flowunit=get, workers=2]; t [flowunit=got];"
            "s:out -> a:in; a:out -> b:in; b:out -> t:in"
        )
        for number in range(4):
            graphs.bench.send(job, f"x{number}")
        assert graphs.got.wait(4) == [f"True x{number}" for number in range(4)]
    finally:
        graphs.close()


DOT = """digraph g {
    rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
    a [flowunit=first]; b [flowunit=second]; c [flowunit=third]
    tx [flowunit=httpserver_sync_reply]
    rx:out_request_info -> a:in; a:out -> b:in; b:out -> c:in; c:out -> tx:in_reply_info
}"""
SAYS = """
    def open(self, config):
        import utils
        self.said = utils.said
        return modelbox.Status()

    def process(self, ctx):
        import late
        import utils
        from utils import said

        for buffer in ctx.input("in"):
            text = f"{buffer}|{self.said()}:{said()}:{utils.said()}:{late.SAID}"
            ctx.output("out").push_back(text)
        return modelbox.Status()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_units_of_several_folders_do_not_mix(tmp_path: Path, workers: int) -> None:
    for name in ("first", "second", "third"):
        write(tmp_path, name, SAYS, base="stream = true")
        folder = tmp_path / name
        (folder / f"{name}.py").rename(folder / "unit.py")  # the same name in all three
        toml = folder / f"{name}.toml"
        toml.write_text(toml.read_text().replace(f"{name}@Unit", "unit@Unit"))
        (folder / "utils.py").write_text(f"import late\n\n\ndef said():\n    return '{name} ' + late.SAID\n")
        (folder / "late.py").write_text(f"SAID = '{name[0]}'\n")
    server = Server(write_graph(tmp_path, DOT), config=f"[python]\nworkers = {workers}\n", folder=tmp_path).ready()
    status, body, _ = server.request("/v1", b"x")
    assert server.stop() == 0
    told = [":".join([f"{name} {name[0]}"] * 3 + [name[0]]) for name in ("first", "second", "third")]
    assert (status, body.decode()) == (200, "|".join(["x", *told]))
