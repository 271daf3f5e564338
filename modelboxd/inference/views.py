"""What servers and models tell of themselves, as the JSON of the protocol; gRPC has the same under the same names."""

from __future__ import annotations

from typing import Any

from modelbox.version import VERSION
from modelboxd.inference.model import Model, Port
from modelboxd.inference.service import Counts, Listed

PLATFORM = "modelbox_graph"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "schedule_policy", "statistics")


def server_view() -> dict[str, Any]:
    """The server."""
    return {"name": "modelbox", "version": VERSION, "extensions": list(EXTENSIONS)}


def model_view(model: Model) -> dict[str, Any]:
    """A model and its tensors."""

    def ports(side: dict[str, Port]) -> list[dict[str, Any]]:
        return [
            {"name": port.name, "datatype": port.datatype, "shape": model.full_shape(port)} for port in side.values()
        ]

    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": ports(model.inputs),
        "outputs": ports(model.outputs),
    }


def config_view(model: Model) -> dict[str, Any]:
    """A model's configuration in the words of Triton, as far as they have a meaning here."""

    def ports(side: dict[str, Port]) -> list[dict[str, Any]]:
        return [
            {"name": port.name, "data_type": config_type(port.datatype), "dims": list(port.shape)}
            for port in side.values()
        ]

    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "modelbox",
        "max_batch_size": model.max_batch,
        "input": ports(model.inputs),
        "output": ports(model.outputs),
        "model_transaction_policy": {"decoupled": False},
    }


def config_type(datatype: str) -> str:
    """A datatype in the words of configurations."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def stats_view(model: Model, counts: Counts) -> dict[str, Any]:
    """What a model has done. Executions are requests: how the graph batches them is in /v1/stats."""

    def duration(count: int, ns: int) -> dict[str, int]:
        return {"count": count, "ns": ns}

    return {
        "name": model.name,
        "version": model.version,
        "last_inference": counts.last_ms,
        "inference_count": counts.inferences,
        "execution_count": counts.requests,
        "inference_stats": {
            "success": duration(counts.requests, counts.success_ns),
            "fail": duration(counts.failed, counts.fail_ns),
            "queue": duration(counts.requests, counts.queue_ns),
            "compute_input": duration(counts.requests, counts.input_ns),
            "compute_infer": duration(counts.requests, counts.compute_ns),
            "compute_output": duration(counts.requests, counts.output_ns),
            "cache_hit": duration(0, 0),
            "cache_miss": duration(0, 0),
        },
        "batch_stats": [],
    }


def index_view(listed: Listed) -> dict[str, str]:
    """An entry of the index of models."""
    state = "UNAVAILABLE" if listed.reason else "READY"
    return {"name": listed.name, "version": listed.version, "state": state, "reason": listed.reason}
