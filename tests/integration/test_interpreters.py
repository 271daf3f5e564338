"""Units that run in an interpreter of their own: other packages, another Python, and what can be wrong with it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from modelbox.errors import UnitError
from modelboxd.drivers.unit_toml import read_unit
from modelboxd.workers import interpreter
from tests.integration.graphs import Graphs, write
from tests.integration.server import TOP, write_graph
from tests.integration.test_bad_start import modelbox

# Interpreters with a numpy of their own, for instance such as `make pythons` makes.
OTHERS = sorted(str(path) for path in (TOP / "build/pythons").glob("*/bin/python"))

UNIT = """
    def open(self, config):
        self.count = config.get_int("count", 1)
        return modelbox.Status()

    def process(self, ctx):
        import importlib.util
        import sys

        import numpy as np

        for buffer in ctx.input("in"):
            values = np.array(buffer, copy=False) + self.count
            with memoryview(buffer) as view:
                assert view.nbytes == values.nbytes
            made = modelbox.Buffer(self.get_bind_device(), values)
            made.copy_meta(buffer)
            made.set("python", sys.executable)
            made.set("version", list(sys.version_info[:2]))
            made.set("numpy", np.__version__)
            made.set("own", {"tuple": (1, 2.5, "x", None, b"y"), "cffi": importlib.util.find_spec("cffi") is not None})
            ctx.get_session_context().set_private("array", values[:3].copy())
            ctx.output("out").push_back(made)
        modelbox.info("calculated")
        return modelbox.Status()
"""
BACK = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            array = ctx.get_session_context().get_private("array")
            own, version = buffer.get("own"), ".".join(map(str, buffer.get("version")))
            values = buffer.numpy()
            text = f"{buffer.get('python')} {version} {buffer.get('numpy')} {own['tuple']} {own['cffi']} {array.tolist()}"
            ctx.output("out").push_back(f"{text} {values.shape} {values.sum()}")
        return modelbox.Status()
"""
MAKE = """
    def process(self, ctx):
        import numpy as np

        for buffer in ctx.input("in"):
            size = int(str(buffer))
            ctx.output("out").push_back(np.arange(size * 3, dtype=np.int64).reshape(size, 3))
        return modelbox.Status()
"""
DOT = """s [flowunit=source]; m [flowunit=make]; u [flowunit=own, count=2, workers=2]; b [flowunit=back]; t [flowunit=sink];
         s:out -> m:in; m:out -> u:in; u:out -> b:in; b:out -> t:in"""


