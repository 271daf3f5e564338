"""modelbox.conf: TOML into frozen settings. One table of fields drives loading, help and the commented file."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelbox.errors import ConfigError, Where
from modelboxd import paths
from modelboxd.graph.keys import key_line
from modelboxd.graph.life import OPTIONS as LIFE
from modelboxd.graph.life import Life
from modelboxd.graph.loader import toml_error

LEVELS = ("DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "FATAL", "OFF")
_VARIABLE = re.compile(r"(\\?)\$\{(\w+)\}")
_BYTES = {"B": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "G": 1 << 30, "GB": 1 << 30}
_SECONDS = {"S": 1, "M": 60, "MIN": 60, "H": 3600}
# The words that may follow a number, by the unit of the field.
_UNITS: dict[str, dict[str, int]] = {
    "": {},
    "bytes": _BYTES,
    "s": _SECONDS,
    "ms": {"MS": 1, **{word: 1000 * seconds for word, seconds in _SECONDS.items()}},
}
_EXAMPLES = {"": "5", "bytes": '67108864 or "64MB"', "s": '30 or "5min"', "ms": '500 or "2s"'}
_MOST = (1 << 62) - 1  # fits every integer of the core


def option(
    default: Any,
    help_text: str,
    *,
    key: str = "",
    least: int | None = None,
    most: int = _MOST,
    unit: str = "",
    words: tuple[str, ...] = (),
    names: Mapping[str, int] | None = None,
) -> Any:
    """A field with its help; `key` where the name in the file has a dash; `names` are words that stand for a number;
    a function makes a default at load time."""
    meta: dict[str, Any] = {"help": help_text, "key": key, "least": least, "most": most, "unit": unit, "words": words}
    meta["names"] = names or {}
    if callable(default):
        return field(default_factory=default, metadata=meta)
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=meta)
    return field(default=default, metadata=meta)


def life_option(name: str) -> Any:
    """A field that nodes and unit TOMLs have too (graph/life.py)."""
    made = LIFE[name]
    unit = {"_ms": "ms", "_s": "s"}.get(name[name.rfind("_") :], "")
    return option(
        made.default, made.help, least=made.least, most=made.most, unit=unit, words=made.words, names=made.names
    )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The daemon itself."""

    ip: str = option("127.0.0.1", "address of the REST listener")
    port: int = option(1104, "port of the REST listener", least=0, most=65535)
    api: bool = option(True, "switch of the REST listener")
    state_dir: str = option(
        "", "where jobs made over the REST listener are kept; empty = /var/lib/modelbox or your own"
    )
    hosts: tuple[str, ...] = option(
        (), "names by which clients may call the REST listener, beside its own and addresses"
    )
    origins: tuple[str, ...] = option((), "web pages that may use the REST listener, such as https://example.com")
    tokens: str = option("", "file of the tokens that clients need (modelbox-tool token); empty = none needed")
    cert: str = option("", "certificate file: the REST listener speaks https")
    key: str = option("", "its key file")
    client_ca: str = option("", "certificates that sign those of clients, who then need one")
    client_role: str = option("admin", "what a client with a certificate may do", words=("read", "operate", "admin"))
    max_body: int = option(64 << 20, "bytes of a request's body", least=1024, unit="bytes")
    max_connections: int = option(4096, "connections to the REST listener", least=1)
    max_rate: int = option(0, "requests per second of one client address; 0 = no limit", least=0)
    body_timeout: int = option(30, "seconds that a request's body may take", least=1, unit="s")
    flow_path: str = option("", "directory of graphs that start with the service; empty = graph/ beside this file")
    application_root: str = option("", "applications: <root>/*/graph/*.toml start with the service")
    user: str = option("", "user to become after start")
    init_timeout: int = option(720, "seconds that plugins may take to start", least=1, unit="s")
    drain_timeout: int = option(30, "seconds that work under way may take when the service stops", least=0, unit="s")


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """Where flow units are searched, before the default directory."""

    dir: tuple[str, ...] = option((), "directories (or single files) with flow units")
    skip_default: bool = option(
        False, "accepted, without effect: the default directory is looked at last", key="skip-default"
    )
    api_dir: tuple[str, ...] = option((), "directories that jobs made over the REST listener may name, beside dir")
    probe_timeout: int = option(10, "seconds that a library may take to describe itself", least=1, unit="s")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Threads and queues."""

    threads: int = option(0, "threads of the engine; 0 = as many as CPUs", least=0, most=1024)
    queue_size: int = option(32, "buffers that an input queue holds, where a graph does not say", least=1)
    queue_size_external: int = option(1024, "buffers that may wait at a source", least=1)
    queue_bytes: int = option(
        0, "bytes that may wait in front of a node, where a graph does not say; 0 = no limit", least=0, unit="bytes"
    )
    max_queue_bytes: int = option(0, "bytes that may wait in all queues of a job; 0 = no limit", least=0, unit="bytes")
    session_timeout: int = option(
        0, "seconds that a session may take, where a graph does not say; 0 = no limit", least=0, unit="s"
    )
    stall_timeout: int = option(
        30,
        "seconds without progress of a thread, while work waits, after which the server is not ready",
        least=1,
        unit="s",
    )
    cpus: tuple[str, ...] = option((), "CPU numbers to bind the engine's threads to; empty = no binding")


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Memory of buffers."""

    arena: int = option(64 << 20, "bytes of one shared-memory arena (a multiple of 1MB)", least=1 << 20, unit="bytes")
    max: int = option(
        0, "bytes of all arenas together; 0 = half the memory of this machine or cgroup", least=0, unit="bytes"
    )
    bodies: int = option(
        0, "bytes of request bodies that are still coming in; 0 = an eighth of the memory", least=0, unit="bytes"
    )
    max_buffer: int = option(0, "bytes of one buffer; 0 = no limit", least=0, unit="bytes")
    keep: int = option(128 << 20, "bytes of empty arenas kept for reuse", least=0, unit="bytes")
    guard: bool = option(False, "check the guards of every buffer, not of one in 64")


