"""mean and normalize against numpy, to the bit: float arithmetic of one operation leaves no room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.buffer import Buffer
from modelbox.dtypes import ModelBoxDataType
from modelbox.errors import ModelBoxError
from tests.unit.flowunits.host import CPU, Unit, image_buffer, image_meta, library_of, opened, with_meta

OPTION = {"mean": "mean", "normalize": "standard_deviation_inverse"}
VALUES = np.array([123.675, 0.0171, -3.5], np.float32)
TEXT = "123.675, 0.0171,-3.5"


def apply(name: str, data: Any, axis: int) -> Any:
    shape = [1] * data.ndim
    shape[axis] = 3
    values = VALUES.reshape(shape)
    return data.astype(np.float32) - values if name == "mean" else data.astype(np.float32) * values


def sample(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.random.default_rng(5).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", OPTION)
@pytest.mark.parametrize(
    ("shape", "layout", "axis"),
    [
        ((3, 17, 31), "chw", 0),
        ((17, 31, 3), "hwc", 2),
        ((3, 17, 31), None, 0),
        ((17, 31, 3), None, 2),
        ((3, 1, 1), None, 0),
        ((1, 1, 3), None, 2),
        ((3, 3, 3), None, 0),
        ((3, 5, 3), None, 0),
        ((3, 3, 3), "hwc", 2),
        ((4, 3, 9, 7), "chw", 1),
        ((4, 9, 7, 3), "hwc", 3),
        ((4, 3, 9, 7), None, 1),
    ],
)
def test_values(pool: Pool, name: str, shape: tuple[int, ...], layout: str | None, axis: int, dtype: Any) -> None:
    data = sample(shape, dtype)
    buffer = Buffer(CPU, data)
    if layout is not None:
        buffer.set("layout", layout)
    buffer.set("frame", "17")
    with opened(name, pool, **{OPTION[name]: TEXT}) as unit:
        answer = unit.one(buffer)
    np.testing.assert_array_equal(answer.array, apply(name, data, axis))
    assert answer.meta == buffer.meta_dict() | {"type": ModelBoxDataType.FLOAT}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(OPTION)),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    planar=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_any_size(pool: Pool, name: str, height: int, width: int, planar: bool, dtype: Any) -> None:
    data = sample((3, height, width) if planar else (height, width, 3), dtype)
    buffer = Buffer(CPU, data)
    buffer.set("layout", "chw" if planar else "hwc")
    with opened(name, pool, **{OPTION[name]: TEXT}) as unit:
        np.testing.assert_array_equal(unit.one(buffer).array, apply(name, data, 0 if planar else 2))


@pytest.mark.parametrize("name", OPTION)
def test_an_image_keeps_its_meta(pool: Pool, name: str) -> None:
    with opened(name, pool, **{OPTION[name]: TEXT}) as unit:
        answer = unit.one(image_buffer(sample((9, 11, 3), np.uint8), "rgb", frame=5, time=0.5))
    expected = image_meta(9, 11, 3, "rgb", 4) | {"type": ModelBoxDataType.FLOAT, "frame": 5, "time": 0.5}
    assert answer.meta == expected


def test_one_after_the_other_is_the_usual_normalisation(pool: Pool) -> None:
    data = sample((3, 20, 20), np.uint8)
    with (
        opened("mean", pool, mean="127.5,127.5,127.5") as mean,
        opened("normalize", pool, standard_deviation_inverse="0.5,0.25,2") as normalize,
    ):
        answer = normalize.one(mean.one(Buffer(CPU, data)).buffer)
    expected = (data.astype(np.float32) - 127.5) * np.array([0.5, 0.25, 2], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(answer.array, expected)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"shape": None}, ("'shape'",)),
        ({"type": None}, ("'type'",)),
        ({"type": ModelBoxDataType.INT16}, ("UINT8 or FLOAT",)),
        ({"type": ModelBoxDataType.FLOAT}, ("shape",)),
        ({"shape": [3, 4, 6]}, ("shape",)),
        ({"shape": [3, 4, 4]}, ("shape",)),
        ({"shape": [60]}, ("3 channels",)),
        ({"shape": [1, 4, 15]}, ("3 channels",)),
        ({"shape": [3, 20]}, ("3 channels",)),
        ({"shape": [3, 4, 5], "layout": "hwc"}, ("3 channels",)),
        ({"shape": [4, 5, 3], "layout": "chw"}, ("3 channels",)),
        ({"shape": [-3, -4, 5]}, ("shape",)),
        ({"shape": [3, 0, 5]}, ("shape",)),
        ({"shape": [2**31, 2**31, 2**31, 3]}, ("shape",)),
        ({"shape": "3,4,5"}, ("'shape'",)),
    ],
)
@pytest.mark.parametrize("name", OPTION)
def test_wrong_meta(pool: Pool, name: str, meta: dict[str, object], words: tuple[str, ...]) -> None:
    good = Buffer(CPU, sample((3, 4, 5), np.uint8))
    wrong = with_meta(good, {"shape": [3, 4, 5], "type": ModelBoxDataType.UINT8} | meta)
    with opened(name, pool, **{OPTION[name]: TEXT}) as unit:
        first, second = unit.run(wrong, good)
    code, message = first.error
    assert code == f"{name.capitalize()}.InvalidInput"
    assert all(word in message for word in words), message
    assert second.array.shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("missing",)),
        ("1,2", ('"1,2"', "3 finite numbers")),
        ("1,2,3,4", ('"1,2,3,4"', "3 finite numbers")),
        ("", ("3 finite numbers",)),
        ("1,2,three", ("three", "3 finite numbers")),
        ("1,2,inf", ("inf", "3 finite numbers")),
        ("1;2;3", ("1;2;3", "3 finite numbers")),
    ],
)
@pytest.mark.parametrize("name", OPTION)
def test_bad_options(pool: Pool, name: str, text: str | None, words: tuple[str, ...]) -> None:
    with pytest.raises(ModelBoxError) as caught:
        Unit(library_of(name), {} if text is None else {OPTION[name]: text}, pool)
    assert OPTION[name] in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
