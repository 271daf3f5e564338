"""A job as a model: its tensors, from [model] of its graph file, or from the inference units behind its input and
before its output nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelboxd.graph.tensors import DATATYPES, ModelDecl, TensorDecl
from modelboxd.inference.errors import ModelStateError

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.engine.unit import PortTensor
    from modelboxd.graph.model import Endpoint, Plan

BATCH = 32  # max_batch of models that take any, where nobody says how many
WORDS = {name: word for word, name in DATATYPES.items() if name}  # numpy's name -> the protocol's
NUMPY = {word: np.dtype(name) for word, name in DATATYPES.items() if name}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output tensor."""

    name: str
    node: str
    datatype: str
    shape: tuple[int, ...]  # of one value of the graph; -1 = any size


@dataclass(frozen=True, slots=True)
class Model:
    """What clients see of a job."""

    name: str
    version: str
    job_id: str
    max_batch: int  # 0: a tensor is one value; else its first dimension counts them
    inputs: dict[str, Port]  # by name
    outputs: dict[str, Port]
    job: Job  # the running graph that this was read from

    def full_shape(self, port: Port) -> list[int]:
        """As clients send and get it."""
        return [-1, *port.shape] if self.max_batch else list(port.shape)


def is_model(plan: Plan | None) -> bool:
    """Whether a graph says that it is one."""
    return plan is not None and plan.graph.model is not None


def read_model(job_id: str, job: Job, plan: Plan) -> Model | None:
    """The model that a running job is; None when it does not say so, and its units do not either.

    Raises ModelStateError when it says so, and a tensor is not known.
    """
    declared = plan.graph.model
    said = declared or ModelDecl(None)  # type: ignore[arg-type]
    nodes = plan.graph.nodes
    outputs = [node.name for step in plan.steps if step.kind == "output" for node in step.nodes]
    known = _known(job)
    sides: list[dict[str, Port]] = []
    batches: list[int] = []
    for side, names, tensors in (("inputs", list(job.inputs.steps), said.inputs), ("outputs", outputs, said.outputs)):
        ports: dict[str, Port] = {}
        for name in names:
            ends = nodes[name].targets.get("input", ()) if side == "inputs" else nodes[name].sources.get("output", ())
            port = _port(name, tensors, ends, known, batches)
            if port is None:
                if declared is None:
                    return None
                text = f"job '{job_id}': the tensor of node '{name}' is not known"
                hint = f'add {name} = {{datatype = "...", shape = [...]}} to [model.{side}] of its graph file'
                raise ModelStateError(text, hint=hint)
            if port.name in ports:
                if declared is None:
                    return None
                raise ModelStateError(f"job '{job_id}': two {side} are called '{port.name}'")
            ports[port.name] = port
        sides.append(ports)
    if not all(sides):
        return None
    most = said.max_batch if said.max_batch is not None else _max_batch(batches)
    if most and any(port.datatype == "BYTES" and any(dim != 1 for dim in port.shape) for port in _all(sides)):
        raise ModelStateError(f"job '{job_id}': with max_batch the shape of BYTES tensors is [1]")
    return Model(said.name or job_id, said.version, job_id, most, sides[0], sides[1], job)


def _all(sides: list[dict[str, Port]]) -> Iterable[Port]:
    return (port for ports in sides for port in ports.values())


def _known(job: Job) -> dict[tuple[str, str], PortTensor]:
    """The tensors that units know of themselves, by node and port."""
    found = {}
    for step in job.steps:
        unit = getattr(step, "unit", None)
        if unit is not None and hasattr(unit, "tensors"):
            found.update({(step.name, port): tensor for port, tensor in unit.tensors().items()})
    return found


def _port(
    node: str,
    declared: dict[str, TensorDecl],
    ends: Iterable[Endpoint],
    known: dict[tuple[str, str], PortTensor],
    batches: list[int],
) -> Port | None:
    if node in declared:
        tensor = declared[node]
        return Port(tensor.name or node, node, tensor.datatype, tensor.shape)
    for end in ends:
        found = known.get((end.node, end.port))
        if found is not None and found.dtype in WORDS:
            batches.append(found.batch)
            return Port(end.port, node, WORDS[found.dtype], found.shape)
    return None


def _max_batch(batches: list[int]) -> int:
    """What units can do at once: a model of any batch, or of a fixed one, has the batch in front. Where nothing is
    taken from a unit, a tensor is one value."""
    if not batches:
        return 0
    return min(batch or BATCH for batch in batches)
