"""The inference protocol's two encodings: what comes back is what went in, and what is wrong is said, whatever it is."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tritonclient.grpc import model_config_pb2, service_pb2

from modelbox._core.memory import Pool
from modelbox.buffer import BufferList
from modelboxd.graph.tensors import DATATYPES
from modelboxd.inference import json_codec, wire
from modelboxd.inference.errors import InferenceError, ModelStateError
from modelboxd.inference.model import NUMPY, Model, Port
from modelboxd.inference.pack import pack, unpack
from modelboxd.inference.proto import FILE, Reader, messages
from modelboxd.inference.request import Given, Request, Tensor
from modelboxd.tasks.model import Output, TaskResultError
from modelboxd.tasks.values import output_of

WORDS = st.sampled_from([word for word in DATATYPES if word != "BYTES"])
POOL = Pool(guard_all=True)


def model(*ports: Port, max_batch: int = 0, match: bool = True) -> Model:
    """One whose outputs are its inputs."""
    job: Any = SimpleNamespace(pool=POOL, inputs=SimpleNamespace(match=match))
    sides = {port.name: port for port in ports}
    return Model("m", "1", "m", max_batch, sides, sides, job)


def through(made: Model, request: Request) -> list[Tensor]:
    """What a graph without units would answer."""
    lists = pack(made, request)
    outputs = [
        output_of(node, buffer, lambda unit: unit) for node, items in lists for buffer in BufferList.from_core(items)
    ]
    batch = request.inputs[0].shape[0] if made.max_batch else 1
    return unpack(made, request.wanted, outputs, batch)


@st.composite
def tensors(draw: st.DrawFn, finite: bool = False) -> tuple[str, np.ndarray[Any, Any]]:
    word = draw(WORDS)
    dtype = NUMPY[word]
    elements = {"allow_nan": False, "allow_infinity": False} if finite and dtype.kind == "f" else None
    return word, draw(arrays(dtype, array_shapes(max_dims=4, max_side=5), elements=elements))


def read_json(body: bytes, length: int) -> tuple[dict[str, Any], memoryview]:
    length = length or len(body)
    return json.loads(body[:length]), memoryview(body)[length:]


# ---- there and back --------------------------------------------------------------------------------------------


@given(tensors(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_binary_tensors_of_http(case: tuple[str, np.ndarray[Any, Any]], batched: bool, ask_all: bool) -> None:
    word, array = case
    made = model(Port("t", "n", word, array.shape[1:] if batched else array.shape), max_batch=8 if batched else 0)
    item = {"name": "t", "datatype": word, "shape": list(array.shape), "parameters": {"binary_data_size": array.nbytes}}
    head: dict[str, Any] = {"inputs": [item], "id": "7"}
    head |= (
        {"parameters": {"binary_data_output": True}}
        if ask_all
        else {"outputs": [{"name": "t", "parameters": {"binary_data": True}}]}
    )
    request = json_codec.read_request(head, memoryview(array.tobytes()))
    answer, tail = read_json(*json_codec.write_answer(made, request, through(made, request)))
    assert (answer["id"], answer["outputs"][0]["shape"]) == ("7", list(array.shape))
    assert answer["outputs"][0]["parameters"]["binary_data_size"] == len(tail)
    assert bytes(tail) == array.tobytes()


@given(tensors(finite=True), st.booleans(), st.booleans())
@settings(deadline=None)
def test_json_tensors(case: tuple[str, np.ndarray[Any, Any]], batched: bool, nested: bool) -> None:
    word, array = case
    made = model(Port("t", "n", word, array.shape[1:] if batched else array.shape), max_batch=8 if batched else 0)
    data = array.tolist() if nested else array.reshape(-1).tolist()
    head = json.loads(
        json.dumps({"inputs": [{"name": "t", "datatype": word, "shape": list(array.shape), "data": data}]})
    )
    request = json_codec.read_request(head, memoryview(b""))
    answer, tail = read_json(*json_codec.write_answer(made, request, through(made, request)))
    got = np.array(answer["outputs"][0]["data"], array.dtype).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_array_equal(got, array)
    assert not tail


@given(tensors(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_grpc_tensors(case: tuple[str, np.ndarray[Any, Any]], batched: bool, raw: bool) -> None:
    """Against the classes that Triton's client generated from its own files."""
    word, array = case
    raw = raw or word == "FP16"
    made = model(Port("t", "n", word, array.shape[1:] if batched else array.shape), max_batch=8 if batched else 0)
    theirs = service_pb2.ModelInferRequest(model_name="m", id="7")
    item = theirs.inputs.add(name="t", datatype=word, shape=array.shape)
    if raw:
        theirs.raw_input_contents.append(array.tobytes())
    else:
        getattr(item.contents, wire._CONTENTS[word]).extend(array.reshape(-1).tolist())
    request = wire.read_request(*wire.split(theirs.SerializeToString(), 1 << 20))
    data = b"".join(wire.write_answer(made, request, through(made, request), final=True))
    answer = service_pb2.ModelInferResponse.FromString(data)
    assert (answer.id, answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("7", word, list(array.shape))
    got = np.frombuffer(answer.raw_output_contents[0], array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(got, array)
    streamed = service_pb2.ModelStreamInferResponse.FromString(b"".join(wire.in_stream([data])))
    assert streamed.infer_response == answer


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=9),
    st.sampled_from(["raw", "typed", "binary"]),
    st.booleans(),
)
@settings(deadline=None)
def test_bytes(items: list[bytes], form: str, batched: bool) -> None:
    made = model(Port("t", "n", "BYTES", (1,) if batched else (-1,)), max_batch=9 if batched else 0)
    shape = [len(items), 1] if batched else [len(items)]
    packed = b"".join(struct.pack("<I", len(item)) + item for item in items)
    if form == "binary":
        item = {"name": "t", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(packed)}}
        head = {"inputs": [item], "parameters": {"binary_data_output": True}}
        request = json_codec.read_request(head, memoryview(packed))
        answer, tail = read_json(*json_codec.write_answer(made, request, through(made, request)))
        assert (answer["outputs"][0]["shape"], bytes(tail)) == (shape, packed)
        return
    theirs = service_pb2.ModelInferRequest()
    given_ = theirs.inputs.add(name="t", datatype="BYTES", shape=shape)
    if form == "raw":
        theirs.raw_input_contents.append(packed)
    else:
        given_.contents.bytes_contents.extend(items)
    request = wire.read_request(*wire.split(theirs.SerializeToString(), 1 << 20))
    got = service_pb2.ModelInferResponse.FromString(b"".join(wire.write_answer(made, request, through(made, request))))
    assert (list(got.outputs[0].shape), got.raw_output_contents[0]) == (shape, packed)


