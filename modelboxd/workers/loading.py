"""Finds the class of a flow unit in the files that its TOML names.

Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from modelbox.flowunit import FlowUnit
from modelbox.status import StatusCode
from modelboxd.workers import beside
from modelboxd.workers.outcome import CallFailed


def load_unit(toml: str, entry: str) -> FlowUnit:
    """The unit that `module@Class` beside the TOML names, or an installed module where there is none beside it. Raises
    CallFailed with a sentence for the user."""
    import modelbox

    sys.modules["_flowunit"] = modelbox
    module_name, _, class_name = entry.partition("@")
    folder = beside.folder_at(str(Path(toml).parent))
    if folder.has(module_name):
        return make_unit(folder.load(module_name), class_name, toml, entry)
    with contextlib.suppress(ImportError, ValueError):
        if importlib.util.find_spec(module_name) is not None:
            return make_unit(importlib.import_module(module_name), class_name, toml, entry)
    raise CallFailed(
        StatusCode.STATUS_BADCONF, f'{toml}: entry = "{entry}": there is no {module_name}.py in {folder.path}'
    )


def make_unit(module: Any, class_name: str, toml: str, entry: str) -> FlowUnit:
    unit_class = getattr(module, class_name, None)
    if unit_class is None:
        known = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, FlowUnit)]
        there = ", ".join(name for name in known if name != "FlowUnit") or "none"
        raise CallFailed(
            StatusCode.STATUS_BADCONF,
            f"{toml}: entry = \"{entry}\": {module.__file__} has no class '{class_name}' (flow units in it: {there})",
        )
    if not (isinstance(unit_class, type) and issubclass(unit_class, FlowUnit)):
        raise CallFailed(StatusCode.STATUS_BADCONF, f"{toml}: '{class_name}' does not derive from modelbox.FlowUnit")
    return unit_class()