def bare(folder: Path, *packages: str) -> str:
    """A venv of this Python in which there are only these packages of ours."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = Path(np.__file__).parents[1]
    for name in packages:
        (site / name).symlink_to(ours / name)
    return str(folder / "bin/python")


@pytest.mark.parametrize("which", ["bare", *OTHERS])
def test_a_unit_in_its_own_interpreter(tmp_path: Path, which: str) -> None:
    python = bare(tmp_path / "venv", "numpy", "numpy.libs") if which == "bare" else which
    write(tmp_path, "make", MAKE, base="stream = true")
    write(tmp_path, "own", UNIT, base=f'stream = true\npython = "{python}"')
    write(tmp_path, "back", BACK, base="stream = true")
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run(DOT)
        for size in (2, 50_000):
            record = graphs.bench.send(job, str(size))
            assert record.error() is None
            found = re.fullmatch(
                r"(\S+) (\S+) (\S+) \(1, 2.5, 'x', None, b'y'\) (\w+) \[\[2, 3, 4\], .*\]\] (\(.*\)) (\d+)",
                record.got[0],
            )
            assert found is not None, record.got
            assert found[1] == python
            assert found[5] == f"({size}, 3)"
            assert int(found[6]) == sum(range(2, size * 3 + 2))
            if which == "bare":
                assert found[4] == "False"
            else:
                assert found[2] in subprocess.run([which, "-V"], capture_output=True, text=True, check=True).stdout
        for worker in job.steps[2].group.workers:
            title = Path(f"/proc/{worker.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            assert title == f"modelbox: python-worker test/u#{worker.number}"
            assert Path(f"/proc/{worker.pid}/comm").read_text() == f"u#{worker.number}\n"
    finally:
        graphs.close()


def fails(tmp_path: Path, python: str) -> str:
    write(tmp_path, "own", UNIT, base=f'python = "{python}"')
    graphs = Graphs(tmp_path)
    try:
        with pytest.raises(UnitError) as caught:
            graphs.run("s [flowunit=source]; u [flowunit=own]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in")
    finally:
        graphs.close()
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/own/own.toml:8: unit 'own': base.python: "), text
    assert "\n" not in text
    return text


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_what_can_be_wrong_with_an_interpreter(tmp_path: Path) -> None:
    assert "venv/bin/python cannot be started: No such file" in fails(tmp_path, "../venv/bin/python")
    assert "is no Python interpreter that works (exit code 0)" in fails(tmp_path, script(tmp_path / "true", "true"))
    text = fails(tmp_path, script(tmp_path / "broken", "echo 'error while loading libpython' >&2; exit 127"))
    assert "works (exit code 127; its last words: error while loading libpython)" in text
    said = {"version": [3, 8, 20], "kind": "cpython", "free": False, "numpy": "1.24.0"}
    text = fails(tmp_path, script(tmp_path / "old", f"echo '{json.dumps(said)}'"))
    assert "is Python 3.8.20; workers need 3.9 or later" in text
    said |= {"version": [3, 11, 0], "kind": "pypy"}
    assert "is pypy; workers need CPython" in fails(tmp_path, script(tmp_path / "pypy", f"echo '{json.dumps(said)}'"))
    python = bare(tmp_path / "empty")
    text = fails(tmp_path, python)
    assert "has no numpy that can be imported (ModuleNotFoundError: No module named 'numpy')" in text
    assert f"({python} -m pip install numpy)" in text


def test_check_finds_it(tmp_path: Path) -> None:
    write(tmp_path, "own", UNIT, base=f'python = "{tmp_path}/none"')
    graph = write_graph(tmp_path, "digraph g { a [type=input] b [type=output] u [flowunit=own] a -> u:in; u:out -> b }")
    code, _, said = modelbox("--check", str(graph))
    line = rf"{tmp_path}/own/own\.toml:\d+: unit 'own': base\.python: {tmp_path}/none cannot be started: No such file"
    assert code == 78 and re.search(line, said), said


def test_the_path_in_the_toml(tmp_path: Path) -> None:
    def python(word: str) -> str:
        write(tmp_path, "own", UNIT, base=f'python = "{word}"')
        unit = read_unit(tmp_path / "own/own.toml", builtin_dir=TOP)
        assert unit is not None
        return unit.python

    assert python("/opt/venv/bin/python") == "/opt/venv/bin/python"
    assert python("../venv/bin/python") == f"{tmp_path}/venv/bin/python"
    assert python("~/venv/bin/python") == str(Path.home() / "venv/bin/python")
    with pytest.raises(Exception, match=r"own\.toml:8: base\.python = 'python3\.12' is no path \(such as"):
        python("python3.12")


def test_an_interpreter_of_its_own_does_not_get_the_servers_packages() -> None:
    env = interpreter.environment("/opt/venv/bin/python")
    assert "PYTHONPATH" not in env
    assert env["MODELBOX_FOREIGN"] == "1"
    assert str(TOP) in interpreter.environment(sys.executable)["PYTHONPATH"]


def imported_later(tree: ast.Module) -> list[Path]:
    """Our modules that functions import."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("modelbox"):
                    names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                    found += [TOP / f"{name.replace('.', '/')}.py" for name in names]
    return [file for file in found if file.exists()]


def test_all_that_workers_import_is_python_3_9() -> None:
    code = "import sys, modelboxd.workers.master, modelboxd.workers.worker\n"
    code += "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('modelbox', 'modelboxd')))"
    env = {**os.environ, "MODELBOX_FOREIGN": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, env=env, check=True)
    files = [Path(name) for name in done.stdout.split() if name.endswith(".py")]
    files.append(TOP / "modelboxd/workers/start.py")
    assert len(files) > 20
    for path in files:  # which grows by what they import later, in functions
        text = path.read_text()
        tree = ast.parse(text, str(path), feature_version=(3, 9))
        assert "from __future__ import annotations" in text or path.name in ("__init__.py", "version.py"), path
        files += [file for file in imported_later(tree) if file not in files]
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Match), path
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                words = {word.arg for word in node.keywords}
                unions = name == "isinstance" and isinstance(node.args[1], ast.BinOp)
                assert not unions, f"{path}:{node.lineno}"
                assert not (name == "zip" and "strict" in words), f"{path}:{node.lineno}"
                assert not (name == "dataclass" and words & {"slots", "kw_only"}), f"{path}:{node.lineno}"
