"""The inference protocol against bare handlers that run the same onnxruntime session: HTTP with binary tensors to
aiohttp, gRPC to grpc.aio. The bare ones know neither names nor types nor limits: bytes in, one run, bytes out."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import TOP, free_port, interleaved, wait_port

Row = tuple[str, str, str, str, str]
CLIENTS, SECONDS, ROUNDS = 8, 3.0, 3
SHAPES = {"small": (1, 16), "picture": (1, 3, 224, 224)}
BARE = """
import asyncio, sys
import grpc.aio, numpy as np, onnxruntime
from aiohttp import web

folder, port, rpc_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
sessions = {name: onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options) for name in ("small", "picture")}
shapes = {"small": (1, 16), "picture": (1, 3, 224, 224)}

def work(name, data):
    return sessions[name].run(None, {"x": np.frombuffer(data, np.float32).reshape(shapes[name])})[0].tobytes()

async def over_http(request):
    body = await request.read()
    result = await asyncio.to_thread(work, request.match_info["name"], body)
    return web.Response(body=result, content_type="application/octet-stream")

def method(name):
    async def handle(data, context):
        return await asyncio.to_thread(work, name, data)
    return grpc.unary_unary_rpc_method_handler(handle)

async def main():
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{name}", over_http)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {name: method(name) for name in shapes}),))
    server.add_insecure_port(f"127.0.0.1:{rpc_port}")
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


def write_models(folder: Path) -> None:
    """Two ONNX models, x to y: a matrix of 16 by 16, and a convolution of a picture; their units and graphs."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(7)
    small = random.standard_normal((16, 16), np.float32)
    kernel = random.standard_normal((8, 3, 8, 8), np.float32)
    for name, shape, out, node, weights in (
        ("small", ["n", 16], ["n", 16], helper.make_node("MatMul", ["x", "w"], ["y"]), small),
        ("picture", ["n", 3, 224, 224], ["n", 8, 28, 28], helper.make_node("Conv", ["x", "w"], ["y"], strides=[8, 8]), kernel),
    ):  # fmt: skip
        constant = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.reshape(-1).tolist())
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
        model = helper.make_model(
            helper.make_graph([node], name, inputs, outputs, [constant]), opset_imports=[helper.make_opsetid("", 13)]
        )
        model.ir_version = 9
        onnx.save(model, folder / f"{name}.onnx")
        text = (
            f'[base]\nname = "{name}"\ntype = "inference"\nvirtual_type = "onnx"\ndevice = "cpu"\nversion = "1.0.0"\n'
        )
        text += (
            f'description = "{name}"\nentry = "{name}.onnx"\n[input.input1]\nname = "x"\n[output.output1]\nname = "y"\n'
        )
        (folder / f"{name}_unit.toml").write_text(text)
        dot = f"i [type=input]; o [type=output]; m [flowunit={name}, batch_size=8]; i -> m:x; m:y -> o"
        text = f'[driver]\ndir = ["{folder}"]\n[graph]\nformat = "graphviz"\ngraphconf = """digraph {name} {{ {dot} }}"""\n'
        (folder / f"{name}.graph.toml").write_text(f'{text}[flow]\nname = "{name}"\n')


def rate(ask: Callable[[], Callable[[], None]], clients: int = CLIENTS, seconds: float = SECONDS) -> float:
    """Requests per second of some clients that ask one after the other; `ask()` makes one."""
    counts = [0] * clients
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        one = ask()
        while time.perf_counter() < end:
            one()
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def over_http(port: int, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], Callable[[], None]]:
    """Clients with a connection each."""

    def make() -> Callable[[], None]:
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def one() -> None:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

        return one

    return make


def over_grpc(port: int, method: str, data: bytes) -> Callable[[], Callable[[], None]]:
    """Clients that share a channel."""
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)])
    call = channel.unary_unary(method)
    return lambda: lambda: call(data) and None


def inference() -> list[Row]:
    """Requests per second."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_models(folder)
        port, rpc, bare, bare_rpc = (free_port() for _ in range(4))
        config = (
            f'[server]\nport = {port}\nstate_dir = "{scratch}/state"\n[inference]\ngrpc = true\ngrpc_port = {rpc}\n'
        )
        (folder / "modelbox.conf").write_text(config)
        command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(folder / "modelbox.conf")]
        for name in SHAPES:
            command += ["--graph", str(folder / f"{name}.graph.toml")]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": TOP}
        ours = subprocess.Popen(command, **quiet)
        theirs = subprocess.Popen([sys.executable, "-c", BARE, scratch, str(bare), str(bare_rpc)], **quiet)
        try:
            for one in (port, rpc, bare, bare_rpc):
                wait_port(one)
            for name in SHAPES:
                _wait_model(port, name)
            return [row for name in SHAPES for row in _measure(name, (port, rpc), (bare, bare_rpc))]
        finally:
            for child in (ours, theirs):
                child.terminate()
                child.wait()


def _wait_model(port: int, name: str) -> None:
    status = 0
    while status != 200:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/v2/models/{name}/ready")
        status = connection.getresponse().status
        connection.close()
        time.sleep(0.05)


def _measure(name: str, ours: tuple[int, int], bare: tuple[int, int]) -> list[Row]:
    from modelboxd.inference.proto import messages

    shape = SHAPES[name]
    data = np.random.default_rng(1).standard_normal(shape, np.float32).tobytes()
    item = {"name": "x", "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    request = messages().ModelInferRequest(model_name=name, raw_input_contents=[data])
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    infer = f"/v2/models/{name}/infer"
    message = request.SerializeToString()
    rows = []
    for what, goal, mine, other in (
        (
            "HTTP, binary tensors",
            "aiohttp",
            over_http(ours[0], infer, head + data, {"Inference-Header-Content-Length": str(len(head))}),
            over_http(bare[0], f"/{name}", data, {}),
        ),
        (
            "gRPC",
            "grpc.aio",
            over_grpc(ours[1], "/inference.GRPCInferenceService/ModelInfer", message),
            over_grpc(bare[1], f"/bare/{name}", data),
        ),
    ):
        one, two = interleaved(ROUNDS, lambda: rate(mine), lambda: rate(other))
        size = f"{len(data)} bytes" if len(data) < 1024 else f"{len(data) >> 10} KiB"
        label = f"inference over {what}, {size}, {CLIENTS} clients"
        rows.append((label, f"{one:.0f}/s", f"{goal} {two:.0f}/s", f"{one / two:.2f}", ""))
    return rows
