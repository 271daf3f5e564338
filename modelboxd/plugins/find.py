"""Where plugins come from: files and modules of the configuration, and entry points of installed packages."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from modelbox.errors import ConfigError
from modelbox.plugin import Plugin
from modelboxd.settings import Settings

GROUP = "modelbox.plugins"
NAME = re.compile(r"[a-z0-9_-]{1,64}")
NOT_PYTHON = (".so", ".js")  # of ModelBox


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that was not loaded yet."""

    name: str  # as long as its class has told no other
    source: str
    load: Callable[[], type[Plugin]]  # raises whatever its code does


def candidates(settings: Settings) -> list[Candidate]:
    """All that are named, those of the configuration first."""
    made = [_named(text) for text in settings.plugin.files]
    if settings.plugin.entry_points:
        made += [_of_entry_point(found) for found in sorted(entry_points(group=GROUP))]
    return made


def _named(text: str) -> Candidate:
    path = Path(text)
    if path.suffix in NOT_PYTHON:
        raise_text = (
            f"plugin.files: {text} is a ModelBox plugin in C++ or JavaScript; only Python plugins are supported"
        )
        return Candidate(path.stem, text, lambda: _raise(raise_text))
    if path.suffix == ".py":
        return Candidate(path.stem, text, lambda: _only_class(_import_file(path), str(path)))
    return Candidate(text.rpartition(".")[2], text, lambda: _only_class(importlib.import_module(text), text))


def _of_entry_point(found: EntryPoint) -> Candidate:
    def load() -> type[Plugin]:
        made = found.load()
        return made if _is_plugin(made) else _only_class(made, found.value)

    return Candidate(found.name, f"{GROUP}: {found.name} = {found.value}", load)


def _raise(text: str) -> type[Plugin]:
    raise ConfigError(text)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"plugin.files: there is no file {path}")
    name = f"modelbox_plugin_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for it
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # for modules beside it
    spec.loader.exec_module(module)
    return module


def _is_plugin(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Plugin) and value is not Plugin


def _only_class(module: Any, source: str) -> type[Plugin]:
    own = [value for value in vars(module).values() if _is_plugin(value) and value.__module__ == module.__name__]
    if len(own) != 1:
        what = f"has {len(own)} classes" if own else "has no class"
        raise ConfigError(f"{source} {what} that derives from modelbox.plugin.Plugin", hint="it needs one")
    return own[0]  # type: ignore[no-any-return]


def check_name(name: str) -> str:
    """Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is no name for a plugin", hint="1 to 64 of a-z, 0-9, _ and -")
    return name
