"""Planning: neighbouring native nodes become fused segments, everything else a step of its own."""

from __future__ import annotations

from modelbox.errors import GraphError
from modelbox.spec import UnitKind
from modelboxd.graph.attributes import INPUT, OUTPUT
from modelboxd.graph.model import Graph, Node, Plan, Step

# What parts a native node from its neighbours.
ROLES = {
    "stream": "keeps a stream in order",
    "condition": "chooses a branch",
    "expand": "opens sub-streams",
    "collapse": "closes sub-streams",
    "loop": "leads back",
}


def make_plan(graph: Graph) -> Plan:
    """Fuses chains of native NORMAL nodes on one device that are joined by exactly one edge.

    Raises GraphError for what the engine cannot run.
    """
    _check_sources(graph)
    steps: list[Step] = []
    placed: set[str] = set()
    for node in graph.nodes.values():
        if node.name in placed:
            continue
        chain = [node]
        reason = _why_alone(node)
        while reason is None:
            following, reason = _next(graph, chain[-1])
            if following is not None:
                chain.append(following)
        placed.update(member.name for member in chain)
        steps.append(Step(len(steps), _kind(node), chain, reason))
    return Plan(graph, steps)


def _check_sources(graph: Graph) -> None:
    """Raises GraphError for nodes that are right in a graph, but that the engine cannot run."""
    problems = [
        GraphError(
            f"node '{node.name}': native sources are not supported",
            where=node.where,
            hint="a source is a Python unit without inputs, or a built-in one",
        )
        for node in graph.nodes.values()
        if node.unit.kind is UnitKind.NATIVE and not node.unit.inputs
    ]
    if problems:
        raise GraphError.of(problems)


def _kind(node: Node) -> str:
    """How a step that begins with this node runs."""
    unit = node.unit
    if unit is INPUT or unit is OUTPUT:
        return unit.name
    if unit.kind is UnitKind.NATIVE:
        return "segment" if unit.role == "normal" else "native"
    return "worker" if unit.kind is UnitKind.PYTHON else "builtin"


def _why_alone(node: Node) -> str | None:
    """Why nothing can be fused to this node, or None."""
    unit = node.unit
    if unit is INPUT or unit is OUTPUT:
        return f"{unit.name} of the graph"
    if unit.kind is not UnitKind.NATIVE:
        return {
            UnitKind.PYTHON: "runs in worker processes",
            UnitKind.INFERENCE: "runs a model",
        }.get(unit.kind, "built-in")
    if unit.role != "normal":
        return ROLES[unit.role]
    if len(unit.inputs) != 1 or len(unit.outputs) != 1:
        return "has several ports" if unit.inputs and unit.outputs else "source or sink"
    return None


def _next(graph: Graph, node: Node) -> tuple[Node | None, str | None]:
    """The node that joins the chain behind `node`, or why the chain ends."""
    (targets,) = node.targets.values()
    if len(targets) != 1:
        return None, "branches" if targets else "ends"
    following = graph.nodes[targets[0].node]
    if len(following.sources[targets[0].port]) != 1 and not following.unit.loop:
        return None, f"branches meet at '{following.name}'"
    alone = _why_alone(following)
    if alone is not None:
        return None, f"'{following.name}' {alone}"
    if following.unit.device != node.unit.device or following.device_id != node.device_id:
        return None, f"'{following.name}' is on another device"
    if following.max_queue_delay_us or following.preferred_batch_sizes:
        return None, f"'{following.name}' waits for full batches"
    if following.user_priority != node.user_priority:
        return None, f"'{following.name}' has another priority"
    return following, None