@dataclass(frozen=True, slots=True)
class PythonSettings:
    """Worker processes of Python units."""

    workers: int = option(
        1,
        'processes per Python node; "auto" = one per CPU; 0 = all units inside the server, for debuggers',
        least=0,
        most=LIFE["workers"].most,
        names=LIFE["workers"].names,
    )
    open_timeout: int = option(60, "seconds that a unit may take to open", least=1, unit="s")
    process_timeout_ms: int = life_option("process_timeout_ms")
    heartbeat_timeout_ms: int = life_option("heartbeat_timeout_ms")
    orphan_timeout_ms: int = life_option("orphan_timeout_ms")
    restart: str = life_option("restart")
    max_restarts: int = life_option("max_restarts")
    restart_window_s: int = life_option("restart_window_s")
    restart_cooldown_s: int = life_option("restart_cooldown_s")
    max_requests: int = life_option("max_requests")
    memory_limit_mb: int = life_option("memory_limit_mb")
    reload: bool = life_option("reload")
    session_bytes: int = option(
        64 << 20, "bytes of the values that the units of a session may share", least=1024, unit="bytes"
    )

    @property
    def life(self) -> Life:
        """What holds where neither a node nor its unit says otherwise."""
        return Life(**{name: getattr(self, name) for name in LIFE})


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Tasks: work that comes over the REST listener for jobs with input nodes."""

    max_tasks: int = option(256, "tasks that run at once", least=1)
    max_tasks_job: int = option(64, "tasks of one job that run at once", least=1)
    queue: int = option(1024, "tasks that may wait for their turn", least=0)
    timeout: int = option(
        300, "seconds that a task may take, waiting included, where it does not say; 0 = no limit", least=0, unit="s"
    )
    keep: int = option(600, "seconds that tasks which are over are kept, with their outputs", least=1, unit="s")
    memory: int = option(
        256 << 20, "bytes of inputs that wait and outputs that are kept, of all tasks", least=1 << 20, unit="bytes"
    )
    max_result: int = option(64 << 20, "bytes of the outputs of one task", least=1024, unit="bytes")
    max_json: int = option(
        4 << 20, "bytes of JSON that a task brings; larger data comes as bytes", least=1024, unit="bytes"
    )
    webhook_hosts: tuple[str, ...] = option((), "hosts (name or name:port) that may be told of the end of a task")
    webhook_secret: str = option("", "file of the secret that signs what they are told; empty = not signed")


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """The Open Inference Protocol (KServe v2). Over HTTP it is a part of the REST listener."""

    grpc: bool = option(False, "gRPC too, at server.ip, with the same tokens and certificates; needs grpcio")
    grpc_port: int = option(8001, "its port", least=0, most=65535)
    grpc_calls: int = option(256, "calls that are under way at once; more are refused", least=1, most=65536)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where log lines go."""

    level: str = option("INFO", "least level that is logged", words=LEVELS)
    target: str = option(
        "auto",
        "where lines go; auto: the journal when systemd started the server and no path is given, else the file",
        words=("auto", "file", "journal", "screen"),
    )
    format: str = option("text", "how lines look in the file and on the screen", words=("text", "json"))
    path: str = option(lambda: f"{paths.logs_dir()}/modelbox.log", "the log file")
    size: int = option(64 << 20, "bytes after which the file is rotated", least=4096, unit="bytes")
    num: int = option(32, "rotated files that are kept", least=0, most=10000)
    screen: bool = option(False, "log to the screen as well")


