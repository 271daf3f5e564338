"""The protocol's JSON, with the binary tensor data extension: a JSON head, and behind it the tensors as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelboxd.inference.errors import InferenceError
from modelboxd.inference.model import NUMPY, Model
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
from modelboxd.tasks.numbers import flatten

# ---- requests ------------------------------------------------------------------------------------------------


def read_request(head: Any, tail: memoryview) -> Request:
    """A request out of its JSON and what stands behind that. Raises InferenceError. [any thread]"""
    head = _object(head, "the request")
    given_id = head.get("id", "")
    if not isinstance(given_id, str) or len(given_id) > ID_MAX:
        raise InferenceError(f"id must be a text of at most {ID_MAX} letters")
    parameters = _object(head.get("parameters", {}), "parameters")
    request = Request([], id=given_id, size=len(tail))
    read_parameters(request, parameters)
    request.binary = _flag(parameters, "binary_data_output", "the request")
    at = 0
    for item in _list(head, "inputs"):
        given, at = _input(item, tail, at)
        request.inputs.append(given)
    if at != len(tail):
        raise InferenceError(f"{len(tail) - at} bytes behind the JSON belong to no input")
    request.wanted = [_wanted(item, request.binary) for item in _list(head, "outputs", optional=True)]
    return request


def _input(item: Any, tail: memoryview, at: int) -> tuple[Given, int]:
    """One tensor, and where the next one's bytes begin."""
    item = _object(item, "an input")
    name, datatype = item.get("name"), item.get("datatype")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise InferenceError("each input needs a name and a datatype, which are texts")
    what = f"input '{name[:NAME_MAX]}'"
    given = Given(name, datatype, check_shape(name, item.get("shape")))
    parameters = _object(item.get("parameters", {}), f"{what}: parameters")
    check_tensor_parameters(what, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if not isinstance(item.get("data"), list):
            raise InferenceError(f"{what} needs data, a list, or the parameter binary_data_size")
        given.elements = _elements(item["data"], given, what)
        return given, at
    if "data" in item:
        raise InferenceError(f"{what} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(tail) - at:
        raise InferenceError(f"{what}: binary_data_size must be from 0 to {len(tail) - at}, what is left of the body")
    given.raw = tail[at : at + size]
    return given, at + size


def _elements(data: list[Any], given: Given, what: str) -> Sequence[Any]:
    """Flat, or in nested lists of the shape that is given."""
    if not data or not isinstance(data[0], list):
        return data
    try:
        flat, shape = flatten(data)
    except ValueError as error:
        raise InferenceError(f"{what}: data {error}") from None
    if shape != given.shape:
        raise InferenceError(f"{what}: data are lists of shape {shape}, shape says {given.shape}")
    return flat


def _wanted(item: Any, binary: bool) -> Wanted:
    item = _object(item, "an output")
    if not isinstance(item.get("name"), str):
        raise InferenceError("each output needs a name, which is a text")
    what = f"output '{item['name'][:NAME_MAX]}'"
    parameters = _object(item.get("parameters", {}), f"{what}: parameters")
    check_tensor_parameters(what, parameters)
    return Wanted(item["name"], _flag(parameters, "binary_data", what) if "binary_data" in parameters else binary)


def _object(given: Any, what: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InferenceError(f"{what} must be an object")
    return given


def _list(head: dict[str, Any], key: str, *, optional: bool = False) -> list[Any]:
    given = head.get(key)
    if given is None and optional:
        return []
    if not isinstance(given, list) or len(given) > TENSORS_MAX:
        raise InferenceError(f"{key} must be a list of at most {TENSORS_MAX} tensors")
    return given


def _flag(parameters: dict[str, Any], key: str, what: str) -> bool:
    given = parameters.get(key, False)
    if not isinstance(given, bool):
        raise InferenceError(f"{what}: the parameter {key} must be true or false")
    return given


# ---- answers ---------------------------------------------------------------------------------------------------


def write_answer(model: Model, request: Request, tensors: list[Tensor]) -> tuple[bytes, int]:
    """The body, and how many bytes of it are JSON; 0 when all are. Raises InferenceError for what JSON cannot hold.
    [any thread]"""
    binary = {item.name for item in request.wanted if item.binary}
    if not request.wanted and request.binary:
        binary = {tensor.name for tensor in tensors}
    chunks: list[bytes] = []
    outputs = []
    for tensor in tensors:
        made: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in binary:
            made["parameters"] = {"binary_data_size": tensor.size}
            chunks += raw_chunks(tensor)
        else:
            made["data"] = _data(tensor)
        outputs.append(made)
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request.id:
        head["id"] = request.id
    head["outputs"] = outputs
    text = json.dumps(head, separators=(",", ":")).encode()
    if not binary:
        return text, 0
    return b"".join([text, *chunks]), len(text)


def raw_chunks(tensor: Tensor) -> list[bytes]:
    """The binary form of a tensor, in pieces."""
    if tensor.datatype != "BYTES":
        return tensor.chunks
    return [part for item in tensor.chunks for part in (len(item).to_bytes(4, "little"), item)]


def _data(tensor: Tensor) -> list[Any]:
    hint = "ask for it in binary form (parameter binary_data)"
    if tensor.datatype == "BYTES":
        try:
            return [item.decode() for item in tensor.chunks]
        except UnicodeDecodeError:
            raise InferenceError(f"output '{tensor.name}' is not UTF-8, which JSON cannot hold", hint=hint) from None
    array = np.frombuffer(b"".join(tensor.chunks), NUMPY[tensor.datatype])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InferenceError(f"output '{tensor.name}' has infinity or NaN, which JSON cannot hold", hint=hint)
    return list(array.tolist())
