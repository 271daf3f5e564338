"""Tensors of requests become buffers of input nodes, values of output nodes become tensors.

With max_batch a tensor is cut along its first dimension into as many values, and results are put together again; the
data are not copied for that, but once into the pool. Each element of a BYTES tensor is a value: a text where it is
UTF-8, else bytes, as values of tasks are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelbox.buffer import RAW, STRING
from modelbox.dtypes import ModelBoxDataType
from modelboxd.inference.errors import InferenceError, ModelStateError
from modelboxd.inference.model import NUMPY, Model, Port
from modelboxd.inference.request import NAME_MAX, TENSORS_MAX, Given, Request, Tensor, Wanted, check_shape
from modelboxd.tasks.model import Output, result_error
from modelboxd.tasks.numbers import to_array
from modelboxd.tasks.values import DTYPES, Value, to_core

if TYPE_CHECKING:
    from modelboxd.engine.feed import CoreList

VALUES_MAX = 16384  # elements of a BYTES tensor
ELEMENTS_MAX = 1 << 22  # of a tensor that comes as single numbers
KINDS: dict[str, ModelBoxDataType] = {word: DTYPES[dtype.name] for word, dtype in NUMPY.items()}
_SIZES = {word: np.dtype(dtype).itemsize for word, dtype in NUMPY.items()}


# ---- requests ------------------------------------------------------------------------------------------------


def pack(model: Model, request: Request) -> list[tuple[str, CoreList]]:
    """What goes to each input node. Raises InferenceError, OutOfMemoryError. [any thread]"""
    check(model, request)
    values: dict[str, list[Value]] = {}
    count = -1
    for given in request.inputs:
        port = model.inputs[given.name]
        made = _values(model, port, given)
        if count not in (-1, len(made)) and (model.max_batch or model.job.inputs.match):
            what = "a batch of" if model.max_batch else "as many values as"
            text = f"input '{given.name}' has {what} {len(made)}, input '{request.inputs[0].name}' {count}"
            raise InferenceError(text)
        count = len(made)
        values[port.node] = made
    pool = model.job.pool
    return [(port.node, to_core(pool, values[port.node])) for port in model.inputs.values()]


def check(model: Model, request: Request) -> None:
    """Names, types and shapes of a request against the model's. Raises InferenceError."""
    seen: set[str] = set()
    if len(request.inputs) > TENSORS_MAX or len(request.wanted) > TENSORS_MAX:
        raise InferenceError(f"there are more than {TENSORS_MAX} tensors")
    for given in request.inputs:
        name = given.name[:NAME_MAX]
        port = model.inputs.get(given.name)
        if port is None:
            raise InferenceError(f"model '{model.name}' has no input '{name}'; its inputs: {', '.join(model.inputs)}")
        if given.name in seen:
            raise InferenceError(f"input '{name}' stands twice")
        seen.add(given.name)
        if given.datatype != port.datatype:
            raise InferenceError(f"input '{name}': the model takes {port.datatype}, not {given.datatype[:20]!r}")
        _check_dims(model, port, check_shape(given.name, given.shape))
    missing = [name for name in model.inputs if name not in seen]
    if missing:
        raise InferenceError(f"input '{missing[0]}' of model '{model.name}' is missing")
    asked: set[str] = set()
    for wanted in request.wanted:
        if wanted.name not in model.outputs:
            text = f"model '{model.name}' has no output '{wanted.name[:NAME_MAX]}'"
            raise InferenceError(f"{text}; its outputs: {', '.join(model.outputs)}")
        if wanted.name in asked:
            raise InferenceError(f"output '{wanted.name}' is asked for twice")
        asked.add(wanted.name)


def _check_dims(model: Model, port: Port, shape: list[int]) -> None:
    full = model.full_shape(port)
    if len(shape) != len(full) or any(dim not in (-1, given) for dim, given in zip(full, shape, strict=True)):
        raise InferenceError(f"input '{port.name}': the model takes shape {full} (-1: any size), not {shape}")
    if model.max_batch and shape[0] > model.max_batch:
        raise InferenceError(f"input '{port.name}': a batch of {shape[0]}; the model takes {model.max_batch} at most")


def _values(model: Model, port: Port, given: Given) -> list[Value]:
    count = math.prod(given.shape)
    if port.datatype == "BYTES":
        return [_text_or_bytes(item) for item in _byte_elements(given, count)]
    data = _raw(given, count) if given.raw is not None else _typed(given, count)
    parts = given.shape[0] if model.max_batch else 1
    shape = given.shape[1:] if model.max_batch else given.shape
    meta = {"shape": shape, "type": KINDS[port.datatype]}
    size = len(data) // parts
    return [Value(data[at * size : (at + 1) * size], RAW, meta) for at in range(parts)]


def _raw(given: Given, count: int) -> memoryview:
    """The bytes of a tensor of `count` elements."""
    assert given.raw is not None
    data, size = memoryview(given.raw), count * _SIZES[given.datatype]
    if len(data) != size:
        text = f"input '{given.name}': {given.datatype} of shape {given.shape} has {size} bytes, {len(data)} came"
        raise InferenceError(text)
    if given.datatype == "BOOL" and size and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise InferenceError(f"input '{given.name}': BOOL has bytes other than 0 and 1")
    return data


