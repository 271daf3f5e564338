"""`modelbox-tool server`: asks a running server by its control socket, or its configuration and port."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelbox.errors import ConfigError
from modelboxd import paths
from modelboxd.control.client import Control, ControlError, NoServerError
from modelboxd.logs import one_line
from modelboxd.settings import LEVELS, SECTIONS, Settings, file_key
from modelboxd.settings_file import load
from modelboxd.tool.screen import bytes_text, fail, seconds_text, table

Commands = argparse._SubParsersAction


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    server = commands.add_parser("server", help="a running server, its configuration and port")
    server.add_argument("--conf", default="", metavar="FILE", help="modelbox.conf")
    server.add_argument("--conn", default="", metavar="SOCKET", help="the control socket (control.listen)")
    server.add_argument("--get-conf-value", metavar="KEY", help="print one value, e.g. server.port")
    server.add_argument("--check-port", metavar="HOST:PORT", help="exit 0 free, 2 in use, 3 not allowed")
    server.set_defaults(run_command=run_server)
    asked = server.add_subparsers(dest="control", metavar="COMMAND")
    log = asked.add_parser("log", help="which lines the server logs")
    level = log.add_mutually_exclusive_group()
    level.add_argument("--getlevel", action="store_true", help="print the least level that is logged")
    level.add_argument(
        "--setlevel", metavar="LEVEL", default="", help=f"change it until the server ends: {' '.join(LEVELS)}"
    )
    asked.add_parser("stack", help="Python and native stacks of all threads and workers, and what waits at each node")
    slab = asked.add_parser("slab", help="memory of buffers by device")
    slab.add_argument("--device", action="store_true", help="accepted: there is only this view")
    slab.add_argument("--type", default="", help="only devices of this type")
    slab.add_argument("--id", default="", help="only the device of this number")
    stat = asked.add_parser("stat", help="what the server uses and does")
    stat.add_argument("--all", action="store_true", help="a line `path = value` for each number")
    stat.add_argument("--node", default="", help="the same of one node only")
    jobs = asked.add_parser("jobs", help="all jobs and their states")
    for one in (slab, stat, jobs):
        one.add_argument("--json", action="store_true", help="JSON instead of text")
    reload = asked.add_parser("reload", help="read the graph files again; 1 when one of them has an error")
    reload.add_argument("--json", action="store_true", help="JSON instead of text")
    reload.add_argument(
        "--pid", type=_pid, default=0, help="the server's process; gets SIGHUP where it has no control socket"
    )
    drain = asked.add_parser("drain", help="stop taking work, finish what runs, and end the server")
    drain.add_argument("--keep", action="store_true", help="keep the server, without jobs that run")
    helper = asked.add_parser("help", help="this text")
    helper.add_argument("topic", nargs="?", choices=sorted(asked.choices), help="a command")
    helper.set_defaults(show_help=lambda topic: print(asked.choices.get(topic, server).format_help()))


def run_server(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises ModelBoxError."""
    if options.check_port is not None:
        return _check_port(options.check_port)
    if options.get_conf_value:
        return _conf_value(options.conf, options.get_conf_value)
    if not options.control:
        commands = "log, stack, slab, stat, jobs, reload, drain"
        return fail(f"server: say one of {commands}; or -get-conf-value KEY, or -check-port HOST:PORT")
    if options.control == "help":
        options.show_help(options.topic)
        return 0
    if options.control == "log":
        _check_level(options)
    try:
        with Control(_socket(options)) as control:
            if options.control == "reload" and options.pid not in (0, control.peer):
                raise NoServerError(f"{_socket(options)} is of process {control.peer}, another server")
            return _COMMANDS[options.control](control, options)
    except NoServerError as error:
        if options.control == "reload" and options.pid:
            return _hang_up(options.pid, error)
        raise


def _pid(text: str) -> int:
    """An option's value: one process, not a group of them."""
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no process id")
    return int(text)


