"""What strangers may try on the inference protocol, over both doors: a clear error each time, and the server goes on."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from modelboxd.api.tokens import new_token, write_token
from tests.integration.inference import linear
from tests.integration.models import write_linear
from tests.integration.server import LIMIT_S, TOP, Server, with_api
from tests.unit.http.test_listener import certificate

CONFIG = '[server]\nport = 0\nmax_body = "1MB"\n[inference]\ngrpc = true\ngrpc_port = 0\n[tasks]\nmax_json = "256KB"\n'
PATH = "/v2/models/linear/infer"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacks")
    made = Server(write_linear(folder), config=CONFIG, folder=folder).ready()
    yield made
    assert made.stop() == 0
    assert not [line for line in made.lines if "Traceback" in line or "internal error" in line]


def grpc_address(server: Server) -> str:
    return "127.0.0.1:" + server.wait_for("gRPC listens on").rpartition(":")[2]


def post(server: Server, body: bytes, headers: dict[str, str] | None = None, path: str = PATH) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.api, timeout=LIMIT_S)
    try:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def good() -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
            {"name": "b", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
        ]
    }


def lives(server: Server) -> None:
    status, answer = post(server, json.dumps(good()).encode())
    assert (status, answer["outputs"][0]["data"]) == (200, [60.0, 70.0, 80.0])


LENGTH = "Inference-Header-Content-Length"


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"", {}, 400, "not JSON"),
        (b"[" * 100_000, {}, 400, "nested too deeply"),
        (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", {}, 400, "nested too deeply"),
        (b'{"inputs": [], "inputs": []}', {}, 400, "stands twice"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [NaN]}]}', {}, 400, "NaN is no JSON"),
        (b'{"inputs": []}', {LENGTH: "15"}, 400, "is 15, the body has 14 bytes"),
        (b'{"inputs": []}', {LENGTH: "99999999999999999999"}, 400, "must be one whole number"),
        (b'{"inputs": []}', {LENGTH: "-1"}, 400, "must be one whole number"),
        (b'{"inputs": []}', {LENGTH: "0"}, 400, "without JSON are not supported"),
        (b'{"inputs": []}', {LENGTH: "7"}, 400, "not JSON"),
        (b'{"inputs": []}xx', {LENGTH: "14"}, 400, "2 bytes behind the JSON belong to no input"),
        (b" " * 300_000, {}, 413, "the JSON is larger than 262144 bytes (tasks.max_json)"),
        (b" " * 1_100_000, {}, 413, "larger than 1048576 bytes"),
        (b"x", {"Content-Encoding": "br"}, 415, "only gzip and deflate are taken"),
        (b"x" * 20, {"Content-Encoding": "gzip"}, 400, "not what its Content-Encoding says"),
        (gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, 400, "cut off"),
        (gzip.compress(b"{}") + b"x", {"Content-Encoding": "gzip"}, 400, "something stands behind it"),
        (gzip.compress(b"\0" * (300 << 20)), {"Content-Encoding": "gzip"}, 413, "1048576 bytes when it is decompressed"),
        (zlib.compress(b"\0" * (300 << 20)), {"Content-Encoding": "deflate"}, 413, "1048576 bytes when it is decompressed"),
    ],
)  # fmt: skip
def test_bodies(server: Server, body: bytes, headers: dict[str, str], status: int, text: str) -> None:
    found, answer = post(server, body, headers)
    assert found == status, answer
    assert text in answer["error"]
    assert "\n" not in answer["error"]


def test_every_error_of_v2_has_the_form_of_the_protocol(server: Server) -> None:
    for method, path, status in (
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/linear/versions/2", 404),
        ("DELETE", "/v2/models/linear", 405),
        ("POST", "/v2/models/linear/versions/1/nope", 404),
        ("GET", "/v2/models/linear?x=1", 422),
        ("POST", "/v2/systemsharedmemory/region/a/register", 400),
        ("POST", "/v2/models/linear/trace/setting", 400),
    ):
        found, answer, _ = server.ask(method, path, {} if method == "POST" else None)
        assert (found, list(answer)) == (status, ["error"]), path
    assert server.ask("GET", "/v2/models/linear", headers={"Host": "evil.com"})[0] == 403


def test_damaged_requests(server: Server) -> None:
    """Bytes changed at random, in JSON and in binary form: never a 5xx."""
    noise = random.Random(7)
    head = json.dumps({
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
            {"name": "b", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
        ]
    }).encode()  # fmt: skip
    cases = [(json.dumps(good()).encode(), {}), (head + b"\0" * 16, {LENGTH: str(len(head))})]
    connection = http.client.HTTPConnection("127.0.0.1", server.api, timeout=LIMIT_S)
    seen = set()
    for number in range(600):
        body, headers = cases[number % 2]
        damaged = bytearray(body)
        for _ in range(noise.randint(1, 4)):
            damaged[noise.randrange(len(damaged))] = noise.choice(b'[]{}",:0159-.eNx\0\xff')
        connection.request("POST", PATH, bytes(damaged), headers)
        response = connection.getresponse()
        answer = response.read()
        seen.add(response.status)
        assert response.status in (200, 400), answer
    connection.close()
    assert seen == {200, 400}
    lives(server)


# ---- gRPC --------------------------------------------------------------------------------------------------------


def request_bytes() -> bytes:
    made = service_pb2.ModelInferRequest(model_name="linear", raw_input_contents=[b"\0" * 16, b"\0" * 12])
    made.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    made.inputs.add(name="b", datatype="FP32", shape=[1, 3])
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"\xff" * 100, "INVALID_ARGUMENT", "not well-formed"),
        (b"\x0a\xff\xff\xff\xff\x0f", "INVALID_ARGUMENT", "not well-formed"),
        (b"\x2a\x00" * 100_000, "INVALID_ARGUMENT", "more than 4096 fields"),
        (b"\x0a\xa0\x8d\x06" + b"x" * 100_000, "NOT_FOUND", "there is no model 'xxx"),
        (b"\x0a\x80\x80\x18" + b"x" * 393_216, "INVALID_ARGUMENT", "larger than 262144 bytes"),
        (request_bytes() + b"\x3a\x01x", "INVALID_ARGUMENT", "raw_input_contents must be there for all inputs or none"),
        (gzip.compress(b"\0" * (300 << 20)), "RESOURCE_EXHAUSTED", "1048576 bytes when it is decompressed"),
        (b"\x1f\x8b" + b"x" * 20, "INVALID_ARGUMENT", "not what its Content-Encoding says"),
        (b"x" * 1_100_000, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_messages(server: Server, data: bytes, code: str, text: str) -> None:
    with grpc.insecure_channel(grpc_address(server)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(data, timeout=LIMIT_S)
        assert (caught.value.code().name, text in caught.value.details()) == (code, True), caught.value.details()
        if "larger than max" not in text:  # the same in a stream: an answer, and the stream goes on
            answers = list(channel.stream_stream(STREAM)(iter([data, request_bytes()]), timeout=LIMIT_S))
            first, second = map(service_pb2.ModelStreamInferResponse.FromString, answers)
            assert text in first.error_message
            assert second.infer_response.model_name == "linear"
    lives(server)


def test_damaged_messages(server: Server) -> None:
    noise, seen = random.Random(7), set()
    with grpc.insecure_channel(grpc_address(server)) as channel:
        for _ in range(400):
            damaged = bytearray(request_bytes())
            for _ in range(noise.randint(1, 3)):
                damaged[noise.randrange(len(damaged))] = noise.randrange(256)
            try:
                channel.unary_unary(INFER)(bytes(damaged), timeout=LIMIT_S)
                seen.add("OK")
            except grpc.RpcError as error:
                seen.add(error.code().name)
    assert {"OK", "INVALID_ARGUMENT"} <= seen <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    lives(server)


def test_methods_that_are_not_there(server: Server) -> None:
    with grpc.insecure_channel(grpc_address(server)) as channel:
        for method in ("/inference.GRPCInferenceService/Nope", "/nope.Nope/Nope"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=LIMIT_S)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        # the standard health service: of the server, of a model
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=LIMIT_S) == b"\x08\x01"
        assert check(b"\x0a\x06linear", timeout=LIMIT_S) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            check(b"\x0a\x04nope", timeout=LIMIT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_memory_stays_where_it_is(server: Server) -> None:
    """Many large good and bad requests, over both doors."""
    process = psutil.Process(server.process.pid)
    body = gzip.compress(b"\0" * (100 << 20))
    with grpc.insecure_channel(grpc_address(server)) as channel:
        call = channel.unary_unary(INFER)

        def round_of_all() -> None:
            for _ in range(20):
                assert post(server, body, {"Content-Encoding": "gzip"})[0] == 413
                assert post(server, b'{"inputs": [' + b"1," * 100_000 + b"1]}")[0] == 400
                for data in (body, b"\x2a\x00" * 300_000):
                    with pytest.raises(grpc.RpcError):
                        call(data, timeout=LIMIT_S)

        round_of_all()
        before = process.memory_info().rss
        for _ in range(3):
            round_of_all()
        assert process.memory_info().rss - before < 30 << 20
    assert server.ask("GET", "/v1/stats/tasks")[1]["held_bytes"] == 0


# ---- who may -----------------------------------------------------------------------------------------------------


def test_roles_hold_for_both(tmp_path: Path) -> None:
    tokens = {}
    for role in ("read", "operate", "admin"):
        tokens[role], token = new_token(role, role)
        write_token(tmp_path / "tokens", token)
    config = CONFIG.replace("[server]", f'[server]\ntokens = "{tmp_path}/tokens"')
    server = Server(write_linear(tmp_path), config=config, folder=tmp_path).ready()
    http_client = triton_http.InferenceServerClient(f"127.0.0.1:{server.api}")
    grpc_client = triton_grpc.InferenceServerClient(grpc_address(server))
    try:
        for module, client in ((triton_http, http_client), (triton_grpc, grpc_client)):
            inputs, wanted = linear(module, 2)
            name = "Authorization" if module is triton_http else "authorization"
            as_role = {role: {name: f"Bearer {token}"} for role, token in tokens.items()}
            assert client.is_server_live()
            assert client.is_server_ready()
            with pytest.raises(InferenceServerException, match="a token is needed"):
                client.infer("linear", inputs)
            with pytest.raises(InferenceServerException, match="the token is not known"):
                client.get_model_metadata("linear", headers={name: "Bearer nonsense"})
            assert client.is_model_ready("linear", headers=as_role["read"])
            with pytest.raises(InferenceServerException, match="needs the role operate; yours is read"):
                client.infer("linear", inputs, headers=as_role["read"])
            result = client.infer("linear", inputs, headers=as_role["operate"])
            np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-5)
            with pytest.raises(InferenceServerException, match="needs the role admin; yours is operate"):
                client.unload_model("linear", headers=as_role["operate"])
            client.unload_model("linear", headers=as_role["admin"])
            client.load_model("linear", headers=as_role["admin"])
        # wrong tokens over one door count for the other
        with pytest.raises(InferenceServerException, match="too many wrong tokens"):
            for _ in range(30):
                try:
                    grpc_client.get_server_metadata(headers={"authorization": "Bearer guess"})
                except InferenceServerException as error:
                    if "is not known" not in str(error):
                        raise
        assert server.ask("GET", "/v2", headers={"Authorization": f"Bearer {tokens['admin']}"})[0] == 429
    finally:
        http_client.close()
        grpc_client.close()
        assert server.stop() == 0


def test_stopping_answers_what_is_under_way(tmp_path: Path) -> None:
    """While calls come as fast as they can: each is answered well, or told that the server stops."""
    server = Server(write_linear(tmp_path), config=CONFIG, folder=tmp_path).ready()
    with grpc.insecure_channel(grpc_address(server)) as channel:
        call, wrong, done = channel.unary_unary(INFER), [], 0
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                call(request_bytes(), timeout=LIMIT_S)
                done += 1
            except grpc.RpcError as error:
                wrong.append(error)
                break
            if done == 20:
                server.process.terminate()
        assert wrong[0].code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.CANCELLED,
        )
    assert server.stop() == 0


# ---- ports and packages ------------------------------------------------------------------------------------------


def start(folder: Path, config: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A server that cannot start."""
    (folder / "modelbox.conf").write_text(with_api(config, folder))
    return subprocess.run(
        [sys.executable, "-m", "modelboxd", "-V", "-c", str(folder / "modelbox.conf")],
        capture_output=True, text=True, timeout=LIMIT_S, cwd=TOP, env=os.environ | environment,
    )  # fmt: skip


