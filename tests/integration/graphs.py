"""Graphs of Python units in real worker processes, with the engine in the test's own process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from modelboxd.drivers.unit_toml import read_unit
from modelboxd.engine.job import Job, JobSettings
from modelboxd.engine.unit import BuiltinUnit
from modelboxd.workers.pool import WorkerPool
from tests.unit.engine.harness import LIMIT_S, Bench, spec, texts


def write(
    folder: Path, name: str, code: str, *, inputs: str = "in", outputs: str = "out", base: str = "", device: str = "cpu"
) -> None:
    """A Python unit with class Unit: `code` is the body of the class; ports by name, with blanks between."""
    made = folder / name
    made.mkdir(exist_ok=True)
    (made / f"{name}.py").write_text(f"import _flowunit as modelbox\n\n\nclass Unit(modelbox.FlowUnit):\n{code}")
    text = f'[base]\nname = "{name}"\ntype = "python"\ndevice = "{device}"\nversion = "1.0.0"\ndescription = "{name}"\n'
    text += f'entry = "{name}@Unit"\n{base}\n'
    for side, ports in (("input", inputs), ("output", outputs)):
        text += f"[{side}]\n" if ports else ""
        text += "".join(f'[{side}.{side}{at}]\nname = "{port}"\n' for at, port in enumerate(ports.split(), 1))
    (made / f"{name}.toml").write_text(text)


class Got:
    """What has arrived at the sink, by session."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.texts: dict[str, list[str]] = {}

    def add(self, session: str, items: list[str]) -> None:
        with self._changed:
            self.texts.setdefault(session, []).extend(items)
            self._changed.notify_all()

    def wait(self, count: int) -> list[str]:
        """All texts, sorted, once there are so many."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: sum(map(len, self.texts.values())) >= count, LIMIT_S)
            assert arrived, self.texts
            return sorted(text for texts in self.texts.values() for text in texts)


class Graphs:
    """An engine with the Python units of a folder and a sink `got` (port in)."""

    def __init__(self, folder: Path, settings: JobSettings | None = None) -> None:
        self.got = got = Got()

        class Collect(BuiltinUnit):
            inline = True

            def process(self, call: Any) -> None:
                got.add(call.session.id, texts(call.input("in")))

        units: dict[str, Any] = {"got": (spec("got", ("in",), (), stream=True, sees_errors=True), Collect)}
        for path in sorted(folder.glob("*/*.toml")):
            unit = read_unit(path, builtin_dir=Path("/nowhere"))
            assert unit is not None
            units[unit.name] = (unit, None)
        self.bench = Bench(units, make_workers=self._make_workers, settings=settings)
        self.bench.io.start()

    def _make_workers(self, python: str) -> WorkerPool:
        return WorkerPool(self.bench.io, self.bench.pool, python=python)

    def run(self, dot: str) -> Job:
        """Starts `digraph { dot }`."""
        return self.bench.run(f"digraph g {{ {dot} }}")

    def close(self) -> None:
        self.bench.close()
        self.bench.engine.close()
        self.bench.io.stop()