def _socket(options: argparse.Namespace) -> Path:
    """Where the server is asked for: -conn, else what the configuration says. Raises ConfigError, NoServerError."""
    if options.conn:
        return Path(options.conn)
    path = Path(options.conf) if options.conf else paths.config_file()
    try:
        loaded = load(path) if options.conf or path.exists() else Settings()
    except (ConfigError, PermissionError):
        if options.conf:
            raise
        loaded = Settings()  # its default socket tells more than a file that is not ours to read
    if not loaded.control.enable:
        raise NoServerError(f"server: {path} says control.enable = false", hint="-conn SOCKET names a socket")
    return Path(loaded.control.listen)


# ---- commands ---------------------------------------------------------------------------------------------------


def _check_level(options: argparse.Namespace) -> None:
    """Raises ConfigError."""
    name = options.setlevel.upper()
    if not name and not options.getlevel:
        raise ConfigError("server log: say -getlevel or -setlevel LEVEL")
    if name and name not in LEVELS:
        near = difflib.get_close_matches(name, LEVELS, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(LEVELS)}"
        raise ConfigError(f"server log: there is no level '{options.setlevel}'", hint=hint)


def _log(control: Control, options: argparse.Namespace) -> int:
    wish = {"level": options.setlevel.upper()} if options.setlevel else {}
    print(f"Log Level : {control.ask('log', **wish)['level']}")
    return 0


def _stack(control: Control, _: argparse.Namespace) -> int:
    for line in control.ask("stack")["lines"]:
        print(one_line(line))
    return 0


def _slab(control: Control, options: argparse.Namespace) -> int:
    devices = control.ask("slab")["devices"]
    found = [one for one in devices if options.type in ("", one["type"]) and options.id in ("", one["id"])]
    if not found:
        there = ", ".join(f"{one['type']}:{one['id']}" for one in devices)
        return fail(f"server slab: there is no such device; there is {there}")
    if options.json:
        print(json.dumps({"devices": found}, indent=2))
        return 0
    columns = {
        "ARENAS": "arenas", "SIZE": "arena_bytes", "BLOCKS": "live_buffers", "USED": "used_bytes",
        "IN BLOCKS": "block_bytes", "FREE": "free_bytes", "CACHED": "cached_bytes", "PEAK": "peak_bytes",
        "LIMIT": "max_bytes", "REFUSED": "failures",
    }  # fmt: skip
    rows = [
        (
            f"{one['type']}:{one['id']}",
            *(bytes_text(one[key]) if "bytes" in key else one[key] for key in columns.values()),
        )
        for one in found
    ]
    table(("DEVICE", *columns), rows)
    return 0


def _stat(control: Control, options: argparse.Namespace) -> int:
    stats = control.ask("stat")
    if options.node:
        found = {
            f"{job['id']}.{node['name']}": node
            for job in stats["jobs"]
            for node in job["nodes"]
            if options.node in (node["name"], *node["nodes"])
        }
        if not found:
            there = ", ".join(
                sorted({name for job in stats["jobs"] for node in job["nodes"] for name in node["nodes"]})
            )
            return fail(f"server stat: there is no node '{options.node}'; there are: {there or 'none'}")
        stats = found
    if options.json:
        print(json.dumps(stats, indent=2))
    elif options.all or options.node:
        for path, value in _flat(stats, ""):
            print(one_line(f"{path} = {value}"))
    else:
        _stat_tables(stats)
    return 0


