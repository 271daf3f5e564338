"""[model] of a graph file: which tensors its input and output nodes take and give, for inference protocols.

[model]
name = "resnet"            # else the job's id
version = "1"
max_batch = 8              # the first dimension of all tensors is the batch; 0: each tensor is one value
[model.inputs]
image = {datatype = "FP32", shape = [3, 224, 224]}      # input node image; of one value, -1 = any size
[model.outputs]
scores = {datatype = "FP32", shape = [1000], name = "fc.out"}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelbox.errors import GraphError, Where

# The words of the Open Inference Protocol, with the names that numpy has for them.
DATATYPES: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "",
}
DIMS_MAX = 32
DIM_MAX = 1 << 40
BATCH_MAX = 4096
_KEYS = {"name", "version", "max_batch", "inputs", "outputs"}
_NAME = re.compile(r"[0-9a-zA-Z_+~-][0-9a-zA-Z_.+~-]{0,63}")  # as job ids, but one letter will do
_VERSION = re.compile(r"[0-9a-zA-Z_.+~-]{1,32}")
LineOf = Callable[..., Where]


@dataclass(frozen=True, slots=True)
class TensorDecl:
    """What one value of an input or output node is."""

    node: str
    datatype: str  # a word of DATATYPES
    shape: tuple[int, ...]  # without the batch; -1 = any size
    where: Where
    name: str = ""  # of the tensor; "" = the node's


@dataclass(frozen=True, slots=True)
class ModelDecl:
    """[model] of a graph file."""

    where: Where
    name: str = ""
    version: str = "1"
    max_batch: int | None = None  # None: not said
    inputs: dict[str, TensorDecl] = field(default_factory=dict)  # by node
    outputs: dict[str, TensorDecl] = field(default_factory=dict)


def parse_model(section: dict[str, Any], line_of: LineOf) -> ModelDecl:
    """`line_of(*keys)` says where a key below [model] stands. Raises GraphError."""
    for key in section:
        if key not in _KEYS:
            raise GraphError(f"model.{key} is not known", where=line_of(key), hint=f"known: {', '.join(sorted(_KEYS))}")
    name, version = section.get("name", ""), section.get("version", "1")
    if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
        hint = "1 to 64 of letters, digits, - + ~ _ . and no . in front"
        raise GraphError(f"model.name = {name!r} is not allowed", where=line_of("name"), hint=hint)
    version = str(version) if isinstance(version, int) and not isinstance(version, bool) else version
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise GraphError(f"model.version = {version!r} is no version", where=line_of("version"), hint='such as "1"')
    most = section.get("max_batch")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= BATCH_MAX):
        text = f"model.max_batch = {most!r} is no whole number from 0 to {BATCH_MAX}"
        raise GraphError(text, where=line_of("max_batch"))
    sides = [_side(section.get(side, {}), side, line_of, most or 0) for side in ("inputs", "outputs")]
    return ModelDecl(line_of(), name, version, most, *sides)


def _side(section: Any, side: str, line_of: LineOf, max_batch: int) -> dict[str, TensorDecl]:
    if not isinstance(section, dict):
        raise GraphError(f"model.{side} must be a table", where=line_of(side), hint=_EXAMPLE)
    made: dict[str, TensorDecl] = {}
    names: set[str] = set()
    for node, given in section.items():
        where = line_of(side, node)
        tensor = _tensor(node, given, f"model.{side}.{node}", where)
        if tensor.datatype == "BYTES":
            _check_bytes(tensor, f"model.{side}.{node}", max_batch)
        if (tensor.name or node) in names:
            raise GraphError(f"model.{side}.{node}: there are two tensors '{tensor.name or node}'", where=where)
        names.add(tensor.name or node)
        made[node] = tensor
    return made


_EXAMPLE = 'such as x = {datatype = "FP32", shape = [3, -1, -1]}'


def _tensor(node: str, given: Any, at: str, where: Where) -> TensorDecl:
    if not isinstance(given, dict) or not {"datatype", "shape"} <= given.keys() <= {"datatype", "shape", "name"}:
        raise GraphError(f"{at} must have datatype and shape, and perhaps name", where=where, hint=_EXAMPLE)
    word, shape, name = given["datatype"], given["shape"], given.get("name", "")
    if word == "BF16":
        raise GraphError(f"{at}.datatype: BF16 is not supported, buffers have no such type", where=where)
    if not isinstance(word, str) or word not in DATATYPES:
        raise GraphError(f"{at}.datatype = {word!r} is not known", where=where, hint=f"one of {', '.join(DATATYPES)}")
    good = isinstance(shape, list) and len(shape) < DIMS_MAX and all(_is_dim(dim) for dim in shape)
    if not good:
        text = f"{at}.shape = {shape!r} is no list of sizes from 1 on, or -1 for any"
        raise GraphError(text, where=where, hint="such as [3, -1, -1]")
    if not isinstance(name, str) or len(name) > 256:
        raise GraphError(f"{at}.name must be a text of at most 256 letters", where=where)
    return TensorDecl(node, word, tuple(shape), where, name)


def _is_dim(dim: Any) -> bool:
    return isinstance(dim, int) and not isinstance(dim, bool) and (dim == -1 or 1 <= dim < DIM_MAX)


def _check_bytes(tensor: TensorDecl, at: str, max_batch: int) -> None:
    """Each element of a BYTES tensor is a value of its own."""
    one = all(dim == 1 for dim in tensor.shape)
    if not one and (max_batch or len(tensor.shape) > 1):
        text = f"{at}.shape = {list(tensor.shape)}: each element of BYTES is a value of the graph"
        hint = "shape = [1] with max_batch, else [1] or [-1]"
        raise GraphError(text, where=tensor.where, hint=hint)