@dataclass(frozen=True, slots=True)
class AclSettings:
    """Who may use the REST listener."""

    allow: tuple[str, ...] = option((), "addresses or CIDR ranges; empty = those that can reach it")
    insecure: bool = option(False, "serve other machines without tokens or client certificates")


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control socket of modelbox-tool."""

    enable: bool = option(True, "switch")
    listen: str = option(lambda: f"{paths.runtime_dir()}/modelbox.sock", "its path; only its owner and root may use it")


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Service plugins. Each has a section [plugin.NAME] for itself."""

    files: tuple[str, ...] = option((), "Python files (relative to this file) or modules with a plugin")
    entry_points: bool = option(True, "load those of installed packages (group modelbox.plugins) too")


@dataclass(frozen=True, slots=True)
class EditorSettings:
    """The graph editor of ModelBox; accepted so that files can be shared, not used."""

    enable: bool = option(False, "switch")
    ip: str = option("", "address")
    port: int = option(0, "port", least=0, most=65535)
    root: str = option("", "files of the user interface")
    demo_root: str = option("", "demo projects")
    template_dir: str = option("", "project templates")


@dataclass(frozen=True, slots=True)
class IncludeSettings:
    """More configuration files; later ones win, lists of plugins are joined."""

    files: tuple[str, ...] = option((), 'patterns, relative to this file, e.g. "conf.d/*.conf"')


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `origins` says for each key set in a file where that was."""

    server: ServerSettings = field(default_factory=ServerSettings)
    driver: DriverSettings = field(default_factory=DriverSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    python: PythonSettings = field(default_factory=PythonSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    log: LogSettings = field(default_factory=LogSettings)
    acl: AclSettings = field(default_factory=AclSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    plugin: PluginSettings = field(default_factory=PluginSettings)
    editor: EditorSettings = field(default_factory=EditorSettings)
    include: IncludeSettings = field(default_factory=IncludeSettings)
    plugin_options: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)  # [plugin.NAME]
    file: str = ""
    origins: dict[str, Where] = field(default_factory=dict, hash=False)


SECTIONS: dict[str, type[Any]] = {
    item.name: item.default_factory  # type: ignore[misc]
    for item in dataclasses.fields(Settings)
    if item.name not in ("plugin_options", "file", "origins")
}


def file_key(item: dataclasses.Field[Any]) -> str:
    """A field's name in the file."""
    return item.metadata.get("key") or item.name


def default_of(item: dataclasses.Field[Any]) -> Any:
    """A field's default value."""
    made: Any = item.default_factory
    return made() if item.default is dataclasses.MISSING else item.default


