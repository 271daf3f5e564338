"""The C core seen from Python: `ffi` and `lib` of the cffi extension, and thin wrappers in memory.py."""

from modelbox._core._native import ffi, lib

__all__ = ["ffi", "lib"]
