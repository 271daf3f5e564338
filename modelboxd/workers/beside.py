"""Modules that lie beside a unit's TOML: the unit's own and its helpers, whatever names they have.

The folder stands at the end of sys.path, so nobody gets one of its modules where the standard library or an installed
package is meant. A module there whose name others have too is loaded under a name of its own, in a package that stands
for the folder. Its name in an import statement of a module of the folder means

- what it means elsewhere, in the module itself, and everywhere when it is a unit: `copy.py` may import copy;
- the one in the folder otherwise. So two folders in one process (`[python] workers = 0`) may each have a utils.py.

Only where this matters the import statement is hooked. Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.machinery import all_suffixes
from types import ModuleType
from typing import Any

OURS = ("_flowunit", "modelbox", "modelboxd")  # these are what they are
PREFIX = "modelbox_unit_"
_ENTRY = re.compile(r"""^\s*entry\s*=\s*["'](\w+)[\w.]*@""", re.MULTILINE)
_import = builtins.__import__
_folders: dict[str, Folder] = {}  # by real path
_by_package: dict[str, Folder] = {}
_owners: dict[str, Folder | None] = {}  # of modules, by the first part of their names


class Folder:
    """A folder with units."""

    def __init__(self, path: str) -> None:
        self.path = path
        # The same in every process, so that values of its classes can be unpacked in another worker.
        self.package = f"{PREFIX}{zlib.crc32(os.fsencode(os.path.realpath(path))):08x}"
        others = {name: _elsewhere(name, path) for name in _modules(path) if name not in OURS}
        self.ambiguous = {name for name, other in others.items() if other is not None}
        units = _units(path) if self.ambiguous else set()
        # Names that mean its own module in its import statements, though others have them too.
        self.preferred = {name for name in self.ambiguous if name not in units or others[name] in _folders}

    def has(self, name: str) -> bool:
        """Whether a module or package lies there; `name` may have dots."""
        top = os.path.join(self.path, name.partition(".")[0])
        return os.path.isdir(top) or any(os.path.exists(top + suffix) for suffix in all_suffixes())

    def load(self, name: str) -> ModuleType:
        """A module of the folder. Raises whatever it raises."""
        if name.partition(".")[0] in self.ambiguous:
            return importlib.import_module(f"{self.package}.{name}")
        return importlib.import_module(name)


def folder_at(path: str) -> Folder:
    """The folder at a path; its modules can be imported from now on."""
    key = os.path.realpath(path)
    folder = _folders.get(key)
    if folder is None:
        folder = _folders[key] = Folder(path)
        _by_package[folder.package] = folder
        package = ModuleType(folder.package)
        package.__path__ = [path]
        sys.modules[folder.package] = package
        if path not in sys.path:
            sys.path.append(path)
        _owners.clear()
        if folder.preferred:
            builtins.__import__ = _import_beside
    return folder


def _modules(path: str) -> set[str]:
    names = set()
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # not ours to list: then it is as others see it
        for entry in entries:
            if os.path.exists(os.path.join(entry.path, "__init__.py")):
                names.add(entry.name)
            elif entry.name.endswith(tuple(all_suffixes())):
                names.add(entry.name.partition(".")[0])
    return names


def _units(path: str) -> set[str]:
    """The modules of a folder that are units."""
    names: set[str] = set()
    for file in os.listdir(path):
        if file.endswith(".toml"):
            place = os.path.join(path, file)
            with contextlib.suppress(OSError), open(place, encoding="utf-8", errors="replace") as text:  # as above
                names.update(_ENTRY.findall(text.read()))
    return names


def _elsewhere(name: str, path: str) -> str | None:
    """Where else than in the folder a module of this name is: a real path, "" for one without; None: nowhere."""
    if name in sys.modules:
        place = _place(sys.modules[name])
        return place if place != os.path.realpath(path) else None
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            file = spec.origin if spec.has_location else None
            place = _top(file, is_package=spec.submodule_search_locations is not None)
            return place if place != os.path.realpath(path) else None
    return None


def _place(module: ModuleType | None) -> str:
    """The folder that a top-level module lies in."""
    return _top(getattr(module, "__file__", None), is_package=hasattr(module, "__path__"))


def _top(file: str | None, *, is_package: bool) -> str:
    if not file:
        return ""
    folder = os.path.dirname(file)
    return os.path.realpath(os.path.dirname(folder) if is_package else folder)


def _folder_of(name: str) -> Folder | None:
    """The folder that a module belongs to."""
    top = name.partition(".")[0]
    if top.startswith(PREFIX):
        return _by_package.get(top)
    if top not in _owners:
        _owners[top] = _folders.get(_place(sys.modules.get(top)))
    return _owners[top]


def _import_beside(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """The import statement: a module of a folder with units gets what it has beside it."""
    importer = globals.get("__name__") if globals is not None and not level else None
    folder = _folder_of(importer) if isinstance(importer, str) else None
    top = name.partition(".")[0]
    if folder is None or top not in folder.preferred or importer == f"{folder.package}.{top}":
        return _import(name, globals, locals, fromlist, level)
    module = _import(f"{folder.package}.{name}", globals, locals, fromlist, 0)
    return module if fromlist else sys.modules[f"{folder.package}.{top}"]
