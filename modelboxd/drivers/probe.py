"""Probing libraries in a process of their own: `python -m modelboxd.drivers.probe FD PARENT`.

Reads a JSON list of paths from standard input; loads each library and writes JSON lines to the descriptor:
{"start": path}, then {"path", "units": [...]} or {"path", "error"}, and {"done": true} at the end. A library that
kills or hangs this process is thereby found out; scan.py starts a new one for the rest.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from modelbox._core import ffi, lib
from modelbox._core.memory import new_error

PR_SET_PDEATHSIG = 1


def main() -> None:
    """The probing process."""
    # A library may hang, and who started us may be killed meanwhile: then this process ends as well.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        os._exit(0)  # it died before the signal was set
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.set_inheritable(int(sys.argv[1]), False)
    report = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    paths = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # libraries may read and print when they are loaded
        os.dup2(null, fd)
    for path in paths:
        report.write(json.dumps({"start": path}) + "\n")
        report.write(json.dumps(probe(path)) + "\n")
    report.write(json.dumps({"done": True}) + "\n")
    os._exit(0)


def probe(path: str) -> dict[str, Any]:
    """What a library holds, or why it cannot be used."""
    error = new_error()
    library = lib.mb_library_open(os.fsencode(path), error)
    if library == ffi.NULL:
        return {"path": path, "error": _text(error.message) or f"{path}: cannot be loaded"}
    plugin = lib.mb_library_plugin(library)
    units = [_unit(plugin.units[number]) for number in range(plugin.unit_count)]
    return {"path": path, "units": units, "types": _types(plugin)}


def _types(plugin: Any) -> list[list[str]]:
    """The port types that a plugin adds; one built before there were any is too short to hold them."""
    if plugin.struct_size < ffi.offsetof("mb_plugin", "types") + ffi.sizeof("void *") or plugin.types == ffi.NULL:
        return []
    types = [plugin.types[number] for number in range(plugin.type_count)]
    return [[_text(item.name), _text(item.parent) or "raw"] for item in types]


def _text(value: Any) -> str:
    return "" if value == ffi.NULL else ffi.string(value).decode(errors="replace")


def _ports(ports: Any, count: int, device: str) -> list[dict[str, str]]:
    return [
        {
            "name": _text(ports[number].name),
            "type": _text(ports[number].type) or "raw",
            "device": _text(ports[number].device) or device,
        }
        for number in range(count)
    ]


def _unit(unit: Any) -> dict[str, Any]:
    device = _text(unit.device)
    options = []
    for number in range(unit.option_count):
        option = unit.options[number]
        values = _text(option.values)
        options.append(
            {
                "name": _text(option.name),
                "type": _text(option.type) or "string",
                "default": None if option.fallback == ffi.NULL else _text(option.fallback),
                "required": bool(option.required),
                "description": _text(option.description),
                "values": values.split("|") if values else [],
            }
        )
    return {
        "name": _text(unit.name),
        "device": device,
        "version": _text(unit.version) or "1.0.0",
        "description": _text(unit.description),
        "group": _text(unit.group) or "Generic",
        "flags": unit.flags,
        "inputs": _ports(unit.inputs, unit.input_count, device),
        "outputs": _ports(unit.outputs, unit.output_count, device),
        "options": options,
        "default_batch_size": unit.default_batch_size,
        "max_batch_size": unit.max_batch_size,
    }


if __name__ == "__main__":
    main()
