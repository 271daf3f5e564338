"""Requests and answers of gRPC as bytes. Raw tensors do not pass through protobuf: they are cut out of the message
before the rest is parsed, and put behind it when it is written. That saves two copies of all data, and bounds what a
message can make protobuf allocate, since two bytes are enough for an empty submessage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelboxd.inference.errors import InferenceError
from modelboxd.inference.json_codec import raw_chunks
from modelboxd.inference.model import Model
from modelboxd.inference.proto import messages
from modelboxd.inference.request import (
    ID_MAX,
    NAME_MAX,
    TENSORS_MAX,
    Given,
    Request,
    Tensor,
    Wanted,
    check_shape,
    check_tensor_parameters,
    read_parameters,
)

RAW_INPUTS, RAW_OUTPUTS, ANSWER = 7, 6, 2  # numbers of fields
FIELDS_MAX = 4 * TENSORS_MAX  # of the message itself
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


# ---- the wire format -------------------------------------------------------------------------------------------


def fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where the field begins, where its value does, where it ends. Raises
    InferenceError for what is no message."""
    at, count = 0, 0
    while at < len(data):
        count += 1
        if count > FIELDS_MAX:
            raise InferenceError(f"the message has more than {FIELDS_MAX} fields")
        start = at
        tag, at = _varint(data, at)
        kind, value = tag & 7, at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            size, value = _varint(data, at)
            at = value + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise InferenceError("the message is not well-formed")
        if at > len(data) or not tag >> 3:
            raise InferenceError("the message is not well-formed")
        yield tag >> 3, start, value, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InferenceError("the message is not well-formed")


def _field(number: int, size: int) -> bytes:
    """What stands in front of `size` bytes."""
    made = bytearray([number << 3 | 2])
    while size >= 0x80:
        made.append(size & 0x7F | 0x80)
        size >>= 7
    made.append(size)
    return bytes(made)


# ---- requests ------------------------------------------------------------------------------------------------


def parse(kind: Any, data: bytes | memoryview) -> Any:
    """A message. Raises InferenceError."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(bytes(data))
    except (DecodeError, RecursionError):
        raise InferenceError("the message is not well-formed") from None


def split(data: bytes, limit: int) -> tuple[Any, list[memoryview]]:
    """The ModelInferRequest without its raw tensors, and these. Raises InferenceError; also when the rest is larger
    than `limit` bytes."""
    view = memoryview(data)
    rest, raw, size = [], [], 0
    for number, start, value, end in fields(view):
        if number == RAW_INPUTS and view[start] & 7 == 2:
            raw.append(view[value:end])
        else:
            rest.append(view[start:end])
            size += end - start
    if size > limit:
        text = f"the message without its raw tensors is larger than {limit} bytes (tasks.max_json)"
        raise InferenceError(f"{text}; send large tensors as raw_input_contents")
    return parse(messages().ModelInferRequest, b"".join(rest)), raw


def read_request(message: Any, raw: list[memoryview]) -> Request:
    """Raises InferenceError. [any thread]"""
    if len(message.id) > ID_MAX:
        raise InferenceError(f"id must be a text of at most {ID_MAX} letters")
    if len(message.inputs) > TENSORS_MAX or len(message.outputs) > TENSORS_MAX:
        raise InferenceError(f"there are more than {TENSORS_MAX} tensors")
    for item in message.inputs:
        check_tensor_parameters(f"input '{item.name[:NAME_MAX]}'", _parameters(item.parameters))
    if raw and len(raw) != len(message.inputs):
        text = f"raw_input_contents must be there for all inputs or none: {len(raw)} for {len(message.inputs)}"
        raise InferenceError(text)
    request = Request([], id=message.id, size=sum(map(len, raw)))
    read_parameters(request, _parameters(message.parameters))
    for number, item in enumerate(message.inputs):
        given = Given(item.name, item.datatype, check_shape(item.name, list(item.shape)))
        what = f"input '{given.name[:NAME_MAX]}'"
        if raw:
            if item.HasField("contents"):
                raise InferenceError(f"{what} has both contents and raw_input_contents")
            given.raw = raw[number]
        else:
            given.elements, given.infinite = _contents(item, what), True
        request.inputs.append(given)
    for item in message.outputs:
        check_tensor_parameters(f"output '{item.name[:NAME_MAX]}'", _parameters(item.parameters))
        request.wanted.append(Wanted(item.name))
    return request


def _contents(item: Any, what: str) -> Any:
    if item.datatype == "FP16":
        raise InferenceError(f"{what}: FP16 has to come as raw_input_contents")
    wanted = _CONTENTS.get(item.datatype, "")
    for field, _ in item.contents.ListFields():
        if field.name != wanted:
            raise InferenceError(
                f"{what}: {item.datatype[:20]} has its elements in {wanted or 'none'}, not {field.name}"
            )
    return getattr(item.contents, wanted) if wanted else ()


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for key, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        made[key] = getattr(value, choice) if choice else None
    return made


# ---- answers ---------------------------------------------------------------------------------------------------


def write_answer(model: Model, request: Request, tensors: list[Tensor], *, final: bool = False) -> list[bytes]:
    """A ModelInferResponse in pieces. `final` tells clients that ask for it that no more answers follow. [any
    thread]"""
    made = messages().ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    if final:
        made.parameters["triton_final_response"].bool_param = True
    pieces: list[bytes] = []
    for tensor in tensors:
        made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        pieces += [_field(RAW_OUTPUTS, tensor.size), *raw_chunks(tensor)]
    return [made.SerializeToString(), *pieces]


def in_stream(pieces: list[bytes]) -> list[bytes]:
    """The same in a ModelStreamInferResponse."""
    return [_field(ANSWER, sum(map(len, pieces))), *pieces]
