"""Graph files: TOML (or JSON) around a DOT text, as ModelBox users write them, into a GraphSpec."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from modelbox.errors import ConfigError, GraphError, ModelBoxError, Where
from modelbox.spec import OptionSpec
from modelboxd.graph.dot import parse_dot
from modelboxd.graph.keys import key_line
from modelboxd.graph.model import Attr, GraphSpec
from modelboxd.graph.places import Locate, locate_text
from modelboxd.graph.tensors import ModelDecl, parse_model

SECTIONS: dict[str, set[str]] = {
    "driver": {"dir", "skip-default"},
    "graph": {
        "format",
        "graphconf",
        "graphconffilepath",
        "strict",
        "thread-num",
        "max-thread-num",
        "max_executor_thread_num",
        "queue_size",
        "batch_size",
        "queue_size_external",
    },
    "flow": {"name", "desc", "enable", "priority", "session_timeout"},
    "profile": {"dir", "trace", "performance", "session", "profile"},
    "log": {"level"},
    "args": set(),
    "model": {"name", "version", "max_batch", "inputs", "outputs"},
}
NUMBERS = ("thread-num", "max-thread-num", "max_executor_thread_num", "queue_size", "batch_size", "queue_size_external")
_VARIABLE = re.compile(r"(\\?)\$\{(\w+)\}")


def load_graph(path: Path) -> GraphSpec:
    """Reads a graph file. Raises GraphError with file, line and column."""
    return parse_graph(_read_text(path), str(path))


def read_file(path: Path) -> dict[str, Any]:
    """The sections and keys of a graph file as they stand there. Raises GraphError."""
    try:
        return _parse_file(_read_text(path), str(path))
    except RecursionError:
        raise GraphError("the file is nested too deeply", where=Where(str(path))) from None


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise GraphError(f"{path}: is no file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def parse_graph(text: str, name: str, *, untrusted: bool = False) -> GraphSpec:
    """Parses the text of a graph file called `name`. An `untrusted` one may not name files that are read, nor see the
    environment (but for MODELBOX_ROOT). Raises GraphError."""
    try:
        return _parse_graph(text.replace("\r\n", "\n"), name, untrusted)
    except RecursionError:
        raise GraphError("the file is nested too deeply", where=Where(name)) from None


def _parse_graph(text: str, name: str, untrusted: bool = False) -> GraphSpec:
    data = _parse_file(text, name)
    if untrusted:
        _check_untrusted(data, text, name)
    warnings = _unknown_keys(data, text, name)
    graph = _section(data, "graph", text, name)
    driver = _section(data, "driver", text, name)
    flow = _section(data, "flow", text, name)
    if not _flag(flow.get("enable", True), "flow.enable", text, name):
        raise GraphError("flow is disabled", where=_where(text, name, "flow.enable"), hint="set flow.enable = true")
    kind = graph.get("format", "")
    where = _where(text, name, "graph.format")
    if not kind:
        raise GraphError("graph.format is empty", where=where, hint='add format = "graphviz" to [graph]')
    if kind != "graphviz":
        raise GraphError(f"Graph format not supported, support type: graphviz; found {kind!r}", where=where)
    dot, locate = _dot_text(graph, text, name)
    parsed = parse_dot(dot, locate)
    if not parsed.nodes:
        raise GraphError("graph is empty, no node.", where=locate(1, 1))
    for node in parsed.nodes.values():
        node.attrs = _expand_all(node.attrs)
    return GraphSpec(
        name=parsed.name or str(flow.get("name", "")) or Path(name).stem,
        file=name,
        nodes=parsed.nodes,
        edges=parsed.edges,
        attrs=_expand_all(parsed.attrs),
        driver_dirs=_driver_dirs(driver, text, name),
        skip_default=_flag(driver.get("skip-default", False), "driver.skip-default", text, name),
        strict=_flag(graph.get("strict", True), "graph.strict", text, name),
        settings={key: _number(graph[key], f"graph.{key}", text, name) for key in NUMBERS if key in graph},
        flow_name=str(flow.get("name", "")),
        flow_desc=str(flow.get("desc", "")).strip(),
        priority=_priority(flow, text, name),
        session_timeout_s=_seconds(flow, "session_timeout", text, name),
        args=_args(_section(data, "args", text, name), text, name),
        warnings=warnings,
        model=_model(data, text, name),
    )


def _model(data: dict[str, Any], text: str, name: str) -> ModelDecl | None:
    if "model" not in data:
        return None

    def line_of(*keys: str) -> Where:
        """Of a key below [model], else of the section around it."""
        path = ("model", *keys)
        return Where(name, next((line for end in range(len(path), 0, -1) if (line := key_line(text, *path[:end]))), 0))

    return parse_model(_section(data, "model", text, name), line_of)


def _check_untrusted(data: dict[str, Any], text: str, name: str) -> None:
    graph = data.get("graph", {})
    if isinstance(graph, dict) and "graphconffilepath" in graph:
        where = _where(text, name, "graph.graphconffilepath")
        raise GraphError("graph.graphconffilepath is not allowed here", where=where, hint="use graphconf")
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += ["\n".join(value)] if all(isinstance(item, str) for item in value) else value
        elif isinstance(value, str):
            for match in _VARIABLE.finditer(value):
                if not match[1] and match[2] != "MODELBOX_ROOT":
                    raise GraphError(f"${{{match[2]}}}: the environment is not to be read here", where=Where(name))


def expand(text: str, where: Where) -> str:
    """Replaces ${VAR} by the environment variable; `\\${VAR}` stays as ${VAR}. Raises GraphError when unset."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        found = os.environ.get(match[2])
        if found is None:
            raise GraphError(f"environment variable {match[2]} is not set", where=where)
        return found

    return _VARIABLE.sub(value, text)


