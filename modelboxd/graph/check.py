"""From GraphSpec to Graph: units found, options merged, ports and shape checked.

All complaints are collected, each with its place, so that a user mends a file in one go.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from modelbox.errors import GraphError, ModelBoxError, Where
from modelbox.spec import UnitSpec
from modelboxd.graph.attributes import INHERITED, INPUT, LOOP_LIMIT, MOST_DELAY_US, MOST_ROUNDS, OUTPUT, Attributes
from modelboxd.graph.finder import Finder, RegistryLike
from modelboxd.graph.inline import inline, missing_port, unconnected
from modelboxd.graph.levels import Levels
from modelboxd.graph.model import Attr, EdgeSpec, Endpoint, Graph, GraphSpec, Node, NodeSpec
from modelboxd.graph.order import Order


@dataclass(frozen=True, slots=True)
class GraphDefaults:
    """What a graph gets that does not say otherwise."""

    queue_size: int = 32
    queue_size_external: int = 1024
    batch_size: int | None = None
    queue_bytes: int = 0  # 0 = no limit


def check_graph(spec: GraphSpec, registry: RegistryLike, defaults: GraphDefaults | None = None) -> Graph:
    """Raises GraphError; its `problems` are all that was found."""
    return _Checker(spec, registry, defaults or GraphDefaults()).run()


class _Checker:
    def __init__(self, spec: GraphSpec, registry: RegistryLike, defaults: GraphDefaults) -> None:
        self.spec = spec
        self.defaults = defaults
        self.finder = Finder(registry)
        self.flat = inline(spec, self.finder)
        self.problems, self.warnings = self.flat.problems, self.flat.warnings
        self.nodes: dict[str, Node] = {}
        self.doubtful = self.flat.doubtful

    def run(self) -> Graph:
        for item in self.flat.nodes.values():
            made = self._node(item)
            if made is not None:
                self.nodes[item.name] = made
                self._check_role(made)
        self.has_conditions = any(node.unit.condition for node in self.nodes.values())
        for edge in self.flat.edges:
            if not self._edge(edge):
                self.doubtful |= {edge.src, edge.dst}
        self._ports()
        self._model()
        order = Order(self.nodes)
        self.problems += order.problems
        self._whole()
        nodes = {name: self.nodes[name] for name in order.names}
        if not self.problems:
            levels = Levels(nodes, order.bodies)
            self.problems += levels.problems
            self.warnings += levels.warnings
        if self.problems:
            raise GraphError.of(sorted(self.problems, key=self._place), self.warnings)
        for rank, node in enumerate(nodes.values()):
            node.priority = rank
        spec = self.spec
        return Graph(
            spec.name,
            spec.file,
            nodes,
            spec.settings,
            spec.flow_name,
            spec.flow_desc,
            self.warnings,
            spec.priority,
            spec.session_timeout_s,
            spec.model,
        )

    def _model(self) -> None:
        """The tensors of [model] stand at input and output nodes."""
        model = self.spec.model
        for side, unit, tensors in (
            ("inputs", INPUT, model.inputs if model else {}),
            ("outputs", OUTPUT, model.outputs if model else {}),
        ):
            there = [name for name, node in self.nodes.items() if node.unit is unit]
            for name, tensor in tensors.items():
                if name not in there:
                    hint = f"there are: {', '.join(there) or 'none'}"
                    self._complain(f"model.{side}.{name}: there is no {unit.name} node '{name}'", tensor.where, hint)

    def _whole_of(self, name: str) -> object:
        """What a node is a part of: the inputs of the graph belong together, its outputs, and the nodes of a graph that
        stands in place of a node."""
        unit = self.nodes[name].unit
        return unit.name if unit is INPUT or unit is OUTPUT else ("node", self.flat.outer.get(name, name))

    def _place(self, problem: ModelBoxError) -> tuple[bool, str, int, int]:
        """The file itself first, graphs inside of it then."""
        where = problem.where or Where(self.spec.file)
        return where.file != self.spec.file, where.file, where.line, where.column

    def _complain(self, message: str, where: Where | None, hint: str = "", *, node: str = "") -> None:
        if not any(old.where == where and old.message == message for old in self.problems[-1:]):
            self.problems.append(GraphError(message, where=where, hint=hint, node=node))

    # ---- nodes ------------------------------------------------------------------------------------------

    def _node(self, spec: NodeSpec) -> Node | None:
        attrs = {key: self.spec.attrs[key] for key in INHERITED if key in self.spec.attrs} | spec.attrs
        kind = attrs["type"].text.lower() if "type" in attrs else "flowunit"
        if kind not in ("flowunit", "input", "output"):
            self._complain(
                f"node '{spec.name}': unsupport node type '{kind}'",
                attrs["type"].where,
                "type is flowunit, input or output",
                node=spec.name,
            )
            return None
        if kind != "flowunit":
            return self._build(spec, INPUT if kind == "input" else OUTPUT)
        if "flowunit" not in attrs or not attrs["flowunit"].text:
            self._complain(
                f"node '{spec.name}': flowunit name is empty.",
                spec.where,
                "give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?",
                node=spec.name,
            )
            return None
        unit = self._find(spec, attrs)
        return self._build(spec, unit) if unit is not None else None

    def _find(self, spec: NodeSpec, attrs: dict[str, Attr]) -> UnitSpec | None:
        device = attrs["device"].text if "device" in attrs else ""
        several = any(sign in device for sign in ":;,")
        if "deviceid" in attrs and (not device or several):
            text = "should not set deviceid param when use multi device" if several else "deviceid needs a device"
            self._complain(
                f"node '{spec.name}': {text}", attrs["deviceid"].where, "such as device=cpu, deviceid=0", node=spec.name
            )
        try:
            return self.flat.finders.get(spec.name, self.finder).find(attrs)
        except ModelBoxError as error:
            where = attrs["device"].where if "device" in attrs else attrs["flowunit"].where
            self._complain(f"node '{spec.name}': {error.message}", error.where or where, error.hint, node=spec.name)
            return None

    def _build(self, spec: NodeSpec, unit: UnitSpec) -> Node:
        settings, defaults = self.spec.settings, self.defaults
        attrs = Attributes(self.spec, spec, unit, self.problems, self.warnings)
        wish = attrs.number("batch_size", 1) or settings.get("batch_size") or defaults.batch_size
        queue = attrs.number("queue_size", 1) or settings.get("queue_size") or defaults.queue_size
        external = attrs.number("queue_size_external", 1)
        sizes = {port.name: attrs.number(f"queue_size_{port.name}", 1) or queue for port in unit.inputs}
        batch_size = unit.effective_batch_size(wish)
        queue_bytes = attrs.size("queue_bytes")
        return Node(
            name=spec.name,
            unit=unit,
            where=spec.where,
            options=attrs.options(),
            life={**unit.life, **attrs.life()},
            batch_size=batch_size,
            queue_sizes=sizes,
            queue_size_external=external or settings.get("queue_size_external") or defaults.queue_size_external,
            user_priority=attrs.number("priority", 1, 10) or 5,
            group=spec.group,
            device_id=_device_id(attrs, unit),
            sources={port.name: [] for port in unit.inputs},
            targets={port.name: [] for port in unit.outputs},
            loop_limit=attrs.number("loop_limit", 1, MOST_ROUNDS) or LOOP_LIMIT,
            drop=attrs.word("drop"),
            queue_bytes=defaults.queue_bytes if queue_bytes is None else queue_bytes,
            max_queue_delay_us=attrs.number("max_queue_delay_us", 0, MOST_DELAY_US) or 0,
            preferred_batch_sizes=attrs.batch_sizes("preferred_batch_sizes", batch_size),
            sees_errors={"": unit.exception_visible, "true": True, "1": True}.get(
                attrs.word("exception_visible"), False
            ),
            match="unmatch" not in (attrs.word("input_type"), attrs.word("output_type")),
        )

    def _check_role(self, node: Node) -> None:
        """Whether the ports of a unit fit what it is."""
        unit = node.unit
        inputs, outputs = len(unit.inputs), len(unit.outputs)
        reason = ""
        if unit.expand and unit.collapse:
            reason = "it cannot be both expand and collapse"
        elif unit.condition and (inputs < 1 or outputs < 2):
            reason = "a condition needs at least 1 input and 2 outputs"
        elif unit.loop and (inputs, outputs) != (1, 2):
            reason = "a loop needs exactly 1 input and 2 outputs"
        elif (unit.expand or unit.collapse) and not (inputs and outputs):
            reason = f"{unit.role} needs at least 1 input and 1 output"
        types = self.flat.finders.get(node.name, self.finder).types
        node.strict_inputs = {port.name: types.line(port.type) for port in unit.inputs if port.strict}
        node.strict_outputs = {port.name: types.line(port.type) for port in unit.outputs if port.strict}
        for port in (*unit.inputs, *unit.outputs):
            if port.strict and port.type not in types:
                self._complain(
                    f"node '{node.name}' port '{port.name}': type '{port.type}' is not known, but the port is strict",
                    node.where,
                    f'see {unit.path}; [types] {port.type} = "raw" makes it known',
                )
        if reason:
            have = f"has {inputs} input{'s' * (inputs != 1)} and {outputs} output{'s' * (outputs != 1)}"
            self._complain(
                f"node '{node.name}': unit {unit.name} {have}: {reason}", node.where, f"see {unit.path}", node=node.name
            )

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
        if dst.sources[dst_port] and not self.has_conditions and not dst.unit.loop:
            other = dst.sources[dst_port][0]
            self._complain(
                f"node '{dst.name}' port '{dst_port}': One port links multi edges can not match at one port: "
                f"{other.node}:{other.port} and {src.name}:{src_port}",
                edge.where,
                "an input takes one edge; only the branches of one condition may meet",
                node=dst.name,
            )
            return False
        out_spec, in_spec = src.unit.output(src_port), dst.unit.input(dst_port)
        assert out_spec is not None and in_spec is not None
        # Directories of a graph inside know more types than those of the file around it.
        finder = self.flat.finders.get(dst.name) or self.flat.finders.get(src.name, self.finder)
        if not finder.types.fit(out_spec.type, in_spec.type):
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
        if (node.unit is INPUT or node.unit is OUTPUT) and ports:
            return ports[0]  # such a node is itself the port; whatever is written behind it does not matter
        message, hint = missing_port(node.name, node.unit, port, side)
        where = edge.src_where if side == "src" else edge.dst_where
        self._complain(message, where or edge.where, hint, node=node.name)
        return None

    # ---- the whole ------------------------------------------------------------------------------------------

    def _ports(self) -> None:
        if self.flat.broken:
            return
        for node in self.nodes.values():
            if node.name in self.doubtful:
                continue
            if len(self.flat.nodes) > 1 and not any(node.sources.values()) and not any(node.targets.values()):
                if self.spec.strict and node.name not in self.flat.loose:
                    self._complain(
                        f"orphan node: '{node.name}', use graph.strict=false to disable orphan check",
                        node.where,
                        node=node.name,
                    )
                continue
            for kind, ports in (("input", node.sources), ("output", node.targets)):
                for port, ends in ports.items():
                    if not ends:
                        self._complain(*unconnected(node.name, node.unit, port, kind, node.where), node=node.name)
        if len(self.nodes) == len(self.flat.nodes) and not any(node.is_source for node in self.nodes.values()):
            where = next(iter(self.nodes.values())).where
            self._complain("start node is not exist.", where, "a graph needs a node whose unit has no inputs")

    def _whole(self) -> None:
        if self.problems or not self.nodes:
            return
        # With strict = false, nodes without edges are left alone.
        linked = [n.name for n in self.nodes.values() if any(n.sources.values()) or any(n.targets.values())]
        parts: dict[object, list[str]] = defaultdict(list)
        for name in linked:
            parts[self._whole_of(name)].append(name)
        seen: set[str] = set()
        todo = linked[:1]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            todo += parts.pop(self._whole_of(name), [])
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


def _device_id(attrs: Attributes, unit: UnitSpec) -> str:
    """The numbers of the unit's devices: of `deviceid`, or of its part of a `device` such as "cuda:0,1;cpu"."""
    if "deviceid" in attrs.attrs:
        return attrs.attrs["deviceid"].text.strip()
    device = attrs.attrs["device"].text if "device" in attrs.attrs else ""
    parts = [part.partition(":") for part in device.split(";")]
    return next((numbers.strip() for kind, _, numbers in parts if kind.strip() == unit.device), "")