# ---- the .proto file ---------------------------------------------------------------------------------------------


def test_names_and_numbers_are_those_of_the_protocol() -> None:
    theirs = {}
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        theirs |= {item.name: item for item in (*file.message_type, *file.enum_type)}
        methods = {item.name: item for service in file.service for item in service.method}
        if methods:
            their_methods = methods
    read = Reader(FILE.read_text(), FILE.name).read()

    def compare(mine: Any, other: Any) -> None:
        fields = {field.name: field for field in other.field}
        for field in mine.field:
            same = fields[field.name]
            assert (field.number, field.type, field.label, field.type_name) == (
                same.number, same.type, same.label, same.type_name,
            ), field.name  # fmt: skip
            assert field.HasField("oneof_index") == same.HasField("oneof_index")
        nested = {item.name: item for item in other.nested_type}
        for item in mine.nested_type:
            assert item.options.map_entry == nested[item.name].options.map_entry
            compare(item, nested[item.name])

    assert len(read.file.message_type) > 30
    for item in read.file.message_type:
        compare(item, theirs[item.name])
    for item in read.file.enum_type:
        assert [(value.name, value.number) for value in item.value] == [
            (value.name, value.number) for value in theirs[item.name].value
        ]
    for name, (request, answer, streams, answers) in messages().methods.items():
        other = their_methods[name]
        assert (f".inference.{request}", f".inference.{answer}", streams, answers) == (
            other.input_type, other.output_type, other.client_streaming, other.server_streaming,
        )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["message A { Nope x = 1; }", "message A { string x = ; }", "import 'x';", "message A"]
)
def test_what_the_reader_does_not_know(text: str) -> None:
    with pytest.raises(ValueError):
        Reader(f'syntax = "proto3"; package p; {text}', "x.proto").read()


