"""The settings of modelbox.conf, as frozen dataclasses. Their fields drive loading, help and the commented file: see
settings_file.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelbox.errors import Where
from modelboxd import paths
from modelboxd.graph.life import OPTIONS as LIFE
from modelboxd.graph.life import Life

LEVELS = ("DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "FATAL", "OFF")
MOST = (1 << 62) - 1  # fits every integer of the core


def option(
    default: Any,
    help_text: str,
    *,
    key: str = "",
    least: int | None = None,
    most: int = MOST,
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
    retire_timeout_ms: int = life_option("retire_timeout_ms")
    spin_us: int = life_option("spin_us")
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
