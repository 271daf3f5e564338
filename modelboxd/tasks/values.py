"""Values of tasks: what clients send becomes buffers, buffers of output nodes become what clients get.

A value is text (buffers of kind STRING, UTF-8) or bytes; bytes with an element type and a shape are a tensor, whose
meta `type` and `shape` units read.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modelbox import meta as meta_block
from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, new_error, new_list, raise_error
from modelbox.buffer import RAW, STRING, Buffer
from modelbox.dtypes import ModelBoxDataType, to_numpy
from modelboxd.engine.feed import CoreList
from modelboxd.tasks.model import Output, TaskInputError
from modelboxd.tasks.numbers import are_numbers, flatten

# The names that clients use, as numpy and most others have them.
DTYPES = {
    "float16": ModelBoxDataType.HALF,
    "float32": ModelBoxDataType.FLOAT,
    "float64": ModelBoxDataType.DOUBLE,
    "int8": ModelBoxDataType.INT8,
    "int16": ModelBoxDataType.INT16,
    "int32": ModelBoxDataType.INT32,
    "int64": ModelBoxDataType.INT64,
    "uint8": ModelBoxDataType.UINT8,
    "uint16": ModelBoxDataType.UINT16,
    "uint32": ModelBoxDataType.UINT32,
    "uint64": ModelBoxDataType.UINT64,
    "bool": ModelBoxDataType.BOOL,
}
NAMES = {kind: name for name, kind in DTYPES.items()}
LIST_MAX = 65536  # elements of a tensor that is written as a list; larger ones as base64
META_MAX = 64  # keys
_FORMS = ("text", "json", "base64", "data")


class Value:
    """One buffer to be: its bytes, kind and meta."""

    __slots__ = ("data", "kind", "meta")

    def __init__(self, data: bytes | memoryview, kind: int, meta: dict[str, Any]) -> None:
        self.data = data
        self.kind = kind
        self.meta = meta


class _Wrong(Exception):
    """A value cannot be used: (pointer, text)."""


# ---- from clients --------------------------------------------------------------------------------------------


def from_json(inputs: dict[str, Any]) -> dict[str, list[Value]]:
    """The member "inputs" of a request: by input node, a value or {"values": [...]}. Raises TaskInputError."""
    found: dict[str, list[Value]] = {}
    wrong: list[tuple[str, str]] = []
    for port, given in inputs.items():
        at = f"/inputs/{port.replace('~', '~0').replace('/', '~1')[:80]}"
        try:
            found[port] = _values(given, at)
        except _Wrong as error:
            wrong.append(error.args[0])
    if wrong:
        raise TaskInputError(wrong[:20])
    return found


def from_json_part(given: Any, name: str) -> list[Value]:
    """What a part of type application/json holds. Raises TaskInputError."""
    try:
        return _values(given, name)
    except _Wrong as error:
        raise TaskInputError([error.args[0]]) from None


def from_bytes(data: bytes | memoryview, media_type: str, dtype: str, shape: str, where: str) -> Value:
    """A body or a part as it is. Text types are text; without a type, what is UTF-8 is. Raises TaskInputError."""
    try:
        if dtype or shape:
            return _tensor_bytes(data, dtype or "uint8", _shape_text(shape, where) if shape else None, where)
        if media_type.startswith("text/") or media_type in ("", "application/x-www-form-urlencoded", _JSON_TYPE):
            try:
                str(data, "utf-8")
                return Value(data, STRING, {})
            except UnicodeDecodeError:
                if media_type.startswith("text/"):
                    raise _wrong(where, "is not UTF-8 text") from None
        return Value(data, RAW, {"content_type": media_type} if media_type else {})
    except _Wrong as error:
        raise TaskInputError([error.args[0]]) from None


_JSON_TYPE = "application/json"


def _wrong(at: str, text: str) -> _Wrong:
    return _Wrong((at, text))


def _values(given: Any, at: str) -> list[Value]:
    if isinstance(given, dict) and "values" in given:
        if len(given) > 1 or not isinstance(given["values"], list):
            raise _wrong(at, 'must be a value, or {"values": [...]} alone')
        return [_value(item, f"{at}/values/{number}") for number, item in enumerate(given["values"])]
    return [_value(given, at)]


def _value(given: Any, at: str) -> Value:
    if isinstance(given, str):
        return Value(_utf8(given, at), STRING, {})
    if isinstance(given, (bool, int, float)):
        return _tensor([given], None, None, at)
    if isinstance(given, list):
        return _tensor(given, None, None, at)
    if not isinstance(given, dict):
        raise _wrong(at, "must be a text, a number, a list of numbers or an object")
    return _object(given, at)


def _object(given: dict[str, Any], at: str) -> Value:
    forms = [name for name in _FORMS if name in given]
    if len(forms) != 1:
        raise _wrong(at, f"must have one of {', '.join(_FORMS)}; a JSON document goes into json")
    form = forms[0]
    has_type = form in ("base64", "data")
    allowed = {form, "meta", *(("dtype", "shape") if has_type else ())}
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise _wrong(f"{at}/{unknown[0][:80]}", f"is not known beside {form}")
    dtype, shape = given.get("dtype"), given.get("shape")
    if dtype is not None and not (isinstance(dtype, str) and dtype in DTYPES):
        raise _wrong(f"{at}/dtype", f"must be one of {', '.join(DTYPES)}")
    if shape is not None:
        shape = _shape(shape, f"{at}/shape")
    if form == "text":
        if not isinstance(given["text"], str):
            raise _wrong(f"{at}/text", "must be a text")
        made = Value(_utf8(given["text"], at), STRING, {})
    elif form == "json":
        made = Value(_utf8(json.dumps(given["json"], ensure_ascii=False), at), STRING, {})
    elif form == "base64":
        data = _base64(given["base64"], f"{at}/base64")
        made = _tensor_bytes(data, dtype or "uint8", shape, at) if dtype or shape else Value(data, RAW, {})
    else:
        made = _tensor(given["data"], dtype, shape, at)
    made.meta = {**_meta(given.get("meta", {}), f"{at}/meta"), **made.meta}
    return made


def _utf8(text: str, at: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _wrong(at, "has half of a surrogate pair, which is no text") from None


def _base64(given: Any, at: str) -> bytes:
    if not isinstance(given, str):
        raise _wrong(at, "must be a text")
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(at, "is not base64") from None


def _shape(given: Any, at: str) -> list[int]:
    good = isinstance(given, list) and len(given) <= 32
    if not good or not all(isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim < 1 << 40 for dim in given):
        raise _wrong(at, "must be a list of at most 32 whole numbers from 0 on")
    return list(given)


def _shape_text(text: str, where: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 13 for word in words) or len(words) > 32:
        raise _wrong(where, f"shape={text[:40]} must be whole numbers and commas, such as 1,3,224,224")
    return [int(word) for word in words]


def _tensor_bytes(data: bytes | memoryview, dtype: str, shape: list[int] | None, at: str) -> Value:
    if dtype not in DTYPES:
        raise _wrong(at, f"dtype={dtype[:40]} must be one of {', '.join(DTYPES)}")
    kind = DTYPES[dtype]
    size = to_numpy(kind).itemsize
    count, rest = divmod(len(data), size)
    if rest:
        raise _wrong(at, f"has {len(data)} bytes, which are no whole number of {dtype}")
    if shape is not None and math.prod(shape) != count:
        raise _wrong(at, f"has {count} elements of {dtype}, shape {shape} needs {math.prod(shape)}")
    return Value(data, RAW, {"shape": shape if shape is not None else [count], "type": kind})


def _tensor(given: Any, dtype: str | None, shape: list[int] | None, at: str) -> Value:
    """Numbers in nested lists; without a dtype whole ones are int64, others float64."""
    if not isinstance(given, list):
        raise _wrong(at, "must be a list of numbers")
    try:
        flat, dims = flatten(given)
        if not are_numbers(flat):
            raise _wrong(at, "must be numbers and nothing else; whole numbers below 2 to the power of 64")
        array = np.array(flat, dtype=None if flat else np.float64).reshape(dims)
    except (ValueError, OverflowError):
        raise _wrong(at, "must be numbers, in lists that are equally long and at most 32 deep") from None
    if array.dtype.kind not in "biuf":
        raise _wrong(at, "must be numbers and nothing else; whole numbers below 2 to the power of 64")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _wrong(at, "has a number that is too large")
    wanted = to_numpy(DTYPES[dtype]) if dtype else array.dtype
    if wanted != array.dtype:
        array = _converted(array, wanted, dtype or "", at)
    if shape is not None:
        if math.prod(shape) != array.size:
            raise _wrong(at, f"has {array.size} elements, shape {shape} needs {math.prod(shape)}")
        array = array.reshape(shape)
    name = dtype or array.dtype.name
    return Value(array.tobytes(), RAW, {"shape": list(array.shape), "type": DTYPES[name]})


def _converted(array: np.ndarray[Any, Any], wanted: np.dtype[Any], name: str, at: str) -> np.ndarray[Any, Any]:
    """The same numbers in another type. Raises _Wrong when they do not fit."""
    if wanted.kind in "biu" and array.dtype.kind == "f" and array.size:
        raise _wrong(at, f"has numbers with a fraction, which {name} cannot hold")
    if wanted.kind == "b" and array.dtype.kind != "b" and array.size:
        raise _wrong(at, "must be true and false for dtype bool")
    if wanted.kind in "iu" and array.size and array.dtype.kind != "b":
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise _wrong(at, f"has numbers outside {limits.min} to {limits.max}, the range of {name}")
    with np.errstate(over="ignore"):
        made = array.astype(wanted)
    if wanted.kind == "f" and not np.isfinite(made).all():
        raise _wrong(at, f"has numbers too large for {name}")
    return made


def _meta(given: Any, at: str) -> dict[str, Any]:
    if not isinstance(given, dict) or len(given) > META_MAX:
        raise _wrong(at, f"must be an object of at most {META_MAX} members")
    try:
        if len(meta_block.encode(given)) > meta_block.MAX_SIZE // 2:
            raise _wrong(at, "is too large")
    except (ValueError, RecursionError, UnicodeError) as error:
        raise _wrong(at, f"cannot be sent: {str(error)[:100]}") from None
    return dict(given)


def to_core(pool: Pool, values: Sequence[Value]) -> CoreList:
    """A core list of sealed buffers, ready to be sent. Raises OutOfMemoryError."""
    items = new_list(len(values))
    error = new_error()
    for value in values:
        block = meta_block.encode(value.meta) if value.meta else b""
        data = ffi.from_buffer(value.data)
        buffer = lib.mb_buffer_pack(pool.handle, data, len(value.data), value.kind, block, len(block), error)
        if buffer == ffi.NULL:
            raise_error(error)
        lib.mb_list_push(items, buffer)
    lib.mb_list_born(items, 0, 0)
    return items


# ---- to clients ----------------------------------------------------------------------------------------------


def output_of(node: str, buffer: Buffer, node_by_unit: Callable[[str], str]) -> Output:
    """A copy of what arrived at an output node. `node_by_unit` knows which node a unit is that gave an error."""
    meta = buffer.meta_dict()
    if buffer.has_error():
        code = buffer.get_error_code()
        return Output(node, b"", False, {}, (code, buffer.get_error_msg(), node_by_unit(code.partition(".")[0])))
    return Output(node, buffer.as_bytes(), buffer._kind == STRING, meta)


def to_json(output: Output) -> dict[str, Any]:
    """An output for JSON: text, or a list of numbers or base64, with dtype and shape where there are such."""
    if output.error is not None:
        code, detail, node = output.error
        return {"error": {"code": code, "detail": detail, **({"node": node} if node else {})}}
    meta = _plain_meta(output.meta)
    made: dict[str, Any] = _text_json(output.data) if output.is_text else _bytes_json(output)
    if meta:
        made["meta"] = meta
    return made


def _text_json(data: bytes) -> dict[str, Any]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def tensor_of(output: Output) -> tuple[str, list[int]] | None:
    """The dtype and shape of an output; None when it is no tensor."""
    kind, shape = output.meta.get("type"), output.meta.get("shape")
    if output.is_text or not isinstance(kind, ModelBoxDataType) or kind not in NAMES or not isinstance(shape, list):
        return None
    if not all(isinstance(dim, int) and dim >= 0 for dim in shape):
        return None
    if math.prod(shape) * to_numpy(kind).itemsize != len(output.data):
        return None
    return NAMES[kind], shape


def _bytes_json(output: Output) -> dict[str, Any]:
    tensor = tensor_of(output)
    if tensor is None:
        return {"base64": base64.b64encode(output.data).decode()}
    dtype, shape = tensor
    array = np.frombuffer(output.data, to_numpy(DTYPES[dtype]))
    # JSON has no infinity, and bytes are shorter as base64.
    if dtype == "uint8" or array.size > LIST_MAX or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return {"base64": base64.b64encode(output.data).decode(), "dtype": dtype, "shape": shape}
    return {"data": array.reshape(shape).tolist(), "dtype": dtype, "shape": shape}


def _plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """The meta values that JSON can hold, but for those that say what the data are."""
    return {key: value for key, value in meta.items() if key not in ("shape", "type") and _is_plain(value, 0)}


def _is_plain(value: Any, depth: int) -> bool:
    if depth > 8:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, str, int))
