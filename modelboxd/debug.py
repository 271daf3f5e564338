"""The command modelbox-python-debug: runs a graph with its Python units inside one process, for debuggers."""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelbox.errors import GraphError, ModelBoxError
from modelboxd import logs, paths
from modelboxd.settings import LEVELS, Settings
from modelboxd.settings_file import load


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="modelbox-python-debug", description=__doc__)
    made.add_argument("--flow", required=True, metavar="FILE", help="the graph")
    made.add_argument("-c", metavar="FILE", help="configuration; default: modelbox.conf, where there is one")
    made.add_argument("--loglevel", default="INFO", metavar="LEVEL", help=f"one of {', '.join(LEVELS)}")
    made.add_argument("--verbose", action="store_true", help="the same as --loglevel DEBUG")
    made.add_argument("--no-debug", action="store_true", help="run units in processes, as the server does")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the graph until ^C, or until a unit stops it. Returns the exit code."""
    commands = parser()
    options = commands.parse_args(argv)
    level = "DEBUG" if options.verbose else options.loglevel.upper()
    if level not in LEVELS:
        commands.error(f"--loglevel {options.loglevel}: known are {', '.join(LEVELS)}")
    try:
        made = configure(options.c, level, inside=not options.no_debug)
        logs.set_up(made.log, verbose=True)
        faulthandler.enable()
        from modelboxd.daemon import Daemon

        code = Daemon(made, [Path(options.flow).resolve()]).run()
    except ModelBoxError as error:
        for problem in error.problems if isinstance(error, GraphError) else (error,):
            logs.report(str(problem), node=problem.node)
        print(f"Running result: {error.code.name}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ^C does not disturb the end
    print("Running result: STATUS_SUCCESS", file=sys.stderr)
    return code


def configure(file: str | None, level: str, *, inside: bool) -> Settings:
    """The server's settings, with what a debugger needs. Raises ConfigError."""
    path = Path(file) if file else paths.config_file()
    made = load(path) if file or path.exists() else Settings()
    log = replace(made.log, level=level, target="screen")
    if not inside:
        return replace(made, log=log, server=replace(made.server, api=False))
    return replace(
        made,
        log=log,
        server=replace(made.server, api=False),
        engine=replace(made.engine, threads=1, cpus=()),
        python=replace(made.python, workers=0),
    )


if __name__ == "__main__":
    sys.exit(main())
