"""Attributes of a node: what the engine reads, what its unit gets as options, and what nobody knows."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from modelbox.errors import ConfigError, GraphError, ModelBoxError, Where
from modelbox.spec import OptionSpec, PortSpec, UnitKind, UnitSpec
from modelboxd.graph.life import OPTIONS as LIFE
from modelboxd.graph.model import Attr, GraphSpec, NodeSpec

# The nodes by which data enters and leaves a graph from outside; the node's name is the name of the port there.
INPUT = UnitSpec("input", "cpu", "", "", UnitKind.VIRTUAL, "", outputs=(PortSpec("input"),))
OUTPUT = UnitSpec("output", "cpu", "", "", UnitKind.VIRTUAL, "", inputs=(PortSpec("output"),))

INHERITED = ("batch_size", "queue_size", "queue_bytes", "deviceid", "need_check_output")
ENGINE_ATTRS = {
    *("type", "flowunit", "device", "deviceid", "label", "version", "batch_size", "priority"),
    *("queue_size", "queue_size_external", "queue_size_event", "queue_bytes"),
    *("need_check_output", "is_exception_visible"),
}
# Attributes that have a meaning on some nodes only: which units, in code and in words. On others they are options like
# any other name.
PLACED: dict[str, tuple[Callable[[UnitSpec], bool], str]] = {
    "drop": (lambda unit: not unit.inputs, "sources and type=input"),
    "exception_visible": (lambda unit: bool(unit.inputs), "nodes with inputs"),
    "loop_limit": (lambda unit: unit.loop, "loop units"),
    "input_type": (lambda unit: unit is INPUT, "type=input"),
    "output_type": (lambda unit: unit is OUTPUT, "type=output"),
    "max_queue_delay_us": (lambda unit: takes_batches(unit), "normal units"),
    "preferred_batch_sizes": (lambda unit: takes_batches(unit), "normal units"),
    **{key: (lambda unit: unit.kind is UnitKind.PYTHON, "Python units") for key in LIFE},
}
WORDS = {
    "drop": ("Invalid Drop", "", ("oldest", "newest")),
    "exception_visible": ("Invalid Exception Visible", "", ("true", "false", "1", "0")),
    "input_type": ("Invalid Input Type", "match", ("match", "unmatch")),
    "output_type": ("Invalid Output Type", "match", ("match", "unmatch")),
}
# Attributes that only say how Graphviz draws; units may have options of the same name.
DRAWING = {
    *("shape", "color", "style", "fillcolor", "fontname", "fontsize", "fontcolor", "width", "height", "penwidth"),
    *("tooltip", "URL", "pos", "group", "margin", "image", "xlabel", "comment", "class", "id", "rank", "ordering"),
}
ANY = 1 << 31
MOST_BYTES = 1 << 40
BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LOOP_LIMIT, MOST_ROUNDS = 1000, 1_000_000
MOST_DELAY_US = 60_000_000
NEAR = 0.8  # how alike an undeclared option of a Python unit must be to another name to be doubted


def takes_batches(unit: UnitSpec) -> bool:
    """Whether calls of the unit hold up to batch_size buffers, of any streams."""
    return bool(unit.inputs) and unit.role == "normal" and unit is not OUTPUT


class Attributes:
    """Reads the attributes of one node. Complaints go to `problems`, doubts to `warnings`."""

    def __init__(
        self,
        graph: GraphSpec,
        node: NodeSpec,
        unit: UnitSpec,
        problems: list[ModelBoxError],
        warnings: list[ModelBoxError],
    ) -> None:
        self.graph = graph
        self.node = node
        self.unit = unit
        self.problems = problems
        self.warnings = warnings
        self.attrs = {key: graph.attrs[key] for key in INHERITED if key in graph.attrs} | node.attrs

    def _complain(self, message: str, where: Where, hint: str = "") -> None:
        if not any(old.where == where and old.message == message for old in self.problems[-1:]):
            self.problems.append(GraphError(message, where=where, hint=hint, node=self.node.name))

    def warn(self, message: str, where: Where, hint: str = "") -> None:
        """Something about this node that is no mistake, or none that matters."""
        self.warnings.append(
            ConfigError(f"node '{self.node.name}': {message}", where=where, hint=hint, node=self.node.name)
        )

    # ---- what the engine reads ----------------------------------------------------------------------------

    def _placed(self, key: str) -> Attr | None:
        """An attribute, where it has a meaning on nodes of this unit."""
        fits, _ = PLACED.get(key, (None, ""))
        return self.attrs.get(key) if fits is None or fits(self.unit) else None

    def number(self, key: str, least: int, most: int = ANY) -> int | None:
        """A whole number; None when it is missing or wrong."""
        attr = self._placed(key)
        if attr is None:
            return None
        if re.fullmatch("[0-9]{1,10}", attr.text) and least <= int(attr.text) <= most:
            return int(attr.text)
        text = (
            "queue size config is zero"
            if attr.text == "0" and key.startswith("queue_size")
            else f"{key}={attr.text!r} is out of range"
        )
        limits = f"a whole number from {least}" + (f" to {most}" if most < ANY else " on")
        self._complain(f"{self._owner(key)}: {text}", attr.where, limits)
        return None

    def _owner(self, key: str) -> str:
        return "the graph" if self.attrs[key] is self.graph.attrs.get(key) else f"node '{self.node.name}'"

    def size(self, key: str) -> int | None:
        """A number of bytes such as 64M; None when it is missing or wrong."""
        attr = self._placed(key)
        if attr is None:
            return None
        match = re.fullmatch(r"([0-9]{1,13})\s*([KMG]?)i?B?", attr.text, re.IGNORECASE)
        if match and int(match[1]) * BYTES[match[2].upper()] <= MOST_BYTES:
            return int(match[1]) * BYTES[match[2].upper()]
        self._complain(
            f"{self._owner(key)}: {key}={attr.text!r} is out of range",
            attr.where,
            "bytes, or such as 512K, 64M, 2G; 0 is no limit, 1024G the most",
        )
        return None

    def word(self, key: str) -> str:
        """One of the words that are allowed for it, or its default."""
        title, default, words = WORDS[key]
        attr = self._placed(key)
        if attr is None or attr.text in words:
            return attr.text if attr else default
        self._complain(f"node '{self.node.name}': {title} '{attr.text}'", attr.where, " or ".join(words))
        return default

    def life(self) -> dict[str, int | str]:
        """What the node says about its workers (life.py); names that its unit has in [config] are the unit's own."""
        said: dict[str, int | str] = {}
        for key, option in LIFE.items():
            attr = self._placed(key)
            if attr is None or key in self.unit.config:
                continue
            try:
                said[key] = option.read(attr.text)
            except ValueError as error:
                self._complain(f"node '{self.node.name}': {key}={attr.text!r} is out of range", attr.where, str(error))
        return said

    def batch_sizes(self, key: str, most: int) -> tuple[int, ...]:
        """A list of batch sizes up to that of the node, in ascending order."""
        attr = self._placed(key)
        if attr is None:
            return ()
        items = attr.items()
        if all(re.fullmatch("[0-9]{1,9}", item) and 1 <= int(item) <= most for item in items):
            return tuple(sorted({int(item) for item in items}))
        self._complain(
            f"node '{self.node.name}': {key}={attr.text!r} is out of range",
            attr.where,
            f"whole numbers from 1 to the batch size of the node, {most}",
        )
        return ()

    # ---- options of the unit -------------------------------------------------------------------------------

    def options(self) -> dict[str, str]:
        """The options that the unit gets: its configuration, overridden by attributes, and its defaults."""
        unit = self.unit
        declared = {option.name: option for option in unit.options}
        options = dict(unit.config)
        for key, attr in self.node.attrs.items():
            if key.startswith("queue_size_") or (self._is_engines(key) and key not in unit.config):
                self._check_queue_port(key, attr)
                continue
            if key in declared:
                self.check_value(declared[key], attr)
            elif not unit.open_options and key not in unit.config:
                if key not in DRAWING:
                    self.warn_of_option(key, attr)
                continue
            elif key in DRAWING and key not in unit.config and unit.kind is not UnitKind.PYTHON:
                continue
            elif key not in unit.config and key not in DRAWING:
                self._warn_of_near(key, attr)
            options[key] = attr.text
        for option in unit.options:
            if option.name in options:
                continue
            if option.required:
                self._complain(
                    f"node '{self.node.name}': option '{option.name}' of {unit.name} is missing",
                    self.node.where,
                    option.description,
                )
            elif option.default is not None:
                options[option.name] = option.default
        return options

    def _is_engines(self, key: str) -> bool:
        return key in ENGINE_ATTRS or (key in PLACED and PLACED[key][0](self.unit))

    def _check_queue_port(self, key: str, attr: Attr) -> None:
        ports = [port.name for port in self.unit.inputs]
        if self._is_engines(key) or key.removeprefix("queue_size_") in ports:
            return
        near = difflib.get_close_matches(key, [f"queue_size_{port}" for port in ports], 1)
        have = f"input ports of {self.unit.name}: {', '.join(ports) or 'none'}"
        self.warn(
            f"{key} names no input port, it is ignored", attr.where, f"did you mean '{near[0]}'?" if near else have
        )

    def warn_of_option(self, key: str, attr: Attr) -> None:
        """Nobody reads this attribute."""
        if key in PLACED:
            self.warn(f"{key} has no meaning here, it is ignored", attr.where, f"it is for {PLACED[key][1]}")
            return
        near = difflib.get_close_matches(key, sorted(self._known()), 1)
        have = f"it has: {', '.join(option.name for option in self.unit.options) or 'none'}"
        message = f"unit {self.unit.name} has no option '{key}', it is ignored"
        self.warn(message, attr.where, f"did you mean '{near[0]}'?" if near else have)

    def _warn_of_near(self, key: str, attr: Attr) -> None:
        """Python units may read what no [config] names; a name that is almost another one is a slip of the pen."""
        known = [name for name in sorted({*self.unit.config, *self._known()}) if _letters(name) != _letters(key)]
        near = [name for name in known if _is_swapped(key, name)] or difflib.get_close_matches(key, known, 1, NEAR)
        if near:
            message = f"unit {self.unit.name} declares no option '{key}', it gets it all the same"
            self.warn(message, attr.where, f"did you mean '{near[0]}'?")

    def _known(self) -> set[str]:
        """Names that have a meaning on this node."""
        placed = {name for name in PLACED if self._is_engines(name)}
        return {option.name for option in self.unit.options} | (ENGINE_ATTRS - {"label"}) | placed

    def check_value(self, option: OptionSpec, attr: Attr) -> None:
        """Complains of a value that the option does not allow."""
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
            message = f"node '{self.node.name}': option {option.name}={attr.text!r} is not allowed"
            self._complain(message, attr.where, wanted)


def _is_swapped(one: str, other: str) -> bool:
    """Whether two neighbouring letters have changed places; in a short name that makes it less alike than NEAR."""
    if len(one) != len(other):
        return False
    differ = [at for at in range(len(one)) if one[at] != other[at]]
    return len(differ) == 2 and differ[1] == differ[0] + 1 and sorted(one) == sorted(other)


def _letters(name: str) -> str:
    """threshold1 and threshold2 are no slips of the pen."""
    return re.sub("[0-9]", "", name)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        more = parts.query or parts.fragment or parts.username
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0 and not more
    except ValueError:  # a port out of range, brackets that do not match
        return False


def _is_int(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[0-9]{1,19}\s*", text) is not None and -(1 << 63) <= int(text) < 1 << 63


def _is_float(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False
