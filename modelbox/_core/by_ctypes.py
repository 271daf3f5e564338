"""`ffi` and `lib` for workers whose interpreter is not the server's: what they use of cffi's interface, by ctypes.

Such an interpreter has its own packages, cffi perhaps not among them, and cannot load the server's extension. It loads
`_objects.abi3.so` instead, whose Python module (objects.c) does what is done for every buffer; only what is done once
per process or arena comes through here. The declarations are those of csrc/src/core.h.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from pathlib import Path
from typing import Any

LIBRARY = str(Path(__file__).resolve().with_name("_objects.abi3.so"))
_U32, _U64, _I32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32
_NUMBERS: dict[str, Any] = {"uint32_t": _U32, "uint64_t": _U64, "int32_t": _I32}


class Error(ctypes.Structure):
    """mb_error"""

    _fields_ = [("status", _I32), ("message", ctypes.c_char * 512)]


class PoolConfig(ctypes.Structure):
    """mb_pool_config"""

    _fields_ = [
        ("arena_size", _U64),
        ("max_bytes", _U64),
        ("max_buffer", _U64),
        ("keep_bytes", _U64),
        ("guard_all", _I32),
    ]


class List(ctypes.Structure):
    """mb_list"""

    _fields_ = [("count", _U32), ("capacity", _U32), ("items", ctypes.POINTER(ctypes.c_void_p)), ("bytes", _U64)]


_STRUCTS: dict[str, Any] = {"mb_error": Error, "mb_pool_config": PoolConfig, "mb_list": List}
_ERROR, _LIST, _PLACE = ctypes.POINTER(Error), ctypes.POINTER(List), ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mb_pool_new": (_PLACE, (ctypes.POINTER(PoolConfig), _ERROR)),
    "mb_pool_free": (None, (_PLACE,)),
    "mb_pool_trim": (_U64, (_PLACE, _U64)),
    "mb_trim_malloc": (None, ()),
    "mb_stacks_on_signal": (_I32, (_I32, _I32)),
    "mb_list_new": (_PLACE, (_U32,)),
    "mb_list_free": (None, (_LIST,)),
    "mb_buffer_data": (_PLACE, (_PLACE,)),
    "mb_buffer_size": (_U64, (_PLACE,)),
    "mb_peer_new": (_PLACE, (_PLACE, _U32, _I32, _ERROR)),
    "mb_peer_free": (None, (_PLACE,)),
    "mb_peer_map": (_I32, (_PLACE, _U32, _I32, _U64, _ERROR)),
    "mb_peer_unmap": (_I32, (_PLACE, _U32)),
    "mb_peer_take_fds": (_U32, (_PLACE, ctypes.POINTER(_U32), ctypes.POINTER(_I32), _U32)),
    "mb_peer_take_gone": (_U32, (_PLACE, ctypes.POINTER(_U32), _U32)),
    "mb_peer_decode": (_I32, (_PLACE, ctypes.c_char_p, _U64, ctypes.POINTER(_U64), _U32, _LIST, _ERROR)),
}


class Owned:
    """An address that is freed with this object."""

    def __init__(self, address: int, free: Any) -> None:
        self._as_parameter_ = address
        weakref.finalize(self, free, address).atexit = False


class Lib:
    """The functions of the library."""

    def __init__(self) -> None:
        # PyDLL keeps the interpreter's lock: a finalizer may run where it must not be let go.
        library = ctypes.PyDLL(LIBRARY)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} of the core needs cffi, which this interpreter does not use")


class Ffi:
    """What workers use of cffi's FFI."""

    NULL = None

    def new(self, kind: str, value: Any = None) -> Any:
        """A struct, one number (as an array), or an array of numbers."""
        name, many = re.fullmatch(r"(\w+) ?(?:\*|\[(\d+)\])", kind).groups()  # type: ignore[union-attr]
        if name in _STRUCTS:
            return _STRUCTS[name](**(value or {}))
        made = (_NUMBERS[name] * int(many or 1))()
        if value is not None:
            made[0] = value
        return made

    def typeof(self, kind: str) -> str:
        return kind

    def cast(self, kind: str, value: Any) -> Any:
        """An address as a number, or as a list."""
        place = getattr(value, "_as_parameter_", value)
        if isinstance(place, ctypes.Structure):
            place = ctypes.addressof(place)
        return List.from_address(place) if kind == "mb_list *" else place

    def gc(self, value: Any, free: Any) -> Any:
        """The same thing, freed with the last reference to it."""
        if isinstance(value, int) and free is not lib.mb_list_free:
            return Owned(value, free)
        made = value if isinstance(value, List) else List.from_address(value)
        weakref.finalize(made, free, List.from_address(ctypes.addressof(made))).atexit = False
        return made

    def string(self, text: bytes) -> bytes:
        return text

    def buffer(self, data: Any, size: int) -> memoryview:
        """The bytes at an address, or of an array."""
        if isinstance(data, int):
            data = (ctypes.c_char * size).from_address(data)
        return memoryview(data).cast("B")[:size]

    def from_buffer(self, data: Any) -> bytes:
        return bytes(data)

    def def_extern(self) -> Any:
        """Native code logs nothing in workers."""
        return lambda function: function


lib: Any = Lib()
ffi = Ffi()