# ---- what is wrong ---------------------------------------------------------------------------------------------


def wrong_input(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}


FINE = wrong_input()
WRONG: list[tuple[Any, str]] = [
    ([], "the request must be an object"),
    ({}, "inputs must be a list"),
    ({"inputs": {}}, "inputs must be a list"),
    ({"inputs": []}, "input 'x' of model 'm' is missing"),
    ({"inputs": [1]}, "an input must be an object"),
    ({"inputs": [{}]}, "each input needs a name"),
    ({"inputs": [FINE, FINE]}, "input 'x' stands twice"),
    ({"inputs": [FINE, wrong_input(name="y" * 9999)]}, "model 'm' has no input 'yyy"),
    ({"inputs": [FINE] * 5000}, "at most 1024 tensors"),
    ({"inputs": [FINE], "outputs": [{"name": "z"}]}, "model 'm' has no output 'z'; its outputs: x"),
    ({"inputs": [FINE], "outputs": [{"name": "x"}] * 2}, "output 'x' is asked for twice"),
    ({"inputs": [FINE], "outputs": ["x"]}, "an output must be an object"),
    ({"inputs": [FINE], "outputs": [{"name": "x", "parameters": {"classification": 3}}]}, "classification extension"),
    ({"inputs": [FINE], "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, "must be true or false"),
    ({"inputs": [FINE], "outputs": [{"name": "x", "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
    ({"inputs": [FINE], "id": 5}, "id must be a text"),
    ({"inputs": [FINE], "id": "x" * 2000}, "id must be a text"),
    ({"inputs": [FINE], "parameters": []}, "parameters must be an object"),
    ({"inputs": [FINE], "parameters": {"sequence_id": 3}}, "sequences are not supported"),
    ({"inputs": [FINE], "parameters": {"priority": 11}}, "priority must be"),
    ({"inputs": [FINE], "parameters": {"timeout": -1}}, "timeout must be"),
    ({"inputs": [FINE], "parameters": {"timeout": 1e400}}, "timeout must be"),
    ({"inputs": [wrong_input(datatype="INT32")]}, "the model takes FP32, not 'INT32'"),
    ({"inputs": [wrong_input(datatype="BF16")]}, "the model takes FP32, not 'BF16'"),
    ({"inputs": [wrong_input(datatype=5)]}, "each input needs a name and a datatype"),
    ({"inputs": [wrong_input(shape=[2])]}, r"the model takes shape \[-1, -1\] \(-1: any size\), not \[2\]"),
    ({"inputs": [wrong_input(shape=None)]}, "shape must be a list"),
    ({"inputs": [wrong_input(shape=[1, -2])]}, "whole numbers from 1 on"),
    ({"inputs": [wrong_input(shape=[0, 2])]}, "whole numbers from 1 on"),
    ({"inputs": [wrong_input(shape=[1, True])]}, "whole numbers from 1 on"),
    ({"inputs": [wrong_input(shape=[1, 2.0])]}, "whole numbers from 1 on"),
    ({"inputs": [wrong_input(shape=[1] * 33)]}, "at most 32"),
    ({"inputs": [wrong_input(shape=[1, 1 << 62])]}, "whole numbers from 1 on"),
    ({"inputs": [wrong_input(shape=[4, 1 << 39])]}, r"has 2199023255552 elements, 2 came"),
    ({"inputs": [wrong_input(shape=[5, 2])]}, "a batch of 5; the model takes 4 at most"),
    ({"inputs": [wrong_input(data=[1])]}, r"shape \[1, 2\] has 2 elements, 1 came"),
    ({"inputs": [wrong_input(data=5)]}, "needs data, a list"),
    ({"inputs": [wrong_input(data=[[1], [2]])]}, r"data are lists of shape \[2, 1\], shape says \[1, 2\]"),
    ({"inputs": [wrong_input(data=[[1, 2], [3]])]}, "not equally long"),
    ({"inputs": [wrong_input(data=[1, "x"])]}, "must be numbers"),
    ({"inputs": [wrong_input(data=[1, [2]])]}, "must be numbers"),
    ({"inputs": [wrong_input(data=[1, None])]}, "must be numbers"),
    ({"inputs": [wrong_input(data=[1, True])]}, "must be numbers"),
    ({"inputs": [wrong_input(data=[1, 1e39])]}, "has a number that is too large"),
    ({"inputs": [wrong_input(data=[1, 10**400])]}, "has a number that is too large"),
    ({"inputs": [wrong_input(parameters={"binary_data_size": 8})]}, "has both data and binary_data_size"),
    ({"inputs": [wrong_input(parameters={"shared_memory_region": "r"})]}, "shared memory of clients is not accepted"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "text"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_wrong_json(head: Any, text: str) -> None:
    made = model(Port("x", "x", "FP32", (-1,)), max_batch=4)
    with pytest.raises(InferenceError, match=text):
        pack(made, json_codec.read_request(head, memoryview(b"")))


@pytest.mark.parametrize(
    ("word", "shape", "raw", "text"),
    [
        ("FP32", [1, 2], b"\0" * 7, r"FP32 of shape \[1, 2\] has 8 bytes, 7 came"),
        ("FP32", [1, 2], b"\0" * 9, "8 bytes, 9 came"),
        ("FP32", [4, 1 << 39], b"\0" * 8, "has 8796093022208 bytes, 8 came"),
        ("BOOL", [1, 2], b"\1\2", "BOOL has bytes other than 0 and 1"),
        (
            "BYTES",
            [2, 1],
            struct.pack("<I", 1) + b"x" + struct.pack("<I", 1 << 31) + b"x",
            "element 1 of 2 goes beyond",
        ),
        ("BYTES", [1, 1], b"\1\0\0", "element 0 of 1 goes beyond"),
        ("BYTES", [1, 1], struct.pack("<I", 0) + b"x", "1 bytes are left behind its 1 elements"),
    ],
)
@pytest.mark.parametrize("form", ["http", "grpc"])
def test_wrong_bytes(word: str, shape: list[int], raw: bytes, text: str, form: str) -> None:
    made = model(Port("x", "x", word, (1,) if word == "BYTES" else (-1,)), max_batch=4)
    if form == "http":
        item = {"name": "x", "datatype": word, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        request = json_codec.read_request({"inputs": [item]}, memoryview(raw))
    else:
        theirs = service_pb2.ModelInferRequest(raw_input_contents=[raw])
        theirs.inputs.add(name="x", datatype=word, shape=shape)
        request = wire.read_request(*wire.split(theirs.SerializeToString(), 1 << 20))
    with pytest.raises(InferenceError, match=text):
        pack(made, request)


@pytest.mark.parametrize("size", [-1, 9, 1.5, "8", True, 1 << 70])
def test_wrong_sizes_behind_the_json(size: Any) -> None:
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    with pytest.raises(InferenceError, match="binary_data_size must be from 0 to 8"):
        json_codec.read_request({"inputs": [item]}, memoryview(b"\0" * 8))
    item["parameters"] = {"binary_data_size": 4}
    with pytest.raises(InferenceError, match="4 bytes behind the JSON belong to no input"):
        json_codec.read_request({"inputs": [item]}, memoryview(b"\0" * 8))


def test_inputs_need_the_same_batch() -> None:
    made = model(Port("x", "x", "UINT8", ()), Port("y", "y", "UINT8", ()), max_batch=4)
    given_ = [Given("x", "UINT8", [2], raw=b"ab"), Given("y", "UINT8", [3], raw=b"abc")]
    with pytest.raises(InferenceError, match="input 'y' has a batch of 3, input 'x' 2"):
        pack(made, Request(given_))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_any_bytes_as_a_message(data: bytes) -> None:
    """Protobuf and the scanner agree on what is a message, but for groups, which nobody uses."""
    with suppress(InferenceError):  # nothing else
        message, raw = wire.split(data, 1 << 20)
        wire.read_request(message, raw)


@given(st.binary(min_size=1, max_size=20), st.integers(0, 300))
@settings(deadline=None, max_examples=300)
def test_a_message_that_was_damaged(noise: bytes, at: int) -> None:
    theirs = service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abcdefgh", b"ijk"])
    theirs.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    theirs.inputs.add(name="y", datatype="UINT8", shape=[3])
    data = bytearray(theirs.SerializeToString())
    data[at % len(data) : at % len(data) + len(noise)] = noise
    made = model(Port("x", "x", "FP32", (-1,)), Port("y", "y", "UINT8", ()), max_batch=4)
    with suppress(InferenceError):  # nothing else
        pack(made, wire.read_request(*wire.split(bytes(data), 1 << 20)))


def test_messages_that_would_fill_the_memory() -> None:
    with pytest.raises(InferenceError, match="more than 4096 fields"):
        wire.split(b"\x2a\x00" * 100_000, 1 << 20)  # empty inputs, two bytes each
    with pytest.raises(InferenceError, match="larger than 1024 bytes"):
        wire.split(b"\x0a\x90\x4e" + b"x" * 10_000, 1024)
    many = service_pb2.ModelInferRequest()
    many.inputs.add(name="x", datatype="BYTES", shape=[100_000, 1]).contents.bytes_contents.extend([b""] * 100_000)
    made = model(Port("x", "x", "BYTES", (-1,)))
    request = wire.read_request(*wire.split(many.SerializeToString(), 1 << 20))
    request.inputs[0].shape = [100_000]
    with pytest.raises(InferenceError, match="more than 16384 elements of BYTES"):
        pack(made, request)


# ---- results that are not what was declared --------------------------------------------------------------------


def test_results_that_do_not_fit() -> None:
    from modelbox.dtypes import ModelBoxDataType as Kind

    port = Port("y", "y", "FP32", (2,))
    good = Output("y", b"\0" * 8, False, {"shape": [2], "type": Kind.FLOAT})
    batched, single = model(port, max_batch=4), model(port)
    assert unpack(batched, [], [good, good], 2)[0].shape == [2, 2]
    assert unpack(single, [], [Output("y", b"\0" * 8, False, {"shape": [1, 2], "type": Kind.FLOAT})], 1)[0].shape == [2]
    for made, outputs, batch, text in (
        (batched, [good], 2, "the graph gave 1 values for 2"),
        (single, [], 1, "the graph gave 0 values for 1"),
        (single, [Output("y", b"\0" * 8, False, {"shape": [2], "type": Kind.INT32})], 1, "the graph gave INT32"),
        (single, [Output("y", b"\0" * 12, False, {"shape": [3], "type": Kind.FLOAT})], 1, r"the graph gave shape \[3\]"),
        (single, [Output("y", b"\0" * 12, False, {"shape": [1 << 62]})], 1, "12 bytes for shape"),
    ):  # fmt: skip
        with pytest.raises(ModelStateError, match=text):
            unpack(made, [], outputs, batch)
    with pytest.raises(TaskResultError, match="no good"):
        unpack(single, [], [Output("y", b"", False, {}, ("u.ProcessError", "no good", "n"))], 1)


def test_what_json_cannot_hold() -> None:
    made = model(Port("y", "y", "FP32", (1,)))
    with pytest.raises(InferenceError, match="infinity or NaN"):
        json_codec.write_answer(made, Request([]), [Tensor("y", "FP32", [1], [np.float32("nan").tobytes()])])
    with pytest.raises(InferenceError, match="not UTF-8"):
        json_codec.write_answer(made, Request([]), [Tensor("y", "BYTES", [1], [b"\xff"])])