def _expand_all(attrs: dict[str, Attr]) -> dict[str, Attr]:
    return {key: Attr(expand(attr.text, attr.where), attr.where) for key, attr in attrs.items()}


def _where(text: str, name: str, key: str) -> Where:
    """The line of a key such as "graph.strict", or of its section."""
    section, _, word = key.partition(".")
    return Where(name, key_line(text, section, word) or key_line(text, section))


# ---- the file ------------------------------------------------------------------------------------------


def _parse_file(text: str, name: str) -> dict[str, Any]:
    if text.lstrip()[:1] == "{" or name.endswith(".json"):
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise GraphError(error.msg, where=Where(name, error.lineno, error.colno)) from None
        except ValueError as error:  # a number of thousands of digits
            raise GraphError(str(error), where=Where(name)) from None
        if not isinstance(data, dict):
            raise GraphError("a graph must be a JSON object", where=Where(name, 1, 1))
        return data
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, where = toml_error(error, text, name)
        raise GraphError(message, where=where) from None
    except ValueError as error:  # a number of thousands of digits
        raise GraphError(str(error), where=Where(name)) from None


def toml_error(error: tomllib.TOMLDecodeError, text: str, name: str) -> tuple[str, Where]:
    """What a TOML syntax error says, and where."""
    match = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
    if match:
        return match[1], Where(name, int(match[2]), int(match[3]))
    lines = text.split("\n")
    return str(error).replace(" (at end of document)", " at the end of the file"), Where(
        name, len(lines), len(lines[-1]) + 1
    )


def _section(data: dict[str, Any], key: str, text: str, name: str) -> dict[str, Any]:
    section = data.get(key, {})
    if not isinstance(section, dict):
        where = Where(name, key_line(text, key))
        raise GraphError(f"'{key}' must be a section [{key}]", where=where)
    return section


def _unknown_keys(data: dict[str, Any], text: str, name: str) -> list[ModelBoxError]:
    warnings: list[ModelBoxError] = []
    for section, values in data.items():
        if section not in SECTIONS:
            where = Where(name, key_line(text, section))
            warnings.append(_warn(f"section [{section}] is not known", section, set(SECTIONS), where))
        elif isinstance(values, dict) and section != "args":
            for key in values:
                if key not in SECTIONS[section]:
                    where = _where(text, name, f"{section}.{key}")
                    warnings.append(_warn(f"{section}.{key} is not known", key, SECTIONS[section], where))
    return warnings


def _warn(message: str, word: str, known: set[str], where: Where) -> ModelBoxError:
    near = difflib.get_close_matches(word, sorted(known), 1)
    return ConfigError(message, where=where, hint=f"did you mean {near[0]}?" if near else "it is ignored")


def _flag(value: Any, key: str, text: str, name: str) -> bool:
    word = str(value).lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise GraphError(f"{key} = {value!r} is not true or false", where=_where(text, name, key))


def _number(value: Any, key: str, text: str, name: str) -> int:
    word = str(value)
    where = _where(text, name, key)
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", word):
        raise GraphError(f"{key} = {value!r} is no whole number", where=where)
    if "queue_size" in key and int(word) == 0:
        raise GraphError("queue size config is zero", where=where)
    return int(word)


