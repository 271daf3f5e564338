"""What clients send becomes buffers, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbox._core.memory import Pool
from modelbox.buffer import STRING, Buffer, BufferList
from modelboxd.tasks.model import Output, TaskInputError
from modelboxd.tasks.values import DTYPES, Value, from_bytes, from_json, output_of, to_core, to_json


def one(value: Any) -> Value:
    (made,) = from_json({"in": value})["in"]
    return made


def through(value: Value) -> Buffer:
    """The value as a unit sees it."""
    (buffer,) = BufferList.from_core(to_core(Pool(guard_all=True), [value]))
    return buffer


def back(value: Any) -> dict[str, Any]:
    return to_json(output_of("out", through(one(value)), lambda _: ""))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("grüße", {"text": "grüße"}),
        ("", {"text": ""}),
        ({"text": "a", "meta": {"k": 1, "l": [1, 2]}}, {"text": "a", "meta": {"k": 1, "l": [1, 2]}}),
        ({"json": {"a": [1, None]}}, {"text": '{"a": [1, null]}'}),
        (7, {"data": [7], "dtype": "int64", "shape": [1]}),
        (True, {"data": [True], "dtype": "bool", "shape": [1]}),
        ([[1, 2.5]], {"data": [[1.0, 2.5]], "dtype": "float64", "shape": [1, 2]}),
        ([], {"data": [], "dtype": "float64", "shape": [0]}),
        ({"data": [1, 2, 3, 4], "dtype": "float32", "shape": [2, 2]},
         {"data": [[1.0, 2.0], [3.0, 4.0]], "dtype": "float32", "shape": [2, 2]}),
        ({"data": [1, 255], "dtype": "uint8"}, {"base64": "Af8=", "dtype": "uint8", "shape": [2]}),
        ({"base64": "AAECAw=="}, {"base64": "AAECAw=="}),
        ({"base64": "AACAfw==", "dtype": "float32"}, {"base64": "AACAfw==", "dtype": "float32", "shape": [1]}),
    ],
)  # fmt: skip
def test_values_and_back(value: Any, said: dict[str, Any]) -> None:
    assert back(value) == said
    json.dumps(said, allow_nan=False)


def test_many_values_of_one_node() -> None:
    assert [value.data for value in from_json({"in": {"values": ["a", {"text": "b"}]}})["in"]] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("value", "where", "text"),
    [
        (None, "/inputs/in", "must be a text"),
        ([1, "x"], "/inputs/in", "must be numbers and nothing else"),
        ([[1], [2, 3]], "/inputs/in", "equally long"),
        ([1 << 64], "/inputs/in", "must be numbers"),
        ([1e999], "/inputs/in", "too large"),
        ({"data": [1.5], "dtype": "int32"}, "/inputs/in", "fraction"),
        ({"data": [300], "dtype": "uint8"}, "/inputs/in", "outside 0 to 255"),
        ({"data": [1e300], "dtype": "float32"}, "/inputs/in", "too large for float32"),
        ({"data": [1], "dtype": "float128"}, "/inputs/in/dtype", "must be one of"),
        ({"data": [1], "dtype": ["int8"]}, "/inputs/in/dtype", "must be one of"),
        ({"data": [1, 2], "shape": [3]}, "/inputs/in", "2 elements, shape [3] needs 3"),
        ({"data": [1], "shape": [-1]}, "/inputs/in/shape", "whole numbers"),
        ({"base64": "!!"}, "/inputs/in/base64", "is not base64"),
        ({"base64": "AAA=", "dtype": "int32"}, "/inputs/in", "no whole number of int32"),
        ({"text": "a", "data": [1]}, "/inputs/in", "must have one of"),
        ({"name": "Ada"}, "/inputs/in", "a JSON document goes into json"),
        ({"text": "a", "shape": [1]}, "/inputs/in/shape", "is not known beside text"),
        ({"values": "a"}, "/inputs/in", "alone"),
        ({"values": ["a", None]}, "/inputs/in/values/1", "must be a text"),
        ({"text": "a", "meta": {"": 1}}, "/inputs/in/meta", "cannot be sent"),
        ({"text": "a", "meta": {str(number): 1 for number in range(65)}}, "/inputs/in/meta", "at most 64"),
        ({"text": "\ud800"}, "/inputs/in", "surrogate"),
    ],
)
def test_what_is_wrong_is_told(value: Any, where: str, text: str) -> None:
    with pytest.raises(TaskInputError) as caught:
        one(value)
    ((place, told),) = caught.value.problems
    assert place == where
    assert text in told


def test_deep_lists_are_refused() -> None:
    value: Any = 1
    for _ in range(500):
        value = [value]
    with pytest.raises(TaskInputError, match="deep"):
        one(value)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(TaskInputError) as caught:
        from_json({"a": None, "b/c": None})
    assert [place for place, _ in caught.value.problems] == ["/inputs/a", "/inputs/b~1c"]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["text", "json", "base64", "data", "dtype", "shape", "meta", "values", "x"]), inner, max_size=4
    ),
    max_leaves=12,
))  # fmt: skip
def test_any_json_is_a_value_or_an_error(value: Any) -> None:
    try:
        values = from_json({"in": value})["in"]
    except TaskInputError:
        return
    for made in values:
        json.dumps(to_json(output_of("out", through(made), lambda _: "")), allow_nan=False)


@pytest.mark.parametrize("name", DTYPES)
def test_bytes_with_each_type(name: str) -> None:
    array = np.array([[1, 0, 1], [0, 1, 1]], np.dtype(name))
    value = from_bytes(array.tobytes(), "application/octet-stream", name, "2,3", "body")
    assert (through(value).numpy() == array).all()
    assert through(value).numpy().dtype == array.dtype


@pytest.mark.parametrize(
    ("media", "data", "kind"),
    [("text/plain", b"a", STRING), ("", b"a", STRING), ("application/x-www-form-urlencoded", b"a", STRING),
     ("", b"\xff", 0), ("image/jpeg", b"a", 0), ("application/json", b"{}", STRING)],
)  # fmt: skip
def test_kinds_of_bodies(media: str, data: bytes, kind: int) -> None:
    assert from_bytes(data, media, "", "", "body").kind == kind


@pytest.mark.parametrize(
    ("media", "dtype", "shape", "text"),
    [("text/plain", "", "", "not UTF-8"), ("", "int32", "", "no whole number"), ("", "x", "", "must be one of"),
     ("", "uint8", "4", "needs 4"), ("", "", "1,,3", "such as 1,3,224,224"), ("", "", "-3", "such as")],
)  # fmt: skip
def test_bodies_that_do_not_fit(media: str, dtype: str, shape: str, text: str) -> None:
    with pytest.raises(TaskInputError, match=text):
        from_bytes(b"\xff\xff\xff", media, dtype, shape, "body")


def test_errors_name_the_node() -> None:
    buffer = Buffer(None, "x")
    buffer.set_error("resize.ProcessError", "too small")
    output = output_of("out", buffer, {"resize": "small"}.__getitem__)
    assert to_json(output) == {"error": {"code": "resize.ProcessError", "detail": "too small", "node": "small"}}


def test_meta_that_lies_about_the_data() -> None:
    output = Output("out", b"abc", False, {"type": DTYPES["float32"], "shape": [7]})
    assert to_json(output) == {"base64": "YWJj"}


def test_large_tensors_are_base64() -> None:
    assert set(to_json(Output("out", bytes(8 << 17), False, {"type": DTYPES["int64"], "shape": [1 << 17]}))) == {
        "base64",
        "dtype",
        "shape",
    }
