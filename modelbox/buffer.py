"""Buffer and BufferList: data plus typed meta, as flow units see them.

A Buffer is either over the core's memory (received, or allocated from the pool) or over Python data that is
copied into the pool once, when it is sent. Data that was received belongs to everybody: it is shown without a
copy, and what a unit writes into it stays in this process until the buffer is pushed again. Copies of a buffer
share its data: what is written through one of them is seen through all, each has its own meta.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from modelbox import meta
from modelbox._core import ffi, lib, objects
from modelbox._core.memory import Pool, address, own_list
from modelbox.device import CPU, Device
from modelbox.dtypes import UINT8, ModelBoxDataType, from_numpy, to_numpy

if TYPE_CHECKING or sys.version_info >= (3, 12):
    Exporter = object  # __buffer__ is part of the language there
else:
    Exporter = objects.Exporter

CData = Any
Core = Any  # objects.Core: one reference to an mb_buffer
Array = npt.NDArray[Any]

RAW, IMAGE, STRING = 0, 1, 2
_pool: Pool | None = None


def default_pool() -> Pool:
    """The pool of this process for buffers that are allocated ahead; made on first use."""
    global _pool
    if _pool is None:
        _pool = Pool()
    return _pool


def set_default_pool(pool: Pool) -> None:
    """Makes `pool` the one of this process."""
    global _pool
    _pool = pool


class _Data:
    """The data of a buffer and of its copies, as far as it differs from what the core has."""

    __slots__ = ("own", "scribbled")

    def __init__(self, own: Array | bytes | None = None) -> None:
        self.own = own  # in this process only; None: in the core's memory
        self.scribbled = False  # the core's memory is another process' and was perhaps written to, privately


class Buffer(Exporter):
    """Data, meta and perhaps an error.

    `Buffer(device, array)` keeps the array (no copy when it is C-contiguous) and sets meta `shape` and `type`;
    `Buffer(device, str)` holds UTF-8 text; `Buffer(device, bytes)` raw bytes; `Buffer(device, [array, ...])` the
    arrays one after the other; `Buffer(device)` nothing; `Buffer(buffer)` shares the data and copies the meta.
    """

    ModelBoxDataType = ModelBoxDataType
    __slots__ = ("_core", "_data", "_error", "_kind", "_meta", "_meta_changed", "_packed")

    def __init__(self, device: Device | Buffer | None = None, data: Any = None) -> None:
        self._core: Core = None
        self._data = _Data()
        self._packed: Array | bytes | None = None  # what _core was made from
        self._meta: dict[str, Any] | None = {}  # None: still encoded in _core
        self._meta_changed = False
        self._kind = RAW
        self._error: tuple[str, str] | None = None
        if isinstance(device, Buffer):
            self._copy_from(device)
        elif data is not None:
            if isinstance(data, bytes):
                self._set_array(np.frombuffer(data, np.uint8))
            else:
                self.build(data)

    @classmethod
    def from_core(cls, pointer: CData) -> Buffer:
        """Wraps an mb_buffer *; takes over one reference."""
        return cls._over(objects.adopt(address(pointer)))

    @classmethod
    def _over(cls, core: Core) -> Buffer:
        self = cls.__new__(cls)
        self._core = core
        self._data = _Data()
        self._packed = None
        self._meta = None
        self._meta_changed = False
        self._kind = core.kind
        self._error = core.error
        return self

    def _copy_from(self, other: Buffer) -> None:
        self._core, self._data, self._packed = other._core, other._data, other._packed
        self._kind, self._error = other._kind, other._error
        self._meta = None if other._meta is None else dict(other._meta)
        self._meta_changed = other._meta_changed

    # ---- data ----------------------------------------------------------------------------------------

    def build(self, data: Any) -> None:
        """Replaces the data: text or bytes (kind STRING), a list of arrays, or anything with an array form."""
        self.meta_dict()  # while _core is there to tell it
        self._core = self._packed = self._error = None
        self._data = _Data()
        if isinstance(data, str):
            self._data.own, self._kind = data.encode("utf-8", "surrogateescape"), STRING
        elif isinstance(data, (bytes, bytearray)):
            self._data.own, self._kind = bytes(data), STRING
        elif isinstance(data, list):
            arrays = [np.ascontiguousarray(item) for item in data]
            if not arrays:
                raise RuntimeError("can not accept empty numpy.")
            self._set_array(np.concatenate([array.reshape(-1) for array in arrays]))
            self.set("shape", [list(array.shape) for array in arrays])
        else:
            self._set_array(np.asarray(data))

    def _set_array(self, array: Array) -> None:
        if array.ndim == 0:
            raise RuntimeError("can not accept empty numpy.")
        kind = from_numpy(array.dtype)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        self._data.own = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        self._kind = RAW
        values = self._meta if self._meta is not None else {}
        values["shape"], values["type"] = list(array.shape), kind
        self._meta, self._meta_changed = values, True

    def get_bytes(self) -> int:
        """Size of the data in bytes; 0 for an error."""
        own = self._data.own
        if own is not None:
            return len(own) if isinstance(own, bytes) else int(own.nbytes)
        return 0 if self._core is None or self._error else int(self._core.size)

    def view(self) -> memoryview:
        """The bytes, read-only, without a copy; stays valid as long as somebody holds it."""
        size = self.get_bytes()
        if not size:
            return memoryview(b"")
        if self._data.own is not None:
            return memoryview(cast(Any, self._data.own)).toreadonly().cast("B")
        return memoryview(self._core)

    def _shaped(self, array: Array) -> Array:
        """A flat byte array with the shape and type that the meta tells, where they fit its size."""
        values = self.meta_dict()
        dtype = to_numpy(values.get("type"))
        if array.nbytes % dtype.itemsize:
            return array
        typed = array.view(dtype)
        shape = values.get("shape")
        if isinstance(shape, list) and all(isinstance(dim, int) and dim >= 0 for dim in shape):
            count = 1
            for dim in shape:
                count *= dim
            if count == typed.size:
                return typed.reshape(shape)
        return typed.reshape(-1)

    def numpy(self) -> Array:
        """The data as an array by meta `shape` and `type`: a read-only view, no copy."""
        return self._shaped(np.frombuffer(self.view(), np.uint8))

    def _writable(self) -> Array:
        """The data as a writable array, without a copy where nobody outside this process sees the writes."""
        own = self._data.own
        if isinstance(own, np.ndarray) and own.flags.writeable:
            return self._shaped(own.reshape(-1).view(np.uint8))
        size = self.get_bytes()
        if own is None and size:
            ours = self._core.writable()
            place = ours or self._core.scribble()
            if place is not None:
                self._data.scribbled = self._data.scribbled or ours is None
                return self._shaped(np.frombuffer(place, np.uint8))
        array = self.numpy().copy()
        self._data.own = array
        return array

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(cast(Any, self._writable()))

    def as_object(self) -> Any:
        """Text for kind STRING, else an independent flat array with the type of meta `type`."""
        if self._kind == STRING:
            return str(self)
        return (
            self.numpy().reshape(-1).copy() if self.get_bytes() else np.zeros(0, to_numpy(self.meta_dict().get("type")))
        )

    def as_bytes(self) -> bytes:
        """A copy of the data."""
        own = self._data.own
        if own is None:
            return b"" if self._core is None or self._error else bytes(self._core)
        return own if isinstance(own, bytes) else bytes(self.view())

    def __str__(self) -> str:
        return self.as_bytes().decode()

    # ---- error --------------------------------------------------------------------------------------------

    def has_error(self) -> bool:
        return self._error is not None

    def set_error(self, code: str, message: str) -> None:
        """Drops the data and makes this an error; `code` is "<Unit>.<Reason>"."""
        self.meta_dict()  # while _core is there to tell it
        self._meta_changed = True
        self._core = self._packed = None
        self._data = _Data()
        self._error = (code, message)

    def get_error_code(self) -> str:
        return self._error[0] if self._error else ""

    def get_error_msg(self) -> str:
        return self._error[1] if self._error else ""

    # ---- meta ---------------------------------------------------------------------------------------------

    def meta_dict(self) -> dict[str, Any]:
        """All meta values; do not change the dict."""
        if self._meta is None:
            block = self._core.meta
            self._meta = meta.decode(block, _allow_pickle) if block else {}
        return self._meta

    def get(self, key: str) -> Any:
        """The value of a meta key: lists as copies, other objects themselves. Raises ValueError when it is missing."""
        try:
            value = self.meta_dict()[key]
        except KeyError:
            raise ValueError(f"can not find buffer meta: {key}") from None
        if value.__class__ in _PLAIN:
            return value
        if value.__class__ is list:
            return _copied(value)
        self._meta_changed = True  # the caller may change the object itself
        return value

    def set(self, key: str, value: Any) -> None:
        """Sets a meta key; lists and arrays are copied, other objects are kept until the buffer is sent."""
        if not isinstance(key, str):
            raise TypeError(f"a meta key must be a str, not {type(key).__name__}")
        if value.__class__ is list:
            value = _copied(value)
        elif isinstance(value, (np.ndarray, bytearray, memoryview)):
            value = np.array(value)
        self.meta_dict()[key] = value
        self._meta_changed = True

    def keys(self) -> list[str]:
        """The meta keys."""
        return list(self.meta_dict())

    def copy_meta(self, other: Buffer, is_override: bool = False) -> None:
        """Copies the meta keys that this buffer does not have; with `is_override` all of them."""
        own = self.meta_dict()
        for key, value in other.meta_dict().items():
            if is_override or key not in own:
                own[key] = value
                self._meta_changed = True

    # ---- towards the core -----------------------------------------------------------------------------------

    def to_core(self, pool: Pool) -> CData:
        """core() as mb_buffer *, a reference that the garbage collector drops."""
        return ffi.gc(ffi.cast("mb_buffer *", self.core(pool).new_reference()), lib.mb_buffer_unref)

    def core(self, pool: Pool) -> Core:
        """This buffer in the core; data not yet in shared memory is copied into `pool`.

        Raises OutOfMemoryError at a memory limit, ValueError for meta that cannot be sent.
        """
        data = self._data
        own, packed = data.own, self._core is not None and data.own is self._packed and not data.scribbled
        if packed and not self._meta_changed:
            return self._core
        values = self.meta_dict()
        block = meta.encode(values) if values else b""
        if self._error is not None:
            code, message = (text.encode(errors="replace").replace(b"\0", b" ") for text in self._error)
            core = objects.make_error(code, message, self._kind, block)
        elif packed:
            core = self._core.share(self._kind, block)
        else:
            core = objects.make_core(pool.address, self.view() if own is None else own, self._kind, block)
        if not data.scribbled:
            self._core, self._packed, self._meta_changed = core, own, False
        return core


_PLAIN = frozenset((str, int, float, bool, bytes, type(None), ModelBoxDataType))


def _copied(values: list[Any]) -> list[Any]:
    return [_copied(item) if item.__class__ is list else item for item in values]


for _name in ("UINT8", "INT8", "BOOL", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FLOAT", "DOUBLE"):
    setattr(Buffer, _name, ModelBoxDataType[_name])

_allow_pickle = False


def allow_pickle() -> None:
    """Lets this process rebuild pickled meta values; for worker processes, never for the daemon."""
    global _allow_pickle
    _allow_pickle = True


class BufferList:
    """Ordered buffers of one port in one process() call."""

    __slots__ = ("_device", "_items")

    def __init__(self, device: Device | Buffer | Sequence[Buffer] | None = None) -> None:
        self._device = device if isinstance(device, Device) else CPU
        self._items: list[Buffer] = []
        if isinstance(device, Buffer):
            self.push_back(device)
        elif isinstance(device, (list, tuple)):
            for item in device:
                self.push_back(item)

    @classmethod
    def from_core(cls, items: CData) -> BufferList:
        """The buffers of an mb_list, which stays as it is."""
        return cls.over(objects.of_list(address(items)))

    @classmethod
    def over(cls, cores: list[Core]) -> BufferList:
        """The buffers of a list of Core."""
        made = cls()
        made._items = [Buffer._over(core) for core in cores]
        return made

    def to_core(self, pool: Pool) -> CData:
        """A new mb_list over all buffers."""
        return own_list(objects.to_list(self.cores(pool)))

    def cores(self, pool: Pool) -> list[Core]:
        """Buffer.core() of all buffers."""
        return [buffer.core(pool) for buffer in self._items]

    def build(self, sizes: Sequence[int]) -> None:
        """Allocates one buffer per size (bytes); write into them through np.array(buffer, copy=False)."""
        pool = default_pool().address
        self._items = [Buffer._over(objects.make_empty(pool, size)) for size in sizes]

    def push_back(self, item: Any) -> None:
        """Appends a buffer (shares its data, copies its meta), an array, or text. Raises TypeError for None."""
        if item is None:
            raise TypeError("push_back() got None, expected a buffer, an array or text (is a return missing?)")
        self._items.append(Buffer(item) if isinstance(item, Buffer) else Buffer(self._device, item))

    def size(self) -> int:
        return len(self._items)

    def front(self) -> Buffer | None:
        return self._items[0] if self._items else None

    def back(self) -> Buffer | None:
        return self._items[-1] if self._items else None

    def get_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(item.get_bytes() for item in self._items)

    def get_device(self) -> Device:
        return self._device

    def set(self, key: str, value: Any) -> None:
        """Sets a meta key on all buffers."""
        for item in self._items:
            item.set(key, value)

    def set_error(self, code: str, message: str) -> None:
        """Makes all buffers errors."""
        for item in self._items:
            item.set_error(code, message)

    def copy_meta(self, other: BufferList, is_override: bool = False) -> None:
        """Buffer.copy_meta() pair by pair."""
        for mine, theirs in zip(self._items, other._items):  # noqa: B905 - also Python 3.9
            mine.copy_meta(theirs, is_override)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self._items)

    def __getitem__(self, position: int) -> Buffer | None:
        """The buffer at `position`, None behind the end. Raises TypeError for a negative one."""
        index = operator.index(position)
        if index < 0:
            raise TypeError("a position must be a whole number from 0 on")
        return self._items[index] if index < len(self._items) else None


__all__ = ["UINT8", "Buffer", "BufferList", "allow_pickle", "default_pool", "set_default_pool"]
