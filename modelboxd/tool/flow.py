"""`modelbox-tool flow`: runs a graph in a server of its own, or prints it as TOML or JSON."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import toml

from modelbox.errors import ConfigError
from modelboxd.graph.loader import load_graph, read_file


def run_flow(options: argparse.Namespace) -> int:
    """Returns the exit code, 0 or 1. Raises GraphError, ConfigError."""
    if options.run:
        return _run(options)
    if options.conf_convert:
        if not options.path:
            raise ConfigError("flow -conf-convert: say -path FILE")
        print(_converted(Path(options.path), options.out_format), end="")
        return 0
    raise ConfigError("flow: say -run FILE or -conf-convert -path FILE -out-format json|toml")


def _run(options: argparse.Namespace) -> int:
    """A server with default settings that runs this graph only; its lines go to the screen, or to -log-path."""
    log = {"level": options.log_level, "target": "screen"}
    if options.log_path:
        log |= {"target": "file", "path": str(Path(options.log_path).absolute()), "screen": options.verbose}
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(toml.dumps({"log": log}))
        config.flush()
        command = [sys.executable, "-m", "modelboxd", "-f", "-c", config.name, "--graph", options.run]
        with subprocess.Popen(command) as server:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: server.terminate())
            code = server.wait()
    print(f"run flow {options.run} {'success' if code == 0 else 'failed'}")
    return 0 if code == 0 else 1


def _converted(path: Path, form: str) -> str:
    load_graph(path)  # what is no graph is not converted; it says what is wrong
    data = read_file(path)
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"
    text = toml.dumps(data)
    if tomllib.loads(text) != data:
        raise ConfigError(f"{path}: cannot be written as TOML")
    return text
