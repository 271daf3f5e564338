"""The C core seen from Python: `ffi` and `lib` of the cffi extension, `objects` of objects.c, wrappers in memory.py.

In the interpreter of a unit that has its own, a library for all interpreters stands in for the extension: by_ctypes.py.
"""

import os
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

FOREIGN = "MODELBOX_FOREIGN"  # environment: set for interpreters that are not the server's


def _load_objects(path: str) -> Any:
    """objects.c's module: an importer finds only the module that a file is named after."""
    name = f"{__name__}._objects"
    spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ffi: Any
lib: Any
if FOREIGN in os.environ:
    from modelbox._core import by_ctypes

    ffi, lib = by_ctypes.ffi, by_ctypes.lib
    LIBRARY = by_ctypes.LIBRARY
else:
    from modelbox._core import _native  # type: ignore[attr-defined]

    ffi, lib = _native.ffi, _native.lib
    LIBRARY = _native.__file__
objects = _load_objects(LIBRARY)

__all__ = ["FOREIGN", "LIBRARY", "ffi", "lib", "objects"]