def _flat(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Every single value with its path; items of lists are called by their name where they have one."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{at}.{name}" if at else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            name = item.get("id") or item.get("name") or item.get("node") or number
            yield from _flat({key: part for key, part in item.items() if part is not name}, f"{at}.{name}")
    else:
        yield at, ",".join(map(str, value)) if isinstance(value, list) else value


def _stat_tables(stats: dict[str, Any]) -> None:
    tasks, memory = stats["tasks"], stats["memory"]
    print(f"up {stats['uptime_seconds']:.0f} s; tasks: {tasks['running']} run, {tasks['waiting']} wait; ", end="")
    print(f"buffers: {memory['live_buffers']} of {bytes_text(memory['used_bytes'])}\n")
    table(
        ("PID", "PROCESS", "CPU %", "CPU", "RES", "SHR", "THREADS", "FILES"),
        [
            (
                one["pid"], one["name"], one["cpu_percent"], f"{one['cpu_seconds']:.1f} s",
                bytes_text(one["rss_bytes"]),
                bytes_text(one["shared_bytes"]), one["threads"], one["descriptors"],
            )
            for one in stats["processes"]
        ],
    )  # fmt: skip
    rows = [(job, node) for job in stats["jobs"] for node in job["nodes"]]
    if rows:
        print()
        table(
            ("JOB", "NODE", "KIND", "IN", "OUT", "FAILED", "DROPPED", "WAIT", "COMPUTE p50", "p99", "RESTARTS"),
            [
                (
                    job["id"], node["name"], node["kind"], node["buffers_in"], node["buffers_out"], node["failed"],
                    node["dropped"], node["queue_length"], seconds_text(node["compute_seconds"]["p50"]),
                    seconds_text(node["compute_seconds"]["p99"]), node.get("workers", {}).get("restarts", "-"),
                )
                for job, node in rows
            ],
        )  # fmt: skip


def _jobs(control: Control, options: argparse.Namespace) -> int:
    jobs = control.ask("jobs")["jobs"]
    if options.json:
        print(json.dumps({"jobs": jobs}, indent=2))
        return 0
    table(
        ("JOB", "STATE", "SESSIONS", "ORIGIN", "FILE", "ERROR"),
        [
            (one["id"], one["state"], one["sessions"], one["origin"], one.get("file", "-"), one["error"].split("\n")[0])
            for one in jobs
        ],
    )
    return 0


def _reload(control: Control, options: argparse.Namespace) -> int:
    done = control.ask("reload", patient=True)
    if options.json:
        print(json.dumps(done, indent=2))
    else:
        for what in ("added", "replaced", "removed", "unchanged"):
            if done[what]:
                print(one_line(f"{what}: {', '.join(done[what])}"))
    for job, reason in done["failed"].items():
        fail(*(f"job '{job}': {line}" for line in reason.split("\n")))
    return 1 if done["failed"] else 0


def _hang_up(pid: int, reason: NoServerError) -> int:
    """What systemd asks for where there is no control socket: what became of it is in the log alone. Raises
    ControlError."""
    try:
        os.kill(pid, signal.SIGHUP)
    except (OSError, OverflowError) as error:
        text = error.strerror if isinstance(error, OSError) else "there is no such process"
        raise ControlError(f"{reason.message}; SIGHUP to process {pid}: {text}") from None
    print(f"{reason.message}; sent SIGHUP to process {pid}, its log says what became of that")
    return 0


def _drain(control: Control, options: argparse.Namespace) -> int:
    if options.keep:
        done = control.ask("drain", patient=True, keep=True)
        print(one_line(f"drained: {', '.join(done['drained']) or 'no job ran'}"))
        return 0
    done = control.ask("drain")
    print(f"draining: {done['sessions']} sessions are under way", flush=True)
    control.wait_for_end()
    print(f"the server (pid {done['pid']}) has ended")
    return 0


_COMMANDS = {
    "log": _log, "stack": _stack, "slab": _slab, "stat": _stat, "jobs": _jobs, "reload": _reload, "drain": _drain,
}  # fmt: skip


# ---- without a server ---------------------------------------------------------------------------------------------


def _conf_value(file: str, key: str) -> int:
    path = Path(file) if file else paths.config_file()
    loaded = load(path) if file or path.exists() else Settings()
    section_name, _, name = key.partition(".")
    section = getattr(loaded, section_name, None)
    item = next((f for f in dataclasses.fields(section) if file_key(f) == name), None) if section else None
    if item is None:
        known = [f"{name}.{file_key(field)}" for name, kind in SECTIONS.items() for field in dataclasses.fields(kind)]
        near = difflib.get_close_matches(key, known, 1)
        return fail(f"{key} is not known" + (f" (did you mean '{near[0]}'?)" if near else ""))
    value = getattr(section, item.name)
    print(" ".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value)
    return 0


def _check_port(text: str) -> int:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return fail(f"{text!r} is not of the form host:port")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host.strip("[]"), int(port)))
        except OSError as error:
            fail(f"{text}: {error.strerror}")
            return {errno.EADDRINUSE: 2, errno.EACCES: 3}.get(error.errno or 0, 1)
    return 0
