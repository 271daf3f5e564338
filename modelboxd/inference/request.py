"""Requests and results as all protocols share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modelboxd.graph.tensors import DIM_MAX, DIMS_MAX
from modelboxd.inference.errors import InferenceError

TENSORS_MAX = 1024  # of one request
ID_MAX, NAME_MAX = 1024, 256  # letters
TIMEOUT_MAX_US = 86_400_000_000
PRIORITY_MAX = 10


@dataclass(slots=True)
class Given:
    """A tensor of a request. Either `raw`, or `elements`: flat, in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes | memoryview | None = None
    elements: Sequence[Any] | None = None
    infinite: bool = False  # infinity and NaN may be among the elements


@dataclass(slots=True)
class Wanted:
    """A tensor that the client asks for."""

    name: str
    binary: bool = False  # HTTP: not as JSON


@dataclass(slots=True)
class Request:
    """One inference."""

    inputs: list[Given]
    wanted: list[Wanted] = field(default_factory=list)  # empty: all
    id: str = ""
    binary: bool = False  # HTTP: as `wanted` where it names nothing
    priority: int = 0  # 1 (first) to 10; 0 = not said
    timeout_s: float = 0.0  # 0 = not said
    size: int = 0  # bytes that came


@dataclass(slots=True)
class Tensor:
    """A tensor of a result: `chunks` one after the other are its data; of BYTES each is one element."""

    name: str
    datatype: str
    shape: list[int]
    chunks: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of the binary form."""
        prefix = 4 * len(self.chunks) if self.datatype == "BYTES" else 0
        return sum(map(len, self.chunks)) + prefix


def check_shape(name: str, shape: Any) -> list[int]:
    """Raises InferenceError for what is no shape of a tensor."""
    good = isinstance(shape, (list, tuple)) and len(shape) <= DIMS_MAX
    if not good or not all(type(dim) is int and 0 < dim < DIM_MAX for dim in shape):
        text = f"input '{name[:NAME_MAX]}': shape must be a list of at most {DIMS_MAX} whole numbers from 1 on"
        raise InferenceError(text)
    return list(shape)


# What the shared-memory extensions of other servers would have in the parameters of tensors.
_SHARED = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


def check_tensor_parameters(what: str, parameters: dict[str, Any]) -> None:
    """Raises InferenceError for what is asked for and not done."""
    if any(key in parameters for key in _SHARED):
        raise InferenceError(f"{what}: shared memory of clients is not accepted; send the tensor itself")
    if parameters.get("classification"):
        raise InferenceError(f"{what}: the classification extension is not supported; ask for the tensor itself")


def read_parameters(request: Request, parameters: dict[str, Any]) -> None:
    """Takes the parameters of a request that have a meaning here. Raises InferenceError."""
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise InferenceError("sequence_id: sequences are not supported; one request is one session")
    if "priority" in parameters:
        priority = parameters["priority"]
        if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
            raise InferenceError(f"priority must be a whole number from 1 (first) to {PRIORITY_MAX}, or 0")
        request.priority = priority
    if "timeout" in parameters:
        timeout = parameters["timeout"]
        if type(timeout) is not int or not 0 <= timeout <= TIMEOUT_MAX_US:
            raise InferenceError(f"timeout must be microseconds, a whole number from 0 to {TIMEOUT_MAX_US}")
        request.timeout_s = timeout / 1e6
