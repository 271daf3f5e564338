"""Meta blocks in Python: encode and decode the flat form that is drawn in csrc/src/core.h.

Values that the block has no type for (dict, tuple, None, bytes, mixed lists, arrays) are OBJECT entries: a
tagged form of plain values, or, for anything else, pickle under a tag of its own. The usual entries are encoded
and decoded in modelbox/_core/blocks.c, which asks the functions here for the others. The daemon never unpickles;
there such a value is an Opaque that goes out again as it came in.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np

from modelbox._core import objects
from modelbox.dtypes import ModelBoxDataType

INT, DOUBLE, BOOL, STRING, INTS, DOUBLES, BOOLS, STRINGS, DTYPE, OBJECT = range(1, 11)
_HEAD = struct.Struct("=BBHI")
_I64 = struct.Struct("=q")
_U64 = struct.Struct("=Q")
_F64 = struct.Struct("=d")
_U32 = struct.Struct("=I")
_MAX_DEPTH = 32
MAX_SIZE = 1 << 20  # bytes of one block: MB_META_MAX_SIZE of core.h


class Opaque:
    """A value of a class that only worker processes may rebuild."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _pad(data: bytes, at_least: int = 0) -> bytes:
    return data + bytes(-(len(data) + at_least) % 8 + at_least)


def encode(values: dict[str, Any]) -> bytes:
    """The block of a dict. Raises ValueError for values that cannot be sent and for keys that are empty, contain
    NUL or exceed 255 bytes."""
    block: bytes = objects.encode_block(values)
    return block


def encode_entry(key: str, value: Any) -> bytes:
    """One entry of a block. Raises ValueError for a bad key or a value that no form can hold."""
    try:
        kind, data = encode_value(value)
    except Exception as error:  # pickle calls the value's own code, which may raise anything
        raise ValueError(f"meta {key!r} cannot be sent to another process: {error}") from error
    name = key.encode()
    if not 0 < len(name) < 256 or b"\0" in name:
        raise ValueError(f"meta key {key!r} must have 1 to 255 bytes without NUL")
    head = _HEAD.pack(kind, len(name), 0, len(data))
    return head + _pad(name) + _pad(data, 1 if kind == STRING else 0)


def encode_value(value: Any) -> tuple[int, bytes]:
    """The entry type and value bytes."""
    cls = value.__class__
    if cls is int or isinstance(value, np.integer):
        number = int(value)
        return (INT, _I64.pack(number)) if -(1 << 63) <= number < 1 << 63 else (OBJECT, pack_object(number))
    if cls is str:
        data = value.encode("utf-8", "surrogateescape")
        return (OBJECT, pack_object(value)) if b"\0" in data else (STRING, data)
    if cls is float or isinstance(value, np.floating):
        return DOUBLE, _F64.pack(value)
    if cls is bool or isinstance(value, np.bool_):
        return BOOL, _U64.pack(bool(value))
    if cls is ModelBoxDataType:
        return DTYPE, _I64.pack(value)
    if cls is list and value:
        return _encode_list(value)
    return OBJECT, pack_object(value)


def _encode_list(value: list[Any]) -> tuple[int, bytes]:
    kinds = {item.__class__ for item in value}
    if kinds == {int} and all(-(1 << 63) <= item < 1 << 63 for item in value):
        return INTS, struct.pack(f"={len(value)}q", *value)
    if kinds == {float}:
        return DOUBLES, struct.pack(f"={len(value)}d", *value)
    if kinds == {bool}:
        return BOOLS, struct.pack(f"={len(value)}Q", *value)
    if kinds == {str}:
        items = [item.encode("utf-8", "surrogateescape") for item in value]
        return STRINGS, b"".join([_U32.pack(len(item)) + item for item in items])
    return OBJECT, pack_object(value)


def decode(block: bytes | memoryview, allow_pickle: bool = False) -> dict[str, Any]:
    """The values of a well-formed block."""
    values: dict[str, Any] = objects.decode_block(block, allow_pickle)
    return values


def decode_value(kind: int, data: bytes, allow_pickle: bool = False) -> Any:
    """The value of one entry."""
    if kind == INT:
        return _I64.unpack(data)[0]
    if kind == STRING:
        return data.decode("utf-8", "surrogateescape")
    if kind == DOUBLE:
        return _F64.unpack(data)[0]
    if kind == BOOL:
        return data[0] != 0
    if kind == DTYPE:
        number = _I64.unpack(data)[0]
        try:
            return ModelBoxDataType(number)
        except ValueError:
            return number
    if kind == INTS:
        return list(struct.unpack(f"={len(data) // 8}q", data))
    if kind == DOUBLES:
        return list(struct.unpack(f"={len(data) // 8}d", data))
    if kind == BOOLS:
        return [word != 0 for word in struct.unpack(f"={len(data) // 8}Q", data)]
    if kind == STRINGS:
        return _decode_strings(data)
    return unpack_object(data, allow_pickle)


