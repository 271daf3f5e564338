"""Unit TOML files: Python units, models, and the descriptors of built-in units, into UnitSpec."""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelbox.configuration import list_text
from modelbox.errors import DriverError, GraphError, Where
from modelbox.spec import ROLES, FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec, one_role
from modelboxd.graph.inline import graph_unit
from modelboxd.graph.keys import key_line
from modelboxd.graph.life import OPTIONS as LIFE
from modelboxd.graph.loader import parse_graph, plain_text, toml_error
from modelboxd.graph.types import is_type_name

log = logging.getLogger(__name__)

PYTHON_DEVICES = ("cpu", "cuda")
OTHER_KINDS = ("java", "c++")  # of ModelBox; not run here
KINDS = {
    "python": UnitKind.PYTHON,
    "inference": UnitKind.INFERENCE,
    "yolo_postprocess": UnitKind.VIRTUAL,
    "builtin": UnitKind.BUILTIN,
}
# What every model's node may say; the unit behind its virtual_type reads it.
MODEL_OPTIONS = (
    OptionSpec("intra_op_num_threads", "int", "0", description="threads of one run; 0 = as many as there are CPUs"),
    OptionSpec("inter_op_num_threads", "int", "0", description="branches of a model that run at once; 0 = one"),
)
KEYS = (
    *("name", "type", "virtual_type", "device", "version", "description", "entry", "group_type", "python"),
    *("stream", "condition", "expand", "collapse", "collapse_all", "loop", "exception_visible"),
    *("max_batch_size", "default_batch_size", "stream_same_count", "is_input_contiguous"),
)
_GROUP = re.compile(r"^[A-Z]\w*(/\w*)?$")
_VERSION = re.compile(r"^\d+\.\d+\.\d+$")


