"""The C core seen from Python: `ffi` and `lib` of the cffi extension, `objects` of objects.c, wrappers in memory.py."""

from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from modelbox._core import _native
from modelbox._core._native import ffi, lib


def _load_objects() -> Any:
    """The second module of the extension's library: an importer finds only the one that the file is named after."""
    name = f"{__name__}._objects"
    spec = spec_from_file_location(name, _native.__file__, loader=ExtensionFileLoader(name, _native.__file__))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


objects = _load_objects()

__all__ = ["_native", "ffi", "lib", "objects"]
