"""Meta blocks: the C code and the Python functions that it stands in for agree."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from modelbox import meta
from modelbox._core import ffi, lib
from modelbox.dtypes import ModelBoxDataType

VALUES: list[Any] = [
    *(0, -1, 7, (1 << 63) - 1, -(1 << 63), 1 << 63, True, False, 0.5, float("inf"), -0.0, None, b"ab\0", (1, 2)),
    *("", "text", "ä€", "1234567", "12345678", "with\0nul", "lone \udc80 surrogate", "x" * 70_000),
    *([], [1], [1, 2, 3], list(range(16)), list(range(17)), [1 << 63], [1, 2.0], [True, False], [0.5], ["a", ""]),
    *([[1, 2], [3]], {"a": [1, None]}, np.int32(5), np.float64(2.5), np.bool_(True), *ModelBoxDataType),
]
KEYS = ("a", "shape", "1234567", "12345678", "ä", "k" * 255)


def in_python(values: dict[str, Any]) -> bytes:
    return b"".join(meta.encode_entry(key, value) for key, value in values.items())


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:24])
def test_one_value(value: Any) -> None:
    for key in KEYS:
        block = meta.encode({key: value})
        assert block == in_python({key: value})
        assert lib.mb_meta_check(ffi.from_buffer(block), len(block)) == 0
        decoded = meta.decode(block)[key]
        assert decoded == value
        assert type(decoded) is type(value) or isinstance(value, np.generic)


def test_many_values() -> None:
    source = random.Random(2)
    for _ in range(300):
        values = {f"k{number}" * source.randrange(1, 9): source.choice(VALUES) for number in range(source.randrange(9))}
        block = meta.encode(values)
        assert block == in_python(values)
        assert meta.decode(block) == values
        assert list(meta.decode(block)) == list(values)


def test_a_number_that_is_no_type_stays_a_number() -> None:
    block = bytearray(meta.encode({"type": ModelBoxDataType.UINT8}))
    block[-8:] = (12345).to_bytes(8, "little")
    assert meta.decode(bytes(block)) == {"type": 12345}


@pytest.mark.parametrize("key", ["", "a\0b", "k" * 256, "\udc80"])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError):
        meta.encode({key: 1})


def test_a_block_that_is_cut_off_is_refused() -> None:
    block = meta.encode({"key": "text", "numbers": [1, 2]})
    whole = {0, len(meta.encode({"key": "text"}))}
    for size in range(len(block)):
        if size not in whole:
            with pytest.raises(ValueError, match="cut off"):
                meta.decode(block[:size])


def test_a_value_that_changes_the_dict_while_it_is_pickled() -> None:
    values: dict[str, Any] = {"first": Meddler(), "second": 2}
    Meddler.target = values
    assert list(meta.decode(meta.encode(values))) == ["first", "second"]
    assert "third" in values


class Meddler:
    """Its pickling adds a key to `target`."""

    target: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        self.target["third"] = 3
        return (int, ())