def _typed(given: Given, count: int) -> memoryview:
    """The same, of single elements."""
    elements = given.elements if given.elements is not None else ()
    if len(elements) != count:
        text = f"input '{given.name}': shape {given.shape} has {count} elements, {len(elements)} came"
        raise InferenceError(text)
    if count > ELEMENTS_MAX:
        raise InferenceError(f"input '{given.name}': more than {ELEMENTS_MAX} elements; send them in binary form")
    try:
        array = to_array(list(elements), NUMPY[given.datatype], infinite=given.infinite)
    except ValueError as error:
        raise InferenceError(f"input '{given.name}': the data of {given.datatype} {error}") from None
    return memoryview(array.tobytes())


def _byte_elements(given: Given, count: int) -> Sequence[bytes | memoryview]:
    if count > VALUES_MAX:
        raise InferenceError(f"input '{given.name}': more than {VALUES_MAX} elements of BYTES")
    if given.raw is not None:
        return _split_bytes(given, count)
    elements = given.elements if given.elements is not None else ()
    if len(elements) != count:
        text = f"input '{given.name}': shape {given.shape} has {count} elements, {len(elements)} came"
        raise InferenceError(text)
    return [_one_element(given, item) for item in elements]


def _one_element(given: Given, item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise InferenceError(f"input '{given.name}': the data of BYTES must be texts")
    try:
        return item.encode()
    except UnicodeEncodeError:
        raise InferenceError(f"input '{given.name}': half of a surrogate pair is no text") from None


def _split_bytes(given: Given, count: int) -> list[memoryview]:
    """Elements, each behind its length in four bytes, the lowest first."""
    assert given.raw is not None
    data = memoryview(given.raw)
    made, at = [], 0
    for number in range(count):
        end = at + 4
        length = int.from_bytes(data[at:end], "little") if end <= len(data) else -1
        if length < 0 or end + length > len(data):
            raise InferenceError(f"input '{given.name}': element {number} of {count} goes beyond the end of the data")
        made.append(data[end : end + length])
        at = end + length
    if at != len(data):
        raise InferenceError(f"input '{given.name}': {len(data) - at} bytes are left behind its {count} elements")
    return made


def _text_or_bytes(item: bytes | memoryview) -> Value:
    try:
        str(item, "utf-8")
    except UnicodeDecodeError:
        return Value(item, RAW, {})
    return Value(item, STRING, {})


# ---- results ---------------------------------------------------------------------------------------------------


def unpack(model: Model, wanted: list[Wanted], outputs: list[Output], batch: int) -> list[Tensor]:
    """The tensors that were asked for; `batch` is the number of values that went in. Raises TaskResultError where a
    unit gave an error, ModelStateError where the graph gave something else than it declares. [any thread]"""
    by_node: dict[str, list[Output]] = {}
    for output in outputs:
        if output.error is not None:
            code, message, node = output.error
            raise result_error(code, message, node)
        by_node.setdefault(output.node, []).append(output)
    names = [item.name for item in wanted] or list(model.outputs)
    return [_tensor(model, model.outputs[name], by_node.get(model.outputs[name].node, []), batch) for name in names]


def _tensor(model: Model, port: Port, values: list[Output], batch: int) -> Tensor:
    if port.datatype == "BYTES":
        ones = [1] * len(port.shape)
        shape = [len(values), *ones] if model.max_batch else ([len(values)] if ones else [])
        expected = batch if model.max_batch else (port.shape[0] if port.shape[:1] not in ((), (-1,)) else -1)
        if expected not in (-1, len(values)) or (not shape and len(values) != 1):
            raise _other(model, port, f"{len(values)} values")
        return Tensor(port.name, "BYTES", shape, [value.data for value in values])
    if len(values) != batch:
        raise _other(model, port, f"{len(values)} values for {batch}")
    shapes = {_shape(model, port, value) for value in values}
    if len(shapes) != 1:
        raise _other(model, port, f"values of different shapes, such as {', '.join(map(str, sorted(shapes)[:2]))}")
    one = list(shapes.pop())
    return Tensor(port.name, port.datatype, [batch, *one] if model.max_batch else one, [value.data for value in values])


def _shape(model: Model, port: Port, value: Output) -> tuple[int, ...]:
    kind, shape = value.meta.get("type"), value.meta.get("shape")
    size = len(value.data)
    if kind is not None and kind != KINDS[port.datatype]:
        raise _other(model, port, f"{getattr(kind, 'name', kind)}")
    if not isinstance(shape, list) or not all(isinstance(dim, int) and dim >= 0 for dim in shape):
        shape = [size // _SIZES[port.datatype]]
    if math.prod(shape) * _SIZES[port.datatype] != size:
        raise _other(model, port, f"{size} bytes for shape {shape}")
    fits = len(shape) == len(port.shape) and all(a in (-1, b) for a, b in zip(port.shape, shape, strict=True))
    if not fits:  # the same data in another shape, if there is no doubt which
        if -1 in port.shape or math.prod(port.shape) != math.prod(shape):
            raise _other(model, port, f"shape {shape}")
        return port.shape
    return tuple(shape)


def _other(model: Model, port: Port, what: str) -> ModelStateError:
    declared = f"{port.datatype} {list(port.shape)}"
    text = f"output '{port.name}' of model '{model.name}' is declared as {declared}, the graph gave {what}"
    return ModelStateError(text, node=port.node)
