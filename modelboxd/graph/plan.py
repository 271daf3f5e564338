"""Planning: neighbouring native nodes become fused segments, everything else a step of its own."""

from __future__ import annotations

from modelbox.errors import GraphError, ModelBoxError
from modelbox.spec import FlowType, UnitKind
from modelboxd.graph.model import Graph, Node, Plan, Step


def make_plan(graph: Graph) -> Plan:
    """Fuses chains of native NORMAL nodes on one device that are joined by exactly one edge.

    Raises GraphError for what the engine cannot run.
    """
    check_supported(graph)
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
        kind = {UnitKind.NATIVE: "segment", UnitKind.PYTHON: "worker"}.get(node.unit.kind, "builtin")
        steps.append(Step(len(steps), kind, chain, reason))
    return Plan(graph, steps)


def check_supported(graph: Graph) -> None:
    """Raises GraphError for nodes that are right in a graph, but that the engine does not run yet."""
    problems: list[ModelBoxError] = []
    for node in graph.nodes.values():
        unit = node.unit
        if unit.kind is UnitKind.VIRTUAL and not unit.path:
            hint = "feed the graph by a source unit such as httpserver_sync_receive" if not unit.inputs else ""
            text = f"node '{node.name}': type={unit.name} is not supported yet"
            problems.append(GraphError(text, where=node.where, hint=hint))
        elif unit.condition or unit.expand or unit.collapse:
            kind = "collapse" if unit.collapse else "expand" if unit.expand else "condition"
            problems.append(GraphError(f"node '{node.name}': {kind} units are not supported yet", where=node.where))
    if problems:
        problems.sort(key=lambda problem: (problem.where.line, problem.where.column) if problem.where else (0, 0))
        first = problems[0]
        raise GraphError(first.message, where=first.where, hint=first.hint, problems=tuple(problems))


def _why_alone(node: Node) -> str | None:
    """Why nothing can be fused to this node, or None."""
    unit = node.unit
    if unit.kind is not UnitKind.NATIVE:
        return {
            UnitKind.PYTHON: "runs in worker processes",
            UnitKind.INFERENCE: "runs a model",
        }.get(unit.kind, "built-in")
    if unit.flow_type is FlowType.STREAM:
        return "keeps a stream in order"
    if len(unit.inputs) != 1 or len(unit.outputs) != 1:
        return "has several ports" if unit.inputs and unit.outputs else "source or sink"
    return None


def _next(graph: Graph, node: Node) -> tuple[Node | None, str | None]:
    """The node that joins the chain behind `node`, or why the chain ends."""
    (targets,) = node.targets.values()
    if len(targets) != 1:
        return None, "branches" if targets else "ends"
    following = graph.nodes[targets[0].node]
    if len(following.sources[targets[0].port]) != 1:
        return None, f"branches meet at '{following.name}'"
    alone = _why_alone(following)
    if alone is not None:
        return None, f"'{following.name}' {alone}"
    if following.unit.device != node.unit.device or following.device_id != node.device_id:
        return None, f"'{following.name}' is on another device"
    if following.user_priority != node.user_priority:
        return None, f"'{following.name}' has another priority"
    return following, None