def test_without_grpcio_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text('raise ImportError("No module named grpc")\n')
    done = start(tmp_path, CONFIG, PYTHONPATH=str(tmp_path))
    assert done.returncode == 78
    line = next(line for line in done.stderr.splitlines() if "grpcio" in line)
    assert "inference.grpc = true needs the Python packages grpcio and protobuf" in line
    assert "apt install python3-grpcio python3-protobuf" in line
    assert f"{tmp_path}/modelbox.conf:" in line


def test_a_port_that_is_taken(server: Server, tmp_path: Path) -> None:
    port = grpc_address(server).partition(":")[2]
    done = start(tmp_path, CONFIG.replace("grpc_port = 0", f"grpc_port = {port}"))
    assert done.returncode != 0
    assert f"gRPC: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert f"{tmp_path}/modelbox.conf:" in done.stderr


def test_certificates_of_clients(tmp_path: Path) -> None:
    """With server.client_ca both doors speak TLS and want a certificate."""
    cert, key = certificate(tmp_path, "server")
    client_cert, client_key = certificate(tmp_path, "client")
    config = CONFIG.replace(
        "[server]",
        f'[server]\ncert = "{cert}"\nkey = "{key}"\nclient_ca = "{client_cert}"\nclient_role = "read"',
    )
    server = Server(write_linear(tmp_path), config=config, folder=tmp_path).ready()
    line = server.wait_for("gRPC listens on")
    assert line.endswith(" (TLS)")
    address = "127.0.0.1:" + line.removesuffix(" (TLS)").rpartition(":")[2]
    try:
        good = {"root_certificates": cert, "private_key": client_key, "certificate_chain": client_cert}
        with triton_grpc.InferenceServerClient(address, ssl=True, **good) as client:
            assert client.is_model_ready("linear")
            inputs, _ = linear(triton_grpc, 1)
            with pytest.raises(InferenceServerException, match="needs the role operate; yours is read"):
                client.infer("linear", inputs)
        for wrong in ({"root_certificates": cert}, None):
            with (
                triton_grpc.InferenceServerClient(address, ssl=wrong is not None, **(wrong or {})) as client,
                pytest.raises(InferenceServerException, match="UNAVAILABLE"),
            ):
                client.get_server_metadata(client_timeout=LIMIT_S)
    finally:
        assert server.stop() == 0


def test_rates_hold_for_both(tmp_path: Path) -> None:
    config = CONFIG.replace("[server]", "[server]\nmax_rate = 5")
    server = Server(write_linear(tmp_path), config=config, folder=tmp_path).ready()
    try:
        with triton_grpc.InferenceServerClient(grpc_address(server)) as client:
            with pytest.raises(InferenceServerException, match=r"RESOURCE_EXHAUSTED.*too many requests"):
                for _ in range(500):
                    client.is_server_live()
            assert server.ask("GET", "/v2")[0] == 429
    finally:
        assert server.stop() == 0
