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
from modelboxd.graph.dot import Locate, parse_dot
from modelboxd.graph.model import Attr, GraphSpec

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
    "flow": {"name", "desc", "enable"},
    "profile": {"dir", "trace", "performance", "session", "profile"},
    "log": {"level"},
    "args": set(),
}
NUMBERS = ("thread-num", "max-thread-num", "max_executor_thread_num", "queue_size", "batch_size", "queue_size_external")
_VARIABLE = re.compile(r"(\\?)\$\{(\w+)\}")


def load_graph(path: Path) -> GraphSpec:
    """Reads a graph file. Raises GraphError with file, line and column."""
    try:
        if path.exists() and not path.is_file():
            raise GraphError(f"{path}: is no file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    return parse_graph(text, str(path))


def parse_graph(text: str, name: str) -> GraphSpec:
    """Parses the text of a graph file called `name`. Raises GraphError."""
    try:
        return _parse_graph(text, name)
    except RecursionError:
        raise GraphError("the file is nested too deeply", where=Where(name)) from None


def _parse_graph(text: str, name: str) -> GraphSpec:
    data = _parse_file(text, name)
    warnings = _unknown_keys(data, text, name)
    graph = _section(data, "graph", name)
    driver = _section(data, "driver", name)
    flow = _section(data, "flow", name)
    if not _flag(flow.get("enable", True), "flow.enable", name):
        raise GraphError(f"{name}: flow is disabled (flow.enable = false)")
    kind = graph.get("format", "")
    if not kind:
        raise GraphError("graph.format is empty", where=Where(name), hint='add format = "graphviz" to [graph]')
    if kind != "graphviz":
        where = Where(name, find_line(text, "format"))
        raise GraphError(f"Graph format not supported, support type: graphviz; found {kind!r}", where=where)
    dot, locate = _dot_text(graph, text, name)
    parsed = parse_dot(dot, locate)
    if not parsed.nodes:
        raise GraphError("graph is empty, no node.", where=locate(1, 1))
    for node in parsed.nodes.values():
        node.attrs = {key: Attr(expand(attr.text, attr.where), attr.where) for key, attr in node.attrs.items()}
    return GraphSpec(
        name=parsed.name or str(flow.get("name", "")) or Path(name).stem,
        file=name,
        nodes=parsed.nodes,
        edges=parsed.edges,
        attrs=parsed.attrs,
        driver_dirs=_driver_dirs(driver, name),
        skip_default=_flag(driver.get("skip-default", False), "driver.skip-default", name),
        strict=_flag(graph.get("strict", True), "graph.strict", name),
        settings={key: _number(graph[key], f"graph.{key}", text, name) for key in NUMBERS if key in graph},
        flow_name=str(flow.get("name", "")),
        flow_desc=str(flow.get("desc", "")).strip(),
        warnings=warnings,
    )


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


def find_line(text: str, key: str) -> int:
    """The first line that sets `key`, 0 when there is none."""
    match = re.search(rf"^[ \t]*\"?{re.escape(key)}\"?\s*=", text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 if match else 0


# ---- the file ------------------------------------------------------------------------------------------


def _parse_file(text: str, name: str) -> dict[str, Any]:
    if text.lstrip()[:1] == "{" or name.endswith(".json"):
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise GraphError(error.msg, where=Where(name, error.lineno, error.colno)) from None
        if not isinstance(data, dict):
            raise GraphError("a graph must be a JSON object", where=Where(name, 1, 1))
        return data
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, where = toml_error(error, text, name)
        raise GraphError(message, where=where) from None


def toml_error(error: tomllib.TOMLDecodeError, text: str, name: str) -> tuple[str, Where]:
    """What a TOML syntax error says, and where."""
    match = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
    if match:
        return match[1], Where(name, int(match[2]), int(match[3]))
    lines = text.split("\n")
    return str(error).replace(" (at end of document)", " at the end of the file"), Where(
        name, len(lines), len(lines[-1]) + 1
    )


def _section(data: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    section = data.get(key, {})
    if not isinstance(section, dict):
        raise GraphError(f"'{key}' must be a section [{key}]", where=Where(name))
    return section


def _unknown_keys(data: dict[str, Any], text: str, name: str) -> list[ModelBoxError]:
    warnings: list[ModelBoxError] = []
    for section, values in data.items():
        if section not in SECTIONS:
            line = next((n for n, row in enumerate(text.split("\n"), 1) if row.strip().startswith(f"[{section}")), 0)
            warnings.append(_warn(f"section [{section}] is not known", section, set(SECTIONS), name, line))
        elif isinstance(values, dict) and section != "args":
            for key in values.keys() - SECTIONS[section]:
                line = find_line(text, key)
                warnings.append(_warn(f"{section}.{key} is not known", key, SECTIONS[section], name, line))
    return warnings


def _warn(message: str, word: str, known: set[str], name: str, line: int) -> ModelBoxError:
    near = difflib.get_close_matches(word, sorted(known), 1)
    return ConfigError(message, where=Where(name, line), hint=f"did you mean {near[0]}?" if near else "it is ignored")


def _flag(value: Any, key: str, name: str) -> bool:
    word = str(value).lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise GraphError(f"{key} = {value!r} is not true or false", where=Where(name))


def _number(value: Any, key: str, text: str, name: str) -> int:
    word = str(value)
    where = Where(name, find_line(text, key.split(".")[1]))
    if isinstance(value, bool) or not word.isdigit():
        raise GraphError(f"{key} = {value!r} is no whole number", where=where)
    if key.endswith("queue_size") and int(word) == 0:
        raise GraphError("queue size config is zero", where=where)
    return int(word)


def _driver_dirs(driver: dict[str, Any], name: str) -> list[str]:
    given = driver.get("dir", [])
    items = given if isinstance(given, list) else [given]
    dirs = []
    for item in items:
        if not isinstance(item, str):
            raise GraphError(f"driver.dir: {item!r} is no text", where=Where(name))
        text = expand(item, Where(name)).strip()
        if text:
            dirs.append(_absolute(text, name))
    return dirs


def _absolute(text: str, name: str) -> str:
    """Relative directories belong to the graph file; where nothing is there, to the working directory."""
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
            raise GraphError("graph config path is null.", where=Where(name), hint="set graphconf in [graph]")
        return _dot_file(Path(name).parent / expand(str(path), Where(name)))
    if isinstance(conf, str):
        return conf, _locate_text(conf, text, name)
    if isinstance(conf, list) and all(isinstance(line, str) for line in conf):
        return "\n".join(conf), _locate_lines(conf, text, name)
    raise GraphError("graph.graphconf must be a text or a list of texts", where=Where(name))


def _dot_file(path: Path) -> tuple[str, Locate]:
    try:
        return path.read_text(encoding="utf-8"), lambda line, column: Where(str(path), line, column)
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"graph.graphconffilepath: {path} cannot be read: {error}") from None


def _place(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _locate_text(value: str, text: str, name: str) -> Locate:
    start = text.find(value, max(text.find("graphconf"), 0))
    if start >= 0:
        first_line, first_column = _place(text, start)
        return lambda line, column: Where(name, first_line + line - 1, column + (first_column - 1 if line == 1 else 0))
    # The string has escapes: only its lines can be told, and only if none of them is joined.
    match = re.search(r'graphconf\s*=\s*("""|\'\'\')\n?', text)
    first_line = _place(text, match.end())[0] if match else find_line(text, "graphconf")
    return lambda line, column: Where(name, first_line + line - 1 if match else first_line)


def _locate_lines(lines: list[str], text: str, name: str) -> Locate:
    places: list[tuple[int, int]] = []
    at = max(text.find("graphconf"), 0)
    for line in lines:
        found = text.find(line, at)
        places.append(_place(text, found) if found >= 0 else (0, 0))
        at = found + len(line) if found >= 0 else at
    return lambda line, column: (
        Where(name, places[line - 1][0], places[line - 1][1] + column - 1) if 0 < line <= len(places) else Where(name)
    )
