"""What a flow unit is, as data: name, device, ports, options, kind. Made by the driver registry, read by
graph checks, the planner, the engine and the tools. Nothing here loads or runs a unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class UnitKind(Enum):
    """Where a unit's code comes from, and so where it runs."""

    NATIVE = "native"  # a .so: engine thread, GIL released
    BUILTIN = "builtin"  # our own Python: engine thread or asyncio loop
    PYTHON = "python"  # a user's Python: worker process
    INFERENCE = "inference"  # TOML + model: the engine unit behind its virtual_type
    VIRTUAL = "virtual"  # TOML + parameters: the unit behind it
    GRAPH = "graph"  # a graph file: its nodes stand in place of the node when a graph is checked


class FlowType(Enum):
    """How buffers are handed to process() (reference: run-time semantics, unit kinds)."""

    NORMAL = "normal"  # batches may mix streams, several at once, as many out as in
    STREAM = "stream"  # one stream in order, one call after the other, any number out


ROLES = ("expand", "collapse", "condition", "loop")  # what a unit can be instead of plain; first ones win


def one_role(expand: bool, collapse: bool, condition: bool, loop: bool) -> tuple[bool, bool, bool, bool]:
    """The same flags, where a description sets several: expand and collapse win over condition, that over loop.

    Both expand and collapse stay set; no such unit can be placed in a graph.
    """
    condition = condition and not (expand or collapse)
    return expand, collapse, condition, loop and not (expand or collapse or condition)


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port. `type` is a name of the tree under "raw"; `device` is where the port wants its data."""

    name: str
    type: str = "raw"
    device: str = "cpu"
    strict: bool = False  # running checks that buffers are of this type, building only that they may be


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option (node attribute) that a unit declares; `values` are the allowed words, () = any."""

    name: str
    type: str = "string"  # int, float, bool, string, list
    default: str | None = None
    required: bool = False
    description: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """One flow unit as found by the registry."""

    name: str
    device: str
    version: str
    description: str
    kind: UnitKind
    path: str  # the .so, or the TOML of any other kind
    inputs: tuple[PortSpec, ...] = ()
    outputs: tuple[PortSpec, ...] = ()
    options: tuple[OptionSpec, ...] = ()
    open_options: bool = False  # True: takes any option (user Python units declare none)
    group: str = "Generic"
    flow_type: FlowType = FlowType.NORMAL
    condition: bool = False
    expand: bool = False
    collapse: bool = False
    collapse_all: bool = True
    loop: bool = False
    exception_visible: bool = False
    elementwise: bool = False
    default_batch_size: int = 0  # 0: 1 for STREAM, 8 for NORMAL
    max_batch_size: int = 0  # 0: 1 for STREAM, unlimited for NORMAL
    entry: str = ""  # python, builtin: "module@Class"; inference: absolute path of the model
    types: tuple[tuple[str, str], ...] = ()  # port types that it adds to the tree: name, parent
    virtual_type: str = ""  # inference, virtual: what runs it
    python: str = ""  # python: the interpreter, "" = the server's
    environment: tuple[tuple[str, str], ...] = ()  # python: variables of its workers
    config: dict[str, str] = field(default_factory=dict, hash=False)  # [config] of the TOML, as text
    life: dict[str, int | str] = field(default_factory=dict, hash=False)  # python: what [base] says about its workers
    base: dict[str, object] = field(default_factory=dict, hash=False)  # the TOML's other keys, parsed

    @property
    def role(self) -> str:
        """How process() is called: "expand", "collapse", "condition", "loop", "stream" or "normal"."""
        for role in ROLES:
            if getattr(self, role):
                return role
        return self.flow_type.value

    def input(self, name: str) -> PortSpec | None:
        """The input port of this name, or None."""
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> PortSpec | None:
        """The output port of this name, or None."""
        return next((port for port in self.outputs if port.name == name), None)

    def effective_batch_size(self, wish: int | None) -> int:
        """The batch size that a node gets: its wish or the unit's default, capped by the unit's maximum.

        Only plain units take batches: for the others it is 1.
        """
        if self.role in ROLES:
            return 1
        stream = self.flow_type is FlowType.STREAM
        size = wish or self.default_batch_size or (1 if stream else 8)
        limit = self.max_batch_size or (1 if stream else 0)
        return min(size, limit) if limit else size
