"""From GraphSpec to Graph: units found, options merged, ports and shape checked.

All complaints are collected, each with its place, so that a user mends a file in one go.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import deque
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from modelbox.errors import ConfigError, GraphError, ModelBoxError, Where
from modelbox.spec import OptionSpec, PortSpec, UnitKind, UnitSpec
from modelboxd.graph.levels import Levels
from modelboxd.graph.model import Attr, EdgeSpec, Endpoint, Graph, GraphSpec, Node, NodeSpec
from modelboxd.graph.types import TYPES

INHERITED = ("batch_size", "queue_size", "deviceid", "need_check_output")
ENGINE_ATTRS = {
    "type",
    "flowunit",
    "device",
    "deviceid",
    "label",
    "version",
    "batch_size",
    "queue_size",
    "queue_size_external",
    "queue_size_event",
    "need_check_output",
    "is_exception_visible",
    "priority",
    "output_type",
}
WORKER_OPTIONS = {"workers", "process_timeout_ms"}
# Attributes that only say how Graphviz draws; units may have options of the same name.
DRAWING = {
    *("shape", "color", "style", "fillcolor", "fontname", "fontsize", "fontcolor", "width", "height", "penwidth"),
    *("tooltip", "URL", "pos", "group", "margin", "image", "xlabel", "comment", "class", "id", "rank", "ordering"),
}
ALIASES = {
    "httpserver_sync_receive_v2": "httpserver_sync_receive",
    "httpserver_sync_reply_v2": "httpserver_sync_reply",
}

# The nodes by which data enters and leaves a graph from outside; the node's name is the name of the port there.
INPUT = UnitSpec("input", "cpu", "", "", UnitKind.VIRTUAL, "", outputs=(PortSpec("input"),))
OUTPUT = UnitSpec("output", "cpu", "", "", UnitKind.VIRTUAL, "", inputs=(PortSpec("output"),))


class RegistryLike(Protocol):
    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        """The unit; raises UnitNotFoundError."""
        ...


@dataclass(frozen=True, slots=True)
class GraphDefaults:
    """What a graph gets that does not say otherwise."""

    queue_size: int = 32
    queue_size_external: int = 1024
    batch_size: int | None = None


def check_graph(spec: GraphSpec, registry: RegistryLike, defaults: GraphDefaults | None = None) -> Graph:
    """Raises GraphError; its `problems` are all that was found."""
    return _Checker(spec, registry, defaults or GraphDefaults()).run()


class _Checker:
    def __init__(self, spec: GraphSpec, registry: RegistryLike, defaults: GraphDefaults) -> None:
        self.spec = spec
        self.registry = registry
        self.defaults = defaults
        self.problems: list[ModelBoxError] = []
        self.warnings = list(spec.warnings)
        self.nodes: dict[str, Node] = {}
        self.doubtful: set[str] = set()  # nodes of refused edges: that their ports seem open is only an echo

    def run(self) -> Graph:
        for node in self.spec.nodes.values():
            made = self._node(node)
            if made is not None:
                self.nodes[node.name] = made
        self.has_conditions = any(node.unit.condition for node in self.nodes.values())
        for edge in self.spec.edges:
            if not self._edge(edge):
                self.doubtful |= {edge.src, edge.dst}
        self._ports()
        order = self._order()
        self._whole()
        if not self.problems:
            self.problems += Levels(self.nodes[name] for name in order).problems
        if self.problems:
            problems = sorted(self.problems, key=lambda problem: _place(problem.where))
            first = problems[0]
            raise GraphError(first.message, where=first.where, hint=first.hint, problems=tuple(problems))
        for rank, name in enumerate(order):
            self.nodes[name].priority = rank
        spec = self.spec
        nodes = {name: self.nodes[name] for name in order}
        return Graph(spec.name, spec.file, nodes, spec.settings, spec.flow_name, spec.flow_desc, self.warnings)

    def _complain(self, message: str, where: Where | None, hint: str = "") -> None:
        if not any(old.where == where and old.message == message for old in self.problems[-1:]):
            self.problems.append(GraphError(message, where=where, hint=hint))

    # ---- nodes ------------------------------------------------------------------------------------------

    def _node(self, spec: NodeSpec) -> Node | None:
        attrs = {key: self.spec.attrs[key] for key in INHERITED if key in self.spec.attrs} | spec.attrs
        kind = attrs["type"].text.lower() if "type" in attrs else "flowunit"
        if kind not in ("flowunit", "input", "output"):
            self._complain(
                f"node '{spec.name}': unsupport node type '{kind}'",
                attrs["type"].where,
                "type is flowunit, input or output",
            )
            return None
        if kind != "flowunit":
            return self._build(spec, attrs, INPUT if kind == "input" else OUTPUT)
        if "flowunit" not in attrs or not attrs["flowunit"].text:
            self._complain(
                f"node '{spec.name}': flowunit name is empty.",
                spec.where,
                "give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?",
            )
            return None
        unit = self._find(spec, attrs)
        return self._build(spec, attrs, unit) if unit is not None else None

    def _find(self, spec: NodeSpec, attrs: dict[str, Attr]) -> UnitSpec | None:
        name = attrs["flowunit"].text
        device = attrs["device"].text if "device" in attrs else ""
        version = attrs["version"].text if "version" in attrs else ""
        several = any(sign in device for sign in ":;,")
        if "deviceid" in attrs and (not device or several):
            text = "should not set deviceid param when use multi device" if several else "deviceid needs a device"
            self._complain(f"node '{spec.name}': {text}", attrs["deviceid"].where, "such as device=cpu, deviceid=0")
        try:
            return self.registry.find(ALIASES.get(name, name), device, version)
        except ModelBoxError as error:
            where = attrs["device"].where if "device" in attrs else attrs["flowunit"].where
            self._complain(f"node '{spec.name}': {error.message}", error.where or where, error.hint)
            return None

    def _build(self, spec: NodeSpec, attrs: dict[str, Attr], unit: UnitSpec) -> Node:
        settings, defaults = self.spec.settings, self.defaults
        wish = self._number(spec, attrs, "batch_size", 1) or settings.get("batch_size") or defaults.batch_size
        queue = self._number(spec, attrs, "queue_size", 1) or settings.get("queue_size") or defaults.queue_size
        external = self._number(spec, attrs, "queue_size_external", 1)
        sizes = {port.name: self._number(spec, attrs, f"queue_size_{port.name}", 1) or queue for port in unit.inputs}
        priority = self._number(spec, attrs, "priority", 1, 10) or 5
        return Node(
            name=spec.name,
            unit=unit,
            where=spec.where,
            options=self._options(spec, attrs, unit),
            batch_size=unit.effective_batch_size(wish),
            queue_sizes=sizes,
            queue_size_external=external or settings.get("queue_size_external") or defaults.queue_size_external,
            user_priority=priority,
            device_id=attrs["deviceid"].text if "deviceid" in attrs else "",
            sources={port.name: [] for port in unit.inputs},
            targets={port.name: [] for port in unit.outputs},
        )

    def _number(self, spec: NodeSpec, attrs: dict[str, Attr], key: str, least: int, most: int = 1 << 31) -> int | None:
        attr = attrs.get(key)
        if attr is None:
            return None
        if re.fullmatch("[0-9]{1,10}", attr.text) and least <= int(attr.text) <= most:
            return int(attr.text)
        text = (
            "queue size config is zero"
            if attr.text == "0" and "queue" in key
            else f"{key}={attr.text!r} is out of range"
        )
        limits = f"a whole number from {least}" + (f" to {most}" if most < 1 << 31 else " on")
        owner = "the graph" if attr is self.spec.attrs.get(key) else f"node '{spec.name}'"
        self._complain(f"{owner}: {text}", attr.where, limits)
        return None

    # ---- options ------------------------------------------------------------------------------------------

    def _options(self, spec: NodeSpec, attrs: dict[str, Attr], unit: UnitSpec) -> dict[str, str]:
        declared = {option.name: option for option in unit.options}
        options = dict(unit.config)
        for key, attr in spec.attrs.items():
            if key.startswith("queue_size_") or (key in ENGINE_ATTRS and key not in unit.config):
                self._check_engine_attr(spec, key, attr, unit)
                continue
            if key in declared:
                self._check_value(spec, declared[key], attr)
            elif not unit.open_options and key not in unit.config:
                if key not in DRAWING:
                    self._warn_option(spec, key, attr, unit)
                continue
            elif key in DRAWING and key not in unit.config and unit.kind is not UnitKind.PYTHON:
                continue
            options[key] = attr.text
        for option in unit.options:
            if option.name in options:
                continue
            if option.required:
                self._complain(
                    f"node '{spec.name}': option '{option.name}' of {unit.name} is missing",
                    spec.where,
                    option.description,
                )
            elif option.default is not None:
                options[option.name] = option.default
        return options

    def _check_engine_attr(self, spec: NodeSpec, key: str, attr: Attr, unit: UnitSpec) -> None:
        if key == "output_type" and attr.text not in ("match", "unmatch"):
            self._complain(f"node '{spec.name}': Invalid Output Type '{attr.text}'", attr.where, "match or unmatch")
        ports = [port.name for port in unit.inputs]
        known = key in ENGINE_ATTRS or key.removeprefix("queue_size_") in ports
        if not known:
            near = difflib.get_close_matches(key, [f"queue_size_{port}" for port in ports], 1)
            hint = f"did you mean '{near[0]}'?" if near else f"input ports of {unit.name}: {', '.join(ports) or 'none'}"
            message = f"node '{spec.name}': {key} names no input port, it is ignored"
            self.warnings.append(ConfigError(message, where=attr.where, hint=hint))

    def _warn_option(self, spec: NodeSpec, key: str, attr: Attr, unit: UnitSpec) -> None:
        known = sorted({option.name for option in unit.options} | (ENGINE_ATTRS - {"label"}))
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(o.name for o in unit.options) or 'none'}"
        message = f"node '{spec.name}': unit {unit.name} has no option '{key}', it is ignored"
        self.warnings.append(ConfigError(message, where=attr.where, hint=hint))

    def _check_value(self, spec: NodeSpec, option: OptionSpec, attr: Attr) -> None:
        wanted = ""
        if option.values and attr.text not in option.values:
            near = difflib.get_close_matches(attr.text, option.values, 1)
            wanted = "one of " + ", ".join(option.values) + (f"; did you mean '{near[0]}'?" if near else "")
        elif option.type == "int" and not _is_int(attr.text):
            wanted = "a whole number"
        elif option.type == "float" and not _is_float(attr.text):
            wanted = "a number"
        elif option.type == "endpoint" and not _is_endpoint(attr.text):
            wanted = "http://host:port/path or https://..., port 0 to 65535"
        elif option.type == "bool" and attr.text.lower() not in ("true", "false", "1", "0"):
            wanted = "true or false"
        if wanted:
            self._complain(f"node '{spec.name}': option {option.name}={attr.text!r} is not allowed", attr.where, wanted)

    # ---- edges ----------------------------------------------------------------------------------------------

    def _edge(self, edge: EdgeSpec) -> bool:
        """Connects two ports. False, and a complaint, when it cannot."""
        src, dst = self.nodes.get(edge.src), self.nodes.get(edge.dst)
        if src is None or dst is None:
            return False  # its node was complained about
        src_port = self._port(edge, src, edge.src_port, "src")
        dst_port = self._port(edge, dst, edge.dst_port, "dst")
        if src_port is None or dst_port is None:
            return False
        source, target = Endpoint(src.name, src_port), Endpoint(dst.name, dst_port)
        if target in src.targets[src_port]:
            self._complain(f"link is already exist: {src.name}:{src_port} -> {dst.name}:{dst_port}", edge.where)
            return False
        if dst.sources[dst_port] and not self.has_conditions:
            other = dst.sources[dst_port][0]
            self._complain(
                f"node '{dst.name}' port '{dst_port}': One port links multi edges can not match at one port: "
                f"{other.node}:{other.port} and {src.name}:{src_port}",
                edge.where,
                "an input takes one edge; only the branches of one condition may meet",
            )
            return False
        out_spec, in_spec = src.unit.output(src_port), dst.unit.input(dst_port)
        assert out_spec is not None and in_spec is not None
        if not TYPES.fit(out_spec.type, in_spec.type):
            self._complain(
                f"type mismatch: {src.name}:{src_port} gives {out_spec.type}, "
                f"{dst.name}:{dst_port} takes {in_spec.type}",
                edge.where,
            )
        src.targets[src_port].append(target)
        dst.sources[dst_port].append(source)
        return True

    def _port(self, edge: EdgeSpec, node: Node, port: str | None, side: str) -> str | None:
        ports = [item.name for item in (node.unit.outputs if side == "src" else node.unit.inputs)]
        if port in ports:
            return port
        if node.unit in (INPUT, OUTPUT) and ports:
            return ports[0]  # such a node is itself the port; whatever is written behind it does not matter
        kind = "output" if side == "src" else "input"
        have = f"{kind} ports of {node.unit.name}: {', '.join(ports) or 'none'}"
        if port is None:
            self._complain(f"{side} port is missing, node: {node.name}", edge.where, f"write {node.name}:PORT; {have}")
            return None
        near = difflib.get_close_matches(port, ports, 1)
        hint = f"did you mean '{near[0]}'? {have}" if near else have
        self._complain(f"{side} port is not exist, node: {node.name} port: {port}", edge.where, hint)
        return None

    # ---- the whole ------------------------------------------------------------------------------------------

    def _ports(self) -> None:
        for node in self.nodes.values():
            if node.name in self.doubtful:
                continue
            if len(self.spec.nodes) > 1 and not any(node.sources.values()) and not any(node.targets.values()):
                if self.spec.strict:
                    self._complain(
                        f"orphan node: '{node.name}', use graph.strict=false to disable orphan check", node.where
                    )
                continue
            for kind, ports in (("input", node.sources), ("output", node.targets)):
                for port, ends in ports.items():
                    if not ends:
                        word = "in" if kind == "input" else "out"
                        self._complain(
                            f"node '{node.name}' port '{port}': {word} port is not connect.",
                            node.where,
                            f"flowunit '{node.unit.name}' config error, port not connect correctly; "
                            f"every {kind} port needs an edge",
                        )
        if len(self.nodes) == len(self.spec.nodes) and not any(node.is_source for node in self.nodes.values()):
            where = next(iter(self.nodes.values())).where
            self._complain("start node is not exist.", where, "a graph needs a node whose unit has no inputs")

    def _whole(self) -> None:
        if self.problems or not self.nodes:
            return
        # With strict = false, nodes without edges are left alone.
        linked = [n.name for n in self.nodes.values() if any(n.sources.values()) or any(n.targets.values())]
        seen: set[str] = set()
        todo = linked[:1]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.nodes[name]
            for ends in (*node.sources.values(), *node.targets.values()):
                todo += [end.node for end in ends]
        apart = [name for name in linked if name not in seen]
        if apart:
            self._complain(
                f"not all node union. '{apart[0]}' has no path to '{linked[0]}'",
                self.nodes[apart[0]].where,
                "put separate pipelines into files of their own",
            )

    def _order(self) -> list[str]:
        waiting = {name: sum(len(ends) for ends in node.sources.values()) for name, node in self.nodes.items()}
        ready = deque(name for name, count in waiting.items() if not count)
        order: list[str] = []
        while ready:
            name = ready.popleft()
            order.append(name)
            for ends in self.nodes[name].targets.values():
                for end in ends:
                    waiting[end.node] -= 1
                    if not waiting[end.node]:
                        ready.append(end.node)
        if len(order) < len(self.nodes):
            cycle = self._cycle(self.nodes.keys() - set(order))
            shown = cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]]
            self._complain(
                f"generate topology fail: the graph has a cycle: {' -> '.join(shown)}",
                self.nodes[cycle[0]].where,
                "an edge must not lead back to a node before it",
            )
        return order

    def _cycle(self, inside: set[str]) -> list[str]:
        """One of the cycles among the nodes that have no place in the order, its first node last again."""
        name = next(name for name in self.nodes if name in inside)
        seen: dict[str, int] = {}
        path: list[str] = []
        while name not in seen:
            seen[name] = len(path)
            path.append(name)
            # Every node left over has a predecessor that is left over; walk backwards until one repeats.
            name = next(end.node for ends in self.nodes[name].sources.values() for end in ends if end.node in inside)
        loop = [*path[seen[name] :], name]
        loop.reverse()
        first = loop.index(min(loop, key={name: rank for rank, name in enumerate(self.nodes)}.__getitem__))
        return [*loop[first:-1], *loop[:first], loop[first]]


def _place(where: Where | None) -> tuple[int, int]:
    return (where.line, where.column) if where else (0, 0)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # a port out of range, brackets that do not match
        return False


def _is_int(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[0-9]{1,19}\s*", text) is not None and -(1 << 63) <= int(text) < 1 << 63


def _is_float(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False
