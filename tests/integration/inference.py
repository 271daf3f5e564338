"""A daemon with models for Triton's own clients, unmodified, over HTTP and gRPC."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import np_to_triton_dtype

from modelboxd.graph.tensors import DATATYPES
from tests.integration.models import WEIGHTS, same_types, write_graph, write_linear
from tests.integration.server import Server
from tests.integration.workers import write_unit

SHOUT = """
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.pipe = config.get_string("pipe", "")
        return modelbox.Status()

    def process(self, context):
        out = context.output("out")
        for buffer in context.input("in"):
            text = buffer.as_object()
            if text == "gate":  # waits until somebody opens the other end
                open(self.pipe).close()
            if text == "bad":
                raise ValueError("no good")
            out.push_back(modelbox.Buffer(self.get_bind_device(), text.upper()))
        return modelbox.Status()
"""
GRPC = "[server]\nport = 0\n[inference]\ngrpc = true\ngrpc_port = 0\n"


class Rig:
    """A daemon with the models linear, types and shouter (the job `shout`)."""

    def __init__(self, folder: Path) -> None:
        write_unit(folder, "shout", SHOUT)
        self.pipe = folder / "pipe"
        os.mkfifo(self.pipe)
        graphs = [
            write_linear(folder),
            same_types(folder, list(DATATYPES)),
            write_graph(
                folder,
                "shout",
                "text [type=input]; loud [type=output]; u [flowunit=shout, batch_size=1, "
                f'pipe="{self.pipe}"]; '
                "text -> u:in; u:out -> loud",
                '[model]\nname = "shouter"\nversion = "7"\nmax_batch = 4\n'
                '[model.inputs]\ntext = {datatype = "BYTES", shape = [1]}\n'
                '[model.outputs]\nloud = {datatype = "BYTES", shape = [1]}\n',
            ),
        ]
        self.server = Server(*graphs, folder=folder, config=GRPC).ready()
        self.grpc_port = int(self.server.wait_for("gRPC listens on").rpartition(":")[2])
        self.http = triton_http.InferenceServerClient(f"127.0.0.1:{self.server.api}", concurrency=4, network_timeout=50)
        self.grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{self.grpc_port}")

    @property
    def clients(self) -> list[tuple[Any, Any]]:
        """(the module, a client)."""
        return [(triton_http, self.http), (triton_grpc, self.grpc)]


def running(folder: Path) -> Iterator[Rig]:
    """The rig of one file of tests, which must end well."""
    made = Rig(folder)
    yield made
    made.http.close()
    made.grpc.close()
    assert made.server.stop() == 0
    assert not [line for line in made.server.lines if "internal error" in line]


def tensor(module: Any, name: str, array: np.ndarray[Any, Any], datatype: str = "", **options: Any) -> Any:
    """An InferInput."""
    made = module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **options)
    return made


def linear(module: Any, batch: int, seed: int = 0, **options: Any) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Inputs of the model, and what comes of them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, 4), np.float32)
    b = random.standard_normal((batch, 3), np.float32)
    return [tensor(module, "x", x, **options), tensor(module, "b", b, **options)], x @ WEIGHTS + b
