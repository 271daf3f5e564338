"""The classes that flow units use: the documented behaviour of ModelBox's Python API."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modelbox
from modelbox import Buffer, BufferList, Configuration, Device, ModelBoxDataType, Status, StatusCode, meta
from modelbox._core import ffi, lib
from modelbox._core.memory import Pool
from modelbox.context import DataContext, DataMeta, StreamState

DEVICE = Device("cpu", "0")


def sent(buffer: Buffer, pool: Pool) -> Buffer:
    """The buffer as the next unit gets it."""
    core = buffer.to_core(pool)
    lib.mb_buffer_seal(core)
    return Buffer.from_core(lib.mb_buffer_ref(core))


@pytest.fixture
def pool() -> Pool:
    return Pool(guard_all=True)


def test_status() -> None:
    assert Status()
    assert Status() == StatusCode.STATUS_SUCCESS
    assert Status(False) == Status.StatusCode.STATUS_FAULT
    assert (Status(False) == False) is True  # noqa: E712
    bad = Status(StatusCode.STATUS_NOTFOUND, "no file")
    assert str(bad) == "code: Not found, errmsg: no file"
    outer = Status(bad, "cannot open")
    assert outer.wrap_errormsgs() == "Not found, cannot open -> no file"
    assert outer.unwrap().errormsg() == "no file"
    assert bad != Status()
    assert Status.STATUS_INVALID == 3  # type: ignore[attr-defined]


def test_lists_of_texts_with_commas() -> None:
    config = Configuration({"l": ["a, b", "c"], "plain": "a, b"})
    assert config.get_string_list("l") == ["a, b", "c"]
    assert (config.get_string("l"), config.get_int("l", 7), config.get_string_list("plain")) == (
        "a, b,c",
        7,
        ["a", "b"],
    )
    config.set("l", ["1,5", "2"])
    assert (config.get_string_list("l"), config.get_float_list("l", [0.5])) == (["1,5", "2"], [0.5])


def test_configuration() -> None:
    config = Configuration({"n": "5", "f": 0.5, "b": "true", "l": [1, 2], "s": "x"})
    assert (config.get_int("n"), config.get_float("f"), config.get_bool("b")) == (5, 0.5, True)
    assert config.get_int_list("l") == [1, 2]
    assert config.get_int_list("n") == [5]
    assert config.get_int("s", 7) == 7
    assert config.get_string("none", "d") == "d"
    config.set("new", [1.5, 2.5])
    assert config.get_float_list("new") == [1.5, 2.5]


def test_text_and_bytes(pool: Pool) -> None:
    text = sent(Buffer(DEVICE, "grüß"), pool)
    assert text.as_object() == "grüß"
    assert str(text) == "grüß"
    raw = sent(Buffer(DEVICE, b"ab\0"), pool)
    assert raw.as_object().tolist() == [97, 98, 0]
    assert raw.get("shape") == [3]
    assert raw.get("type") == ModelBoxDataType.UINT8
    built = Buffer(DEVICE)
    built.build(b"{}")
    assert json.loads(sent(built, pool).as_object()) == {}


@pytest.mark.parametrize("dtype", ["u1", "i1", "?", "i2", "u2", "i4", "u4", "i8", "f4", "f8", "f2", "u8"])
def test_arrays(pool: Pool, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    got = sent(Buffer(DEVICE, array), pool)
    assert got.get("shape") == [2, 3, 4]
    for view in (np.array(got, copy=False), got.numpy(), np.asarray(memoryview(got))):
        assert view.dtype == array.dtype
        assert np.array_equal(view, array)
    assert got.as_object().shape == (24,)
    assert got.get_bytes() == array.nbytes


def test_array_corner_cases(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="can not accept empty numpy"):
        Buffer(DEVICE, np.array(5))
    with pytest.raises(RuntimeError, match="invalid numpy data type: complex64"):
        Buffer(DEVICE, np.zeros(3, np.complex64))
    assert sent(Buffer(DEVICE, np.zeros((0, 4), np.float32)), pool).get_bytes() == 0
    turned = np.arange(6).reshape(2, 3).T
    assert np.array_equal(sent(Buffer(DEVICE, turned), pool).numpy(), turned)
    several = sent(Buffer(DEVICE, [np.ones(2, np.float32), np.zeros((1, 3), np.float32)]), pool)
    assert several.get("shape") == [[2], [1, 3]]
    assert several.as_object().tolist() == [1, 1, 0, 0, 0]
    swapped = np.arange(3, dtype=">i4")
    assert sent(Buffer(DEVICE, swapped), pool).numpy().tolist() == [0, 1, 2]


def test_the_array_is_shared_until_it_is_sent(pool: Pool) -> None:
    array = np.zeros(3, np.uint8)
    buffer = Buffer(DEVICE, array)
    array[0] = 9
    assert sent(buffer, pool).numpy().tolist() == [9, 0, 0]


def test_writing_into_a_received_buffer_stays_there(pool: Pool) -> None:
    first = sent(Buffer(DEVICE, np.zeros(4, np.uint8)), pool)
    twin = Buffer.from_core(lib.mb_buffer_ref(first.to_core(pool)))
    np.array(first, copy=False)[0] = 7
    assert twin.numpy().tolist() == [0, 0, 0, 0]
    assert sent(first, pool).numpy().tolist() == [7, 0, 0, 0]


def test_meta(pool: Pool) -> None:
    buffer = Buffer(DEVICE, "x")
    values = {
        "f": 1.5, "t": "text", "b": True, "i": -3, "lf": [1.0, 2.0], "ls": ["a", ""], "lb": [True, False], "li": [1, 2],
        "nested": [[1, 2], [3]], "mixed": [1, "a"], "dict": {"k": (1, None)}, "type": ModelBoxDataType.INT16, "empty": [],
        "big": 1 << 70, "nul": "a\0b", "np": np.int64(4),
    }  # fmt: skip
    for key, value in values.items():
        buffer.set(key, value)
    buffer.set("array", np.arange(3))
    got = sent(buffer, pool)
    for key, value in values.items():
        assert got.get(key) == value, key
        assert type(got.get(key)) is (int if key == "np" else type(value))
    assert got.get("array").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="can not find buffer meta: none"):
        got.get("none")
    other = Buffer(DEVICE, np.zeros(2, np.uint8))
    other.copy_meta(got)
    assert other.get("shape") == [2]  # own keys survive
    assert other.get("type") == ModelBoxDataType.UINT8
    assert other.get("t") == "text"


def test_objects_of_own_classes_stay_closed_in_the_daemon(pool: Pool) -> None:
    buffer = Buffer(DEVICE, "x")
    buffer.set("own", {1, 2})
    got = sent(buffer, pool)
    assert isinstance(got.get("own"), meta.Opaque)
    assert meta.unpack_object(got.get("own").data, allow_pickle=True) == {1, 2}
    got.set("more", 1)
    assert sent(got, pool).get("own").data == got.get("own").data


def test_errors(pool: Pool) -> None:
    buffer = Buffer(DEVICE, "x")
    buffer.set("keep", 1)
    buffer.set_error("Unit.Bad", "why")
    got = sent(buffer, pool)
    assert (got.has_error(), got.get_error_code(), got.get_error_msg(), got.get_bytes()) == (True, "Unit.Bad", "why", 0)


def test_push_back_of_nothing() -> None:
    items = BufferList(DEVICE)
    with pytest.raises(TypeError, match=r"push_back\(\) got None, expected a buffer, an array or text"):
        items.push_back(None)
    assert items.size() == 0


def test_buffer_list() -> None:
    items = BufferList(DEVICE)
    items.push_back("text")
    items.push_back(np.zeros(3, np.float32))
    again = Buffer(DEVICE, "y")
    items.push_back(again)
    again.set("later", 1)
    assert items.size() == len(items) == 3
    assert items[2].keys() == []  # a copy was pushed
    assert items[5] is None
    with pytest.raises(TypeError):
        items[-1]
    assert BufferList().front() is None
    assert items.get_bytes() == 4 + 12 + 1
    items.build([4, 8])
    np.array(items[1], copy=False)[:] = 5
    assert [b.get_bytes() for b in items] == [4, 8]
    assert items[1].as_bytes() == b"\5" * 8
    items.set_error("A.B", "c")
    assert all(b.has_error() for b in items)


def test_data_context() -> None:
    context = DataContext({"in": BufferList()}, {"out": BufferList()}, StreamState(), {}, (1, "id"))
    assert context.input("none") is None
    assert context.get_private("none") is None
    with pytest.raises(RuntimeError, match=r"invalid key\."):
        context.get_private_int("none")
    context.set_private("x", [1])
    assert context.get_private("x") == [1]
    session = context.get_session_context()
    session.set_private_string("who", "me")
    assert context.get_session_context().get_private("who") == "me"
    assert session.get_session_id() == "id"
    with pytest.raises(ValueError):
        session.get_private("none")
    assert context.set_output_meta("out", DataMeta())
    assert not context.set_output_meta("none", DataMeta())
    assert context.send_event(modelbox.FlowUnitEvent())  # does nothing where the unit has no events
    assert not context._stream.events
    stream = StreamState(has_events=True)
    context = DataContext({"in": BufferList()}, {"out": BufferList()}, stream, {}, (1, "id"))
    assert context.send_event(modelbox.FlowUnitEvent())
    assert len(stream.events) == 1
    stream.events.extend([modelbox.FlowUnitEvent()] * 8191)
    assert context.send_event(modelbox.FlowUnitEvent()) == modelbox.Status.StatusCode.STATUS_NOBUFS


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=20,
)  # fmt: skip
keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(keys, plain, max_size=6))
def test_every_plain_meta_round_trips_and_the_core_accepts_it(values: dict[str, object]) -> None:
    block = meta.encode(values)
    assert meta.decode(block) == values
    assert lib.mb_meta_check(ffi.from_buffer(block) if block else ffi.NULL, len(block)) == 0


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=60))
def test_damaged_objects_are_value_errors(data: bytes) -> None:
    try:
        meta.unpack_object(data)
    except ValueError:
        return
