"""Interpreters of units that have their own (`[base] python`): whether one can run workers, and how it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modelbox._core import FOREIGN
from modelbox.errors import UnitError, Where
from modelbox.spec import UnitSpec
from modelboxd.graph.keys import key_line

OLDEST = (3, 9)
PROBE_LIMIT_S = 30.0
# Numpy is imported, not looked up: one that is built for another interpreter is found, too.
_PROBE = """
import json, sys
said = {"version": sys.version_info[:3], "kind": sys.implementation.name}
said["free"] = not getattr(sys, "_is_gil_enabled", lambda: True)()
try:
    import numpy
    said["numpy"] = numpy.__version__
except Exception as error:
    said["failure"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(said))
"""
_NOT_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
ROOT = Path(__file__).resolve().parents[2]  # where modelbox and modelboxd lie


def environment(python: str) -> dict[str, str]:
    """The environment of a python-master."""
    env = dict(os.environ)
    if python == sys.executable:
        env["PYTHONPATH"] = os.pathsep.join(part for part in (str(ROOT), env.get("PYTHONPATH", "")) if part)
    else:
        for name in _NOT_OURS:  # they are meant for the server's interpreter
            env.pop(name, None)
        env[FOREIGN] = "1"
    return env


def command(python: str, module: str) -> list[str]:
    """How a python-master is started, `module` in the server's own interpreter; its own arguments follow."""
    if python == sys.executable:
        return [python, "-m", module]
    return [python, str(Path(__file__).with_name("start.py")), str(ROOT)]


def check_of(unit: UnitSpec) -> str:
    """check() of a unit's own interpreter; the UnitError names the unit and the line of its TOML."""
    try:
        return check(unit.python)
    except UnitError as error:
        where = Where(unit.path, key_line(Path(unit.path).read_text(encoding="utf-8-sig"), "base", "python"))
        raise UnitError(f"unit '{unit.name}': base.python: {error.message}", where=where, hint=error.hint) from None


def check(python: str) -> str:
    """Looks whether an interpreter can run workers; "3.12.1, numpy 2.1". Raises UnitError, which says what is wrong."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE],
            env=environment(python),
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
    except OSError as error:
        raise UnitError(f"{python} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UnitError(f"{python} does not answer within {PROBE_LIMIT_S:g} s; is it a Python interpreter?") from None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        version = tuple(said["version"])
    except (ValueError, IndexError, KeyError, TypeError):
        why = f"; its last words: {lines[-1].strip()}" if lines else ""
        raise UnitError(f"{python} is no Python interpreter that works (exit code {done.returncode}{why})") from None
    text = ".".join(map(str, version))
    if said["kind"] != "cpython" or said["free"]:
        kind = said["kind"] if said["kind"] != "cpython" else "a free-threaded build"
        raise UnitError(f"{python} is {kind}; workers need CPython with its lock")
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UnitError(f"{python} is Python {text}; workers need {oldest} or later")
    if "numpy" not in said:
        raise UnitError(
            f"{python} has no numpy that can be imported ({said['failure']})", hint=f"{python} -m pip install numpy"
        )
    return f"Python {text}, numpy {said['numpy']}"