def _decode_strings(data: bytes) -> list[str]:
    items, at = [], 0
    while at < len(data):
        (size,) = _U32.unpack_from(data, at)
        at += 4
        items.append(data[at : at + size].decode("utf-8", "surrogateescape"))
        at += size
    return items


# ---- OBJECT: a tagged form of plain values ------------------------------------------------------------------
#   N None | T F bool | i i64 | I u32 size, decimal digits | f f64 | s b u32 size, bytes | l t u32 count, items |
#   d u32 count, (key, value)... | D element type i64 | a dtype text (s), dims (t), bytes (b) | P pickle


def pack_object(value: Any) -> bytes:
    """The bytes of an OBJECT entry. Raises what pickle raises for objects that cannot be sent."""
    if isinstance(value, Opaque):
        return value.data
    out: list[bytes] = []
    try:
        _pack(value, out, 0)
    except TypeError:
        return b"P" + pickle.dumps(value, protocol=4)
    return b"".join(out)


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _U32.pack(len(data)) + data


def _pack(value: Any, out: list[bytes], depth: int) -> None:
    cls = value.__class__
    if depth > _MAX_DEPTH:
        raise TypeError("nested too deeply")
    if value is None:
        out.append(b"N")
    elif cls is bool:
        out.append(b"T" if value else b"F")
    elif cls is int:
        small = -(1 << 63) <= value < 1 << 63
        out.append(b"i" + _I64.pack(value) if small else _sized(b"I", str(value).encode()))
    elif cls is float:
        out.append(b"f" + _F64.pack(value))
    elif cls is str:
        out.append(_sized(b"s", value.encode("utf-8", "surrogateescape")))
    elif cls is bytes:
        out.append(_sized(b"b", value))
    elif cls is ModelBoxDataType:
        out.append(b"D" + _I64.pack(value))
    elif cls is list or cls is tuple:
        out.append((b"l" if cls is list else b"t") + _U32.pack(len(value)))
        for item in value:
            _pack(item, out, depth + 1)
    elif cls is dict:
        out.append(b"d" + _U32.pack(len(value)))
        for key, item in value.items():
            _pack(key, out, depth + 1)
            _pack(item, out, depth + 1)
    elif cls is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
        out.append(b"a")
        _pack(value.dtype.str, out, depth + 1)
        _pack(tuple(value.shape), out, depth + 1)
        out.append(_sized(b"b", value.tobytes()))
    else:
        raise TypeError(f"no plain form for {cls}")


def unpack_object(data: bytes, allow_pickle: bool = False) -> Any:
    """The value of an OBJECT entry. Raises ValueError for damaged bytes."""
    if data[:1] == b"P":
        return pickle.loads(data[1:]) if allow_pickle else Opaque(data)
    try:
        value, at = _unpack(data, 0, 0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"damaged object: {error}") from None
    if at != len(data):
        raise ValueError("damaged object: bytes left over")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH + 1:
        raise ValueError("damaged object: nested too deeply")
    tag = data[at : at + 1]
    at += 1
    if tag in b"NTF" and tag:
        return {b"N": None, b"T": True, b"F": False}[tag], at
    if tag == b"i":
        return _I64.unpack_from(data, at)[0], at + 8
    if tag == b"f":
        return _F64.unpack_from(data, at)[0], at + 8
    if tag == b"D":
        return ModelBoxDataType(_I64.unpack_from(data, at)[0]), at + 8
    if tag == b"a":
        return _unpack_array(data, at, depth)
    (size,) = _U32.unpack_from(data, at)
    at += 4
    if size > len(data) - at:
        raise ValueError("damaged object: cut off")
    if tag == b"s":
        return data[at : at + size].decode("utf-8", "surrogateescape"), at + size
    if tag == b"b":
        return data[at : at + size], at + size
    if tag == b"I":
        return int(data[at : at + size]), at + size
    if tag in (b"l", b"t"):
        items = []
        for _ in range(size):
            item, at = _unpack(data, at, depth + 1)
            items.append(item)
        return (items if tag == b"l" else tuple(items)), at
    if tag == b"d":
        made: dict[Any, Any] = {}
        for _ in range(size):
            key, at = _unpack(data, at, depth + 1)
            made[key], at = _unpack(data, at, depth + 1)
        return made, at
    raise ValueError(f"damaged object: tag {tag!r}")


def _unpack_array(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    dtype, at = _unpack(data, at, depth + 1)
    shape, at = _unpack(data, at, depth + 1)
    raw, at = _unpack(data, at, depth + 1)
    return np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape).copy(), at


objects.set_codec(ModelBoxDataType, {int(member): member for member in ModelBoxDataType}, encode_entry, decode_value)
