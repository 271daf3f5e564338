"""Element types of buffers (the value of the meta key "type") and their numpy counterparts."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np


class ModelBoxDataType(IntEnum):
    """Numbers as in enum mb_dtype of the plugin ABI, and those that only ModelBox knows."""

    INVALID = 0
    FLOAT = 1
    DOUBLE = 2
    INT32 = 3
    UINT8 = 4
    INT16 = 5
    INT8 = 6
    STRING = 7
    COMPLEX64 = 8
    INT64 = 9
    BOOL = 10
    QINT8 = 11
    QUINT8 = 12
    QINT32 = 13
    BFLOAT16 = 14
    QINT16 = 15
    QUINT16 = 16
    UINT16 = 17
    COMPLEX128 = 18
    HALF = 19
    RESOURCE = 20
    VARIANT = 21
    UINT32 = 22
    UINT64 = 23


_NUMPY: dict[ModelBoxDataType, np.dtype[Any]] = {
    ModelBoxDataType.FLOAT: np.dtype(np.float32),
    ModelBoxDataType.DOUBLE: np.dtype(np.float64),
    ModelBoxDataType.INT32: np.dtype(np.int32),
    ModelBoxDataType.UINT8: np.dtype(np.uint8),
    ModelBoxDataType.INT16: np.dtype(np.int16),
    ModelBoxDataType.INT8: np.dtype(np.int8),
    ModelBoxDataType.INT64: np.dtype(np.int64),
    ModelBoxDataType.BOOL: np.dtype(np.bool_),
    ModelBoxDataType.UINT16: np.dtype(np.uint16),
    ModelBoxDataType.HALF: np.dtype(np.float16),
    ModelBoxDataType.UINT32: np.dtype(np.uint32),
    ModelBoxDataType.UINT64: np.dtype(np.uint64),
}
_TYPES = {dtype: kind for kind, dtype in _NUMPY.items()}
UINT8 = np.dtype(np.uint8)


def to_numpy(kind: object) -> np.dtype[Any]:
    """The numpy dtype of an element type; uint8 for what has none."""
    return _NUMPY.get(kind, UINT8) if isinstance(kind, ModelBoxDataType) else UINT8


def from_numpy(dtype: np.dtype[Any]) -> ModelBoxDataType:
    """The element type of a numpy dtype. Raises RuntimeError for one that buffers cannot hold."""
    try:
        return _TYPES[dtype.newbyteorder("=")]
    except KeyError:
        raise RuntimeError(f"invalid numpy data type: {dtype}") from None
