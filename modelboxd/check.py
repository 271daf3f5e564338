"""What `modelbox --check` looks at: all that would keep the server, or a graph, from starting and can be seen without
starting it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from modelbox.errors import GraphError, UnitError
from modelboxd.api.access import Access, tls_of
from modelboxd.api.grpc_server import import_grpc
from modelboxd.graph.model import Plan
from modelboxd.jobs.runtime import plan_graph, pool_cpus
from modelboxd.settings import Settings
from modelboxd.workers import interpreter

RUNTIMES = {"onnx": ("onnxruntime", "apt install modelbox-onnx, or pip install 'modelbox[onnx]'")}  # by virtual_type


def check_settings(settings: Settings) -> None:
    """Raises ConfigError. Ports are not tried: the server that runs has them."""
    pool_cpus(settings)
    if not settings.server.api:
        return
    Access(settings)
    tls_of(settings)
    if settings.inference.grpc:
        import_grpc(settings)


def check_graph(settings: Settings, path: Path) -> Plan:
    """The plan of a graph file. Raises GraphError."""
    plan = plan_graph(settings, path)[0]
    missing: list[GraphError] = []
    tried: set[str] = set()
    for node in plan.graph.nodes.values():
        if node.unit.python and node.unit.python not in tried:
            tried.add(node.unit.python)
            try:
                interpreter.check_of(node.unit)
            except UnitError as error:
                missing.append(GraphError(error.message, where=error.where, hint=error.hint, node=node.name))
        module, hint = RUNTIMES.get(node.unit.virtual_type, ("", ""))
        if module and find_spec(module) is None:
            text = f"node '{node.name}': {module} is not installed"
            missing.append(GraphError(text, where=node.where, hint=hint, node=node.name))
    if missing:
        raise GraphError.of(missing, plan.graph.warnings)
    return plan