def _priority(flow: dict[str, Any], text: str, name: str) -> int:
    value = _number(flow.get("priority", 5), "flow.priority", text, name)
    if not 1 <= value <= 10:
        raise GraphError(
            f"flow.priority = {value} is out of range",
            where=_where(text, name, "flow.priority"),
            hint="1 (first) to 10",
        )
    return value


def _seconds(flow: dict[str, Any], key: str, text: str, name: str) -> int | None:
    if key not in flow:
        return None
    match = re.fullmatch(r"([0-9]{1,9})\s*(s|min|m|h|)", str(flow[key]).strip(), re.IGNORECASE)
    if match is None or isinstance(flow[key], bool):
        raise GraphError(
            f"flow.{key} = {flow[key]!r} is no time",
            where=_where(text, name, f"flow.{key}"),
            hint='seconds, or such as "5min"; 0 is no limit',
        )
    return int(match[1]) * {"m": 60, "min": 60, "h": 3600}.get(match[2].lower(), 1)


def _args(section: dict[str, Any], text: str, name: str) -> dict[str, OptionSpec]:
    """The arguments of a graph: names that attribute values use as $name."""
    args: dict[str, OptionSpec] = {}
    for key, item in section.items():
        where = Where(name, key_line(text, "args", key))
        if not isinstance(item, dict) or not re.fullmatch(r"\w+", key):
            what = "must be a table" if re.fullmatch(r"\w+", key) else "is no name"
            raise GraphError(f"args.{key} {what}", where=where, hint='such as [args.size] with default = "224"')
        values = item.get("values", [])
        args[key] = OptionSpec(
            name=key,
            type=str(item.get("type", "string")),
            default=plain_text(item["default"]) if "default" in item else None,
            required="default" not in item,
            description=str(item.get("desc", item.get("description", ""))),
            values=tuple(plain_text(value) for value in (values if isinstance(values, list) else [values])),
        )
    return args


def plain_text(value: Any) -> str:
    """A TOML value as an attribute of a node says it: true or false, lists with commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(plain_text(item) for item in value)
    return str(value)


def _driver_dirs(driver: dict[str, Any], text: str, name: str) -> list[str]:
    where = _where(text, name, "driver.dir")
    given = driver.get("dir", [])
    items = given if isinstance(given, list) else [given]
    dirs = []
    for item in items:
        if not isinstance(item, str):
            raise GraphError(f"driver.dir: {item!r} is no text", where=where)
        place = expand(item, where).strip()
        if place:
            dirs.append(_absolute(place, name))
    return dirs


def _absolute(text: str, name: str) -> str:
    """Relative paths begin at the graph file; where nothing is there, at the working directory, as upstream."""
    path = Path(text).expanduser()
    if path.is_absolute():
        return str(path)
    beside = (Path(name).parent / path).resolve()
    return str(beside if beside.exists() or not path.exists() else path.resolve())


# ---- the DOT text -----------------------------------------------------------------------------------------


def _dot_text(graph: dict[str, Any], text: str, name: str) -> tuple[str, Locate]:
    conf = graph.get("graphconf")
    if conf is None:
        path = graph.get("graphconffilepath")
        if path is None:
            where = Where(name, key_line(text, "graph"))
            raise GraphError("graph config path is null.", where=where, hint="set graphconf in [graph]")
        where = _where(text, name, "graph.graphconffilepath")
        if not isinstance(path, str):
            raise GraphError("graph.graphconffilepath must be a text", where=where)
        return _dot_file(Path(_absolute(expand(path, where), name)), where)
    if isinstance(conf, str):
        return conf, locate_text(text, "graphconf", [conf], name)
    if isinstance(conf, list) and all(isinstance(line, str) for line in conf):
        return "\n".join(conf), locate_text(text, "graphconf", conf or [""], name)
    raise GraphError("graph.graphconf must be a text or a list of texts", where=_where(text, name, "graph.graphconf"))


def _dot_file(path: Path, where: Where) -> tuple[str, Locate]:
    try:
        return path.read_text(encoding="utf-8-sig"), lambda line, column: Where(str(path), line, column)
    except OSError as error:
        raise GraphError(f"graph.graphconffilepath: {path} cannot be read: {error.strerror}", where=where) from None
    except UnicodeDecodeError as error:
        raise GraphError(f"{path} is not UTF-8 text (byte {error.start})", where=where) from None