def load(path: Path) -> Settings:
    """Reads a configuration and what it includes. Raises ConfigError: file, line, what, and the nearest known key."""
    loader = _Loader()
    loader.read(path)
    sections = {name: kind(**loader.values.get(name, {})) for name, kind in SECTIONS.items()}
    return Settings(**sections, plugin_options=loader.plugin_options, file=str(path), origins=loader.origins)


class _Loader:
    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.origins: dict[str, Where] = {}
        self.plugin_options: dict[str, dict[str, Any]] = {}

    def read(self, path: Path, depth: int = 0) -> None:
        if depth > 8:
            raise ConfigError(f"{path}: includes itself", hint="include.files go more than 8 files deep")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message, where = toml_error(error, text, str(path))
            raise ConfigError(message, where=where) from None
        for name, values in data.items():
            self._section(name, values, text, path)
        if "files" in data.get("include", {}):
            where = self.origins["include.files"]
            for pattern in self.values["include"]["files"]:
                for included in self._matches(path, pattern, where):
                    self.read(included, depth + 1)

    @staticmethod
    def _matches(path: Path, pattern: str, where: Where) -> list[Path]:
        """The files of an include pattern. A pattern may match nothing; a plain name must exist."""
        found = sorted(glob.glob(pattern, root_dir=path.parent))
        if not found and not glob.has_magic(pattern):
            raise ConfigError(f"include.files: {path.parent / pattern} does not exist", where=where)
        return [path.parent / name for name in found]

    def _section(self, name: str, values: Any, text: str, path: Path) -> None:
        kind = SECTIONS.get(name)
        if kind is None:
            if not isinstance(values, dict):
                raise ConfigError(f"'{name}' stands outside any section", where=Where(str(path), key_line(text, name)))
            raise ConfigError(
                f"section [{name}] is not known",
                where=Where(str(path), key_line(text, name)),
                hint=_near(name, SECTIONS),
            )
        if not isinstance(values, dict):
            raise ConfigError(f"'{name}' must be a section [{name}]", where=Where(str(path), key_line(text, name)))
        fields = {file_key(item): item for item in dataclasses.fields(kind)}
        for key, value in values.items():
            where = Where(str(path), key_line(text, name, key) or key_line(text, name))
            item = fields.get(key)
            if item is None:
                if name == "editor" and key == "test":
                    continue
                if name == "plugin" and isinstance(value, dict):
                    self.plugin_options.setdefault(key, {}).update(_expanded(value, where))
                    self.origins[f"plugin.{key}"] = where
                    continue
                raise ConfigError(f"{name}.{key} is not known", where=where, hint=_near(key, fields))
            made = convert(item, value, f"{name}.{key}", where)
            section = self.values.setdefault(name, {})
            if (name, key) == ("plugin", "files"):
                made = tuple(str(path.parent / file) if file.endswith(".py") else file for file in made)
                made = tuple(dict.fromkeys((*section.get("files", ()), *made)))
            section[item.name] = made
            self.origins[f"{name}.{key}"] = where


def convert(item: dataclasses.Field[Any], value: Any, name: str, where: Where) -> Any:
    """The value of a key in the type of its field. Raises ConfigError."""
    default = default_of(item)
    if isinstance(default, tuple):
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(part, (str, int)) and not isinstance(part, bool) for part in items):
            raise ConfigError(f"{name} must be a text or a list of texts", where=where)
        return tuple(text for text in (expand(str(part), where) for part in items) if text)
    if isinstance(default, bool):
        word = str(value).lower()
        if word not in ("true", "false", "1", "0"):
            raise ConfigError(f"{name} = {value!r} is not true or false", where=where)
        return word in ("true", "1")
    if isinstance(default, int):
        return _number(item, value, name, where)
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} must be a text", where=where)
    text = expand(value, where)
    words = item.metadata.get("words")
    if words and text not in words:
        match = next((word for word in words if word.lower() == text.lower()), None)
        if match is None:
            raise ConfigError(f"{name} = {text!r} is not allowed", where=where, hint=f"one of {', '.join(words)}")
        return match
    return text


