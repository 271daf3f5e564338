"""Requests of Triton's clients under way: many at once, streams, statistics, models that come and go, clients that leave."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.integration.inference import Rig, linear, running, tensor
from tests.integration.server import LIMIT_S
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from running(tmp_path_factory.mktemp("inference"))


def test_many_at_once(rig: Rig) -> None:
    """What a load tool does: requests under way on several connections and calls at once."""
    cases = [linear(triton_http, 1 + number % 8, number) for number in range(40)]
    pending = [(rig.http.async_infer("linear", inputs), wanted) for inputs, wanted in cases]
    for waiting, wanted in pending:
        np.testing.assert_allclose(waiting.get_result().as_numpy("y"), wanted, rtol=1e-4)
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    cases = [linear(triton_grpc, 1 + number % 8, number) for number in range(200)]
    for number, (inputs, _) in enumerate(cases):
        rig.grpc.async_infer("linear", inputs, lambda result, error, n=number: answers.put((n, result, error)))
    for _ in cases:
        number, result, error = answers.get(timeout=LIMIT_S)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("y"), cases[number][1], rtol=1e-4)


def test_streams_answer_in_order(rig: Rig) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{rig.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        cases = [linear(triton_grpc, 1 + number % 8, number) for number in range(100)]
        for number, (inputs, _) in enumerate(cases):
            client.async_stream_infer(
                "linear" if number % 10 else "nope", inputs, request_id=str(number), enable_empty_final_response=True
            )
        for number, (_, wanted) in enumerate(cases):
            result, error = answers.get(timeout=LIMIT_S)
            if number % 10 == 0:
                assert "there is no model 'nope'" in str(error)
                continue
            assert result.get_response().id == str(number)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-4)
        client.stop_stream()


def test_statistics_count(rig: Rig) -> None:
    def stats() -> dict[str, Any]:
        return dict(rig.http.get_inference_statistics("linear")["model_stats"][0])

    before = stats()
    inputs, _ = linear(triton_http, 8)
    for _ in range(3):
        rig.http.infer("linear", inputs)
    with pytest.raises(InferenceServerException):
        rig.http.infer("linear", inputs[:1])
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 24
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    told = rig.grpc.get_inference_statistics("linear", as_json=True)["model_stats"][0]
    assert int(told["inference_count"]) == after["inference_count"]
    assert len(rig.grpc.get_inference_statistics(as_json=True)["model_stats"]) == 3
    # requests leave nothing behind
    assert rig.server.ask("GET", "/v1/tasks?job=linear")[1] == {"tasks": []}
    assert rig.server.ask("GET", "/v1/stats/tasks")[1]["held_bytes"] == 0


def test_load_and_unload(rig: Rig) -> None:
    for module, client in rig.clients:
        as_json = {"as_json": True} if module is triton_grpc else {}
        client.unload_model("types")
        assert not client.is_model_ready("types")
        index = client.get_model_repository_index(**as_json)
        index = index["models"] if module is triton_grpc else index
        found = {item["name"]: item for item in index}["types"]
        assert (found["state"], found["reason"]) == ("UNAVAILABLE", "the job is stopped")
        with pytest.raises(InferenceServerException, match="does not run"):
            client.infer("types", [])
        with pytest.raises(InferenceServerException, match="parameters of load are not supported"):
            client.load_model("types", config="{}")
        client.load_model("types")
        assert client.is_model_ready("types")
        with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
            client.load_model("nope")


def test_a_client_that_goes_away_cancels_its_work(rig: Rig) -> None:
    ask = rig.server.ask
    gate = np.array([["gate"]], np.object_)
    # gRPC: a call that is cancelled, and one whose deadline passes
    over = threading.Event()
    waiting = rig.grpc.async_infer(
        "shouter", [tensor(triton_grpc, "text", gate, "BYTES")], lambda result, error: over.set()
    )
    wait_for(lambda: ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    waiting.cancel()
    assert over.wait(LIMIT_S)
    wait_for(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        rig.grpc.infer("shouter", [tensor(triton_grpc, "text", gate, "BYTES")], client_timeout=0.5)
    wait_for(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    # HTTP: a connection that is closed, and the protocol's own timeout
    body = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["gate"]}]}).encode()
    client = socket.create_connection(("127.0.0.1", rig.server.api))
    head = f"POST /v2/models/shouter/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    wait_for(lambda: ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    client.close()
    wait_for(lambda: not ask("GET", "/v1/tasks?state=running")[1]["tasks"])
    with pytest.raises(InferenceServerException, match=r"not done within 0.2 s"):
        rig.http.infer("shouter", [tensor(triton_http, "text", gate, "BYTES")], timeout=200_000)
    held = os.open(rig.pipe, os.O_RDWR)  # the gate is open: calls of the unit that were under way end
    result = rig.http.infer("shouter", [tensor(triton_http, "text", np.array([["ok"]], np.object_), "BYTES")])
    os.close(held)
    assert result.as_numpy("loud").tolist() == [[b"OK"]]