def read_unit(path: Path, *, builtin_dir: Path) -> UnitSpec | None:
    """The unit that a TOML describes, which may be a graph; None for a file that is something else.

    Raises DriverError: file, line, what is wrong, how to mend it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DriverError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DriverError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise DriverError(f"{path}: is nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        message, where = toml_error(error, text, str(path))
        raise DriverError(message, where=where) from None
    base = data.get("base")
    if not isinstance(base, dict):
        return _graph(path, text, data)
    if str(base.get("type")) not in KINDS:
        _complain_of_type(base, Where(str(path), _line(text, "type")))
        return None
    return _Reader(path, text, data, base, builtin_dir).unit()


def _graph(path: Path, text: str, data: dict[str, Any]) -> UnitSpec | None:
    """The unit that a graph file is."""
    flow = data.get("flow")
    if not (isinstance(data.get("graph"), dict) and isinstance(flow, dict) and flow.get("name")):
        return None
    if str(flow.get("enable", True)).lower() in ("false", "0"):
        return None
    try:
        return graph_unit(parse_graph(text, str(path)))
    except GraphError as error:
        raise DriverError(error.message, where=error.where, hint=error.hint) from None


def _complain_of_type(base: dict[str, Any], where: Where) -> None:
    """Files of other kinds are passed over in silence, but not one that only has its type wrong."""
    if str(base.get("type")) in OTHER_KINDS or not {"name", "device", "entry"} <= base.keys():
        return
    if "type" not in base:
        raise DriverError("base.type is missing", where=where, hint='such as type = "python"')
    near = difflib.get_close_matches(str(base["type"]), KINDS, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(KINDS)}"
    raise DriverError(f"base.type = {base['type']!r} is not known", where=where, hint=hint)


def _line(text: str, key: str) -> int:
    """The line of a key of [base], or of a section such as input.input1; 0 when there is none."""
    return key_line(text, *key.split(".")) if "." in key else key_line(text, "base", key)


class _Reader:
    def __init__(self, path: Path, text: str, data: dict[str, Any], base: dict[str, Any], builtin_dir: Path) -> None:
        self.path = path
        self.file_text = text
        self.data = data
        self.base = base
        self.kind = KINDS[base["type"]]
        self.builtin_dir = builtin_dir

    def fail(self, message: str, key: str = "", hint: str = "") -> DriverError:
        line = _line(self.file_text, key) if key else 0
        return DriverError(message, where=Where(str(self.path), line), hint=hint)

    def unit(self) -> UnitSpec:
        if self.kind is UnitKind.BUILTIN and self.builtin_dir.resolve() not in self.path.resolve().parents:
            raise self.fail('base.type = "builtin" is for units of modelbox itself', "type", 'use type = "python"')
        needed = ["name", "device", "version", "description"]
        if self.kind in (UnitKind.PYTHON, UnitKind.INFERENCE, UnitKind.BUILTIN):
            needed.append("entry")
        if self.kind in (UnitKind.INFERENCE, UnitKind.VIRTUAL):
            needed.append("virtual_type")
        for key in needed:
            if not str(self.base.get(key, "")).strip():
                raise self.fail(f"base.{key} is missing", hint=self._example(key))
        if not _VERSION.match(self.word("version")):
            raise self.fail(f"base.version = {self.word('version')!r} is not of the form 1.0.0", "version")
        if self.kind is UnitKind.PYTHON and self.word("device") not in PYTHON_DEVICES:
            text = f"base.device = {self.word('device')!r}: Python units run on {' or '.join(PYTHON_DEVICES)}"
            raise self.fail(text, "device")
        inputs, outputs = self._ports("input"), self._ports("output")
        if not inputs and not outputs:
            raise self.fail("the unit has neither [input] nor [output]")
        expand, collapse, condition, loop = one_role(*(self.flag(role, False) for role in ROLES))
        if expand and collapse:
            raise self.fail("base.expand and base.collapse are both true", "collapse", "a unit does one or the other")
        group = self.word("group_type") or "Generic"
        if not _GROUP.match(group):
            log.warning("%s", self.fail(f"base.group_type = {group!r} is not of the form Group/Sub", "group_type"))
        self._warn_of_keys()
        return UnitSpec(
            name=self.word("name"),
            device=self.word("device"),
            version=self.word("version"),
            description=self.word("description"),
            kind=self.kind,
            path=str(self.path),
            inputs=inputs,
            outputs=outputs,
            options=self._options(),
            open_options=self.kind in (UnitKind.PYTHON, UnitKind.VIRTUAL),
            group=group if _GROUP.match(group) else "Generic",
            flow_type=FlowType.NORMAL if condition or loop else self._flow_type(),
            condition=condition,
            expand=expand,
            collapse=collapse,
            loop=loop,
            collapse_all=self.flag("collapse_all", True),
            exception_visible=self.flag("exception_visible", False),
            default_batch_size=self.number("default_batch_size"),
            max_batch_size=self.number("max_batch_size"),
            entry=self._entry(),
            types=self._types(),
            virtual_type=self.word("virtual_type"),
            life=self._life(),
            python=self._python(),
            environment=self._environment(),
            config=dict(_flat(self._section("config"))),
            base={key: value for key, value in self.data.items() if key not in ("base", "config")},
        )

    def _warn_of_keys(self) -> None:
        """Other programs may read keys of their own; one that is almost one of ours is misspelt."""
        python = self.kind is UnitKind.PYTHON
        known = (*KEYS, *LIFE) if python else KEYS
        for key in sorted(self.base.keys() - set(known)):
            near = difflib.get_close_matches(key, known, 1, 0.8)
            if key in LIFE:
                log.warning(
                    "%s", self.fail(f"base.{key} has no meaning here, it is ignored", key, "it is for Python units")
                )
            elif near:
                log.warning("%s", self.fail(f"base.{key} is not known", key, f"did you mean '{near[0]}'?"))

        for key in (key for key in self._section("config") if python and key in LIFE):
            where = Where(str(self.path), key_line(self.file_text, "config", key))
            text = f"config.{key} is an option of the unit's own code; for its workers it stands in [base]"
            log.warning("%s", DriverError(text, where=where))

    def _example(self, key: str) -> str:
        examples = {
            "entry": 'add entry = "module@Class" to [base]'
            if self.kind is UnitKind.PYTHON
            else 'add entry = "model.onnx"',
            "virtual_type": 'add virtual_type = "onnx" to [base]',
            "version": 'add version = "1.0.0" to [base]',
        }
        return examples.get(key, f'add {key} = "..." to [base]')

    def word(self, key: str) -> str:
        return str(self.base.get(key, "")).strip()

    def flag(self, key: str, default: bool) -> bool:
        word = str(self.base.get(key, default)).lower()
        if word not in ("true", "false", "1", "0"):
            raise self.fail(f"base.{key} = {self.base[key]!r} is not true or false", key)
        return word in ("true", "1")

    def number(self, key: str) -> int:
        word = str(self.base.get(key, 0))
        if not word.isdigit():
            raise self.fail(f"base.{key} = {self.base[key]!r} is no whole number", key)
        return int(word)

    def _life(self) -> dict[str, int | str]:
        """How the unit's workers live, where nodes do not say (life.py)."""
        said: dict[str, int | str] = {}
        for key, option in LIFE.items() if self.kind is UnitKind.PYTHON else ():
            if key not in self.base:
                continue
            try:
                said[key] = option.read(plain_text(self.base[key]))
            except ValueError as error:
                raise self.fail(f"base.{key} = {self.base[key]!r} is out of range", key, str(error)) from None
        return said

    def _flow_type(self) -> FlowType:
        if self.kind is UnitKind.INFERENCE:
            return FlowType.NORMAL
        default = self.kind is UnitKind.PYTHON
        return FlowType.STREAM if self.flag("stream", default) else FlowType.NORMAL

    def _entry(self) -> str:
        entry = self.word("entry")
        if self.kind in (UnitKind.PYTHON, UnitKind.BUILTIN):
            module, at, name = entry.partition("@")
            if not (at and module.strip() and name.isidentifier()):
                raise self.fail(
                    f"base.entry = {entry!r} is not of the form module@Class", "entry", "module is the file without .py"
                )
        elif self.kind is UnitKind.INFERENCE:
            return str((self.path.parent / entry).resolve())
        return entry

    def _python(self) -> str:
        """The interpreter: an absolute path, or one from the TOML's directory on."""
        word = self.word("python")
        if not word or self.kind is not UnitKind.PYTHON:
            return ""
        if "/" not in word:
            raise self.fail(f"base.python = {word!r} is no path", "python", 'such as "/opt/venv/bin/python"')
        # Not resolved: a venv is known by the path of its own link.
        return os.path.normpath(self.path.parent.absolute() / Path(word).expanduser())

    def _environment(self) -> tuple[tuple[str, str], ...]:
        section = self._section("environment") if self.kind is UnitKind.PYTHON else {}
        for name, value in section.items():
            if not name or "=" in name or "\0" in f"{name}{value}" or isinstance(value, (dict, list)):
                where = Where(str(self.path), key_line(self.file_text, "environment", name))
                message = f"environment.{name} is no variable with a text"
                raise DriverError(message, where=where, hint='such as OMP_NUM_THREADS = "4"')
        return tuple((name, plain_text(value)) for name, value in section.items())

    def _section(self, key: str) -> dict[str, Any]:
        section = self.data.get(key, {})
        if not isinstance(section, dict):
            raise self.fail(f"'{key}' must be a section [{key}]", key)
        return section

    def _ports(self, side: str) -> tuple[PortSpec, ...]:
        section = self._section(side)
        ports: list[PortSpec] = []
        for number in range(1, len(section) + 1):
            port = section.get(f"{side}{number}")
            if port is None:
                known = ", ".join(section)
                raise self.fail(
                    f"the key {side}.{side}{number} is not found",
                    hint=f"ports count from 1 without gaps; there is: {known}",
                )
            if not isinstance(port, dict) or not str(port.get("name", "")).strip():
                raise self.fail(f"{side}.{side}{number}.name is missing", f"{side}.{side}{number}")
            name = str(port["name"]).strip()
            if any(other.name == name for other in ports):
                raise self.fail(f"{side} port '{name}' is there twice", f"{side}.{side}{number}")
            device = str(port.get("device") or self.word("device"))
            place = f"{side}.{side}{number}"
            word = str(port.get("type", "")).strip()
            strict = str(port.get("strict", False)).lower()
            if strict not in ("true", "false", "1", "0"):
                raise self.fail(f"{place}.strict = {port['strict']!r} is not true or false", place)
            if strict in ("true", "1") and not word:
                raise self.fail(f"{place}.strict needs a type", place, 'such as type = "image"')
            ports.append(PortSpec(name, self._port_type(word, strict), device, strict in ("true", "1")))
        return tuple(ports)

    def _port_type(self, word: str, strict: str) -> str:
        """A type of the tree. Users write element types there ("float"), for editors; so they only count in a file that
        adds types of its own, or on a strict port."""
        if self.kind is UnitKind.BUILTIN or strict in ("true", "1") or word in self._section("types"):
            return word or "raw"
        if self.kind is UnitKind.INFERENCE:
            return "tensor"
        return word if word and "types" in self.data else "raw"

    def _types(self) -> tuple[tuple[str, str], ...]:
        types = []
        for name, parent in self._section("types").items():
            if not is_type_name(name) or not isinstance(parent, str) or not is_type_name(parent):
                message = f"types.{name} = {parent!r} is not the name of a type and its parent"
                where = Where(str(self.path), key_line(self.file_text, "types", name))
                raise DriverError(message, where=where, hint='such as bgr_image = "image"')
            types.append((name, parent))
        return tuple(types)

    def _options(self) -> tuple[OptionSpec, ...]:
        section = self._section("options")
        of_models = MODEL_OPTIONS if self.kind is UnitKind.INFERENCE else ()
        options = [option for option in of_models if option.name not in section]
        for name, item in section.items():
            if not isinstance(item, dict):
                raise self.fail(f"options.{name} must be a table", hint=f'such as {name} = {{type = "int"}}')
            default = item.get("default")
            options.append(
                OptionSpec(
                    name=name,
                    type=str(item.get("type", "string")),
                    default=None if default is None else plain_text(default),
                    required=bool(item.get("required", False)),
                    description=str(item.get("description", "")),
                    values=_values(item.get("values", ())),
                )
            )
        return tuple(options)


def _flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys of [config] as units read them, those of a table in it as "table.key", with their texts."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, list_text([plain_text(item) for item in value])
        else:
            yield prefix + key, plain_text(value)


def _values(given: Any) -> tuple[str, ...]:
    return tuple(plain_text(value) for value in (given if isinstance(given, (list, tuple)) else (given,)))