def _number(item: dataclasses.Field[Any], value: Any, name: str, where: Where) -> int:
    unit, names = item.metadata["unit"], item.metadata["names"]
    text = expand(str(value), where) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if text in names:
        return int(names[text])
    match = re.fullmatch(r"\s*(-?[0-9]{1,30})\s*([A-Za-z]*)\s*", text)
    factor = {"": 1, **_UNITS[unit]}.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ConfigError(
            f"{name} = {value!r} is no whole number",
            where=where,
            hint=f"such as {_EXAMPLES[unit]}" + "".join(f' or "{word}"' for word in names),
        )
    number = int(match[1]) * factor
    least, most = item.metadata["least"], item.metadata["most"]
    if least is not None and number < least:
        raise ConfigError(f"{name} = {value!r} is too small", where=where, hint=f"at least {_in_unit(least, unit)}")
    if number > most:
        raise ConfigError(f"{name} = {value!r} is too large", where=where, hint=f"at most {_in_unit(most, unit)}")
    return number


def _in_unit(number: int, unit: str) -> str:
    """A number as people write it: 64MB, not 67108864."""
    for word in ("GB", "MB", "KB") if unit == "bytes" else ():
        if number and number % _BYTES[word] == 0:
            return f"{number // _BYTES[word]}{word}"
    return str(number)


def expand(text: str, where: Where) -> str:
    """Replaces ${VAR} by the environment variable; `\\${VAR}` stays as ${VAR}. Raises ConfigError when unset."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        found = str(paths.root()).rstrip("/") if match[2] == "MODELBOX_ROOT" else os.environ.get(match[2])
        if found is None:
            raise ConfigError(f"environment variable {match[2]} is not set", where=where)
        return found

    return _VARIABLE.sub(value, text)


def _expanded(value: Any, where: Where) -> Any:
    """A value of [plugin.NAME] with the variables in its texts replaced. Raises ConfigError."""
    if isinstance(value, dict):
        return {key: _expanded(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where) for item in value]
    return expand(value, where) if isinstance(value, str) else value


T = TypeVar("T")


def _near(word: str, known: dict[str, T]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def effective(settings: Settings) -> str:
    """All values as a TOML text; keys that a file set say where."""
    lines: list[str] = []
    for name, kind in SECTIONS.items():
        lines.append(f"[{name}]")
        for item in dataclasses.fields(kind):
            where = settings.origins.get(f"{name}.{file_key(item)}")
            origin = f"  # {where}" if where else ""
            value = getattr(getattr(settings, name), item.name)
            word = next((word for word, number in item.metadata["names"].items() if number == value), None)
            lines.append(f"{file_key(item)} = {_toml(value if word is None else word, item.metadata['unit'])}{origin}")
        lines.append("")
    for name in settings.plugin_options:
        lines += [f"[plugin.{json.dumps(name)}]  # {settings.origins[f'plugin.{name}']}; its values are not shown", ""]
    return "\n".join(lines)


def _toml(value: Any, unit: str = "") -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, int):
        text = _in_unit(value, unit)
        return text if text.isdigit() else f'"{text}"'
    # A JSON string is a TOML string but for DEL; ${VAR} must not be expanded when the text is read again.
    return json.dumps(_VARIABLE.sub(r"\\\g<0>", str(value)), ensure_ascii=False).replace("\x7f", "\\u007f")


def template() -> str:
    """The commented modelbox.conf: every key with its meaning and default."""
    lines = ["# modelbox.conf: the configuration of the modelbox service.", "# Every key is shown with its default."]
    for name, kind in SECTIONS.items():
        lines += ["", f"# {kind.__doc__}".rstrip(), f"[{name}]"]
        for item in dataclasses.fields(kind):
            default = default_of(item)
            words = item.metadata.get("words")
            lines.append(f"# {item.metadata['help']}" + (f" ({' | '.join(words)})" if words else ""))
            if (name, item.name) == ("include", "files"):
                lines.append('files = ["conf.d/*.conf"]')
            else:
                lines.append(f"# {file_key(item)} = {_toml(default, item.metadata['unit'])}")
    return "\n".join(lines) + "\n"
