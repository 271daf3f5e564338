"""The daemon's hot modules as machine code, where they were compiled from the very sources that lie here.

`make compiled` (packaging/compile.py) runs mypyc over MODULES and leaves the result in build/compiled/ABI with the
digest of each source; packages bring it in modelboxd/_compiled/ABI. use() puts them in the place of the .py files. When
one source has changed since, or MODELBOX_COMPILED=0 is set, the .py files run: the same, slower.

What mypyc does otherwise than Python, and the sources have to bear in mind:
- A local goes with its last use, not with the end of its function. What owns memory that a bare pointer refers to (a
  core list whose items are looked at, texts in a char *[]) has to be an argument, an attribute, or used again later.
- cast() is checked. Classes have no interpreted base and no interpreted subclass, and their methods cannot be replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

TOP = Path(__file__).resolve().parents[1]
PACKED = "modelboxd/_compiled"
GROUP = "modelboxd__mypyc"  # the library that has the code of all; the others are doors to it
# All that a buffer passes on its way through the daemon. Their classes have no subclasses outside this list.
MODULES = (
    "modelboxd.engine.account",
    "modelboxd.engine.batching",
    "modelboxd.engine.builtin",
    "modelboxd.engine.calls",
    "modelboxd.engine.clock",
    "modelboxd.engine.errors",
    "modelboxd.engine.executor",
    "modelboxd.engine.feed",
    "modelboxd.engine.gather",
    "modelboxd.engine.histogram",
    "modelboxd.engine.job",
    "modelboxd.engine.kinds",
    "modelboxd.engine.limits",
    "modelboxd.engine.meta",
    "modelboxd.engine.native",
    "modelboxd.engine.nesting",
    "modelboxd.engine.output",
    "modelboxd.engine.ports",
    "modelboxd.engine.python_source",
    "modelboxd.engine.queues",
    "modelboxd.engine.session",
    "modelboxd.engine.sink",
    "modelboxd.engine.source",
    "modelboxd.engine.step",
    "modelboxd.engine.strict",
    "modelboxd.engine.work",
    "modelboxd.engine.worker",
    "modelboxd.server.answer",
    "modelboxd.server.connection",
    "modelboxd.server.reply",
    "modelboxd.workers.encode",
    "modelboxd.workers.inbox",
    "modelboxd.workers.outbox",
    "modelboxd.workers.process",
    "modelboxd.workers.protocol",
    "modelboxd.workers.trips",
)


def source_of(module: str) -> Path:
    """The .py file of a module."""
    return TOP / (module.replace(".", "/") + ".py")


def folder() -> Path:
    """Where the compiled modules of this interpreter lie: in packages beside the sources, else below build/."""
    abi = str(sysconfig.get_config_var("SOABI"))
    packed = TOP / PACKED / abi
    return packed if packed.is_dir() else TOP / "build" / "compiled" / abi


def digests() -> dict[str, str]:
    """SHA-256 of the sources, by module. Raises OSError."""
    return {module: hashlib.sha256(source_of(module).read_bytes()).hexdigest() for module in MODULES}


class _Finder:
    """Finds the modules that `places` names."""

    def __init__(self, places: dict[str, Path]) -> None:
        self.places = places

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self.places.get(name)
        return None if place is None else spec_from_file_location(name, place)


def in_use() -> bool:
    """Whether this process runs the compiled modules."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def use() -> None:
    """Takes the compiled modules where they are what the sources say. Before any of them is imported."""
    if os.environ.get("MODELBOX_COMPILED") == "0":
        return
    there = folder()
    try:
        if json.loads((there / "sources.json").read_text()) != digests():
            return
    except (OSError, ValueError):
        return
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    places = {module: there / f"{module.replace('.', '/')}{suffix}" for module in MODULES}
    places[GROUP] = there / f"{GROUP}{suffix}"
    if all(place.exists() for place in places.values()):
        sys.meta_path.insert(0, _Finder(places))
        logging.setLogRecordFactory(_log_record)


def _log_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Compiled code has no frames for logging to find: at least the file is told."""
    record = logging.LogRecord(*args, **kwargs)
    if record.name in MODULES:
        source = source_of(record.name)
        record.pathname, record.filename, record.module = str(source), source.name, source.stem
        record.lineno, record.funcName = 0, ""
    return record
