"""The command `modelbox-tool`. Options are parsed as getopt does: -name x, -name=x, --name x, and abbreviations."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from modelbox.errors import GraphError, ModelBoxError
from modelbox.spec import UnitSpec
from modelbox.version import VERSION
from modelboxd import logs, paths
from modelboxd.drivers.registry import Registry
from modelboxd.graph.loader import load_graph
from modelboxd.settings import LEVELS, LogSettings
from modelboxd.tool import server, template, token
from modelboxd.tool.flow import run_flow
from modelboxd.tool.screen import fail, table

LATER = {
    "key": "encrypted passwords and models",
    "develop": "the graph editor's own server",
}
NOT_YET = "not supported by this version"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options, rest = parser.parse_known_args(_double_dashes(arguments))
    if rest and options.command not in LATER:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.v:
        print(f"modelbox-tool {VERSION}")
        return 0
    if options.get_modelbox_root:
        print(paths.root())
        return 0
    try:
        _set_up_logs(options)
    except ModelBoxError as error:
        return fail(error)
    if options.command is None:
        _parser().print_help()
        return 1
    try:
        code = options.run_command(options) or 0
        sys.stdout.flush()
        return code
    except GraphError as error:
        return fail(*error.problems)
    except ModelBoxError as error:
        return fail(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # modelbox-tool ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        logging.getLogger(__name__).info("internal error", exc_info=True)
        return fail(f"internal error: {type(error).__name__}: {error}; please report this (-verbose shows more)")


def _set_up_logs(options: argparse.Namespace) -> None:
    """Lines of the scan and of graphs: to -log-path, to the screen with -verbose, else nowhere. Raises ConfigError."""
    if options.log_path:
        logs.set_up(LogSettings(level=options.log_level, path=options.log_path, screen=options.verbose))
    elif options.verbose:
        logs.set_up(LogSettings(level=options.log_level), verbose=True)
    else:
        logging.basicConfig(level=logging.CRITICAL + 1, stream=sys.stderr)


def _double_dashes(arguments: list[str]) -> list[str]:
    """-name, -name=x and -n are long options here, as in getopt_long_only()."""
    return [f"-{word}" if word not in ("-v", "-h") and re.match(r"-[A-Za-z]", word) else word for word in arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelbox-tool", description="Looks at flow units, graphs and the server.")
    parser.add_argument("--verbose", action="store_true", help="log to the screen")
    parser.add_argument(
        "--log-level", default="INFO", choices=LEVELS, type=str.upper, help="least level that is logged"
    )
    parser.add_argument("--log-path", default="", metavar="FILE", help="log to this file")
    parser.add_argument("--get-modelbox-root", action="store_true", help="print the prefix of all standard paths")
    parser.add_argument("-v", action="store_true", help="version")
    commands = parser.add_subparsers(dest="command")
    driver = commands.add_parser("driver", help="flow units that can be used, and what is wrong with the others")
    driver.add_argument("--info", action="store_true", help="list them")
    driver.add_argument("--type", default="", help="flowunit: one line per unit with its ports")
    driver.add_argument("--details", action="store_true", help="everything about each unit")
    driver.add_argument("--name", default="", help="only this unit")
    driver.add_argument("--path", default="", help="more directories, separated by commas")
    driver.add_argument("--conf", default="", help="a graph file whose driver.dir counts as well")
    driver.add_argument("--format-json", action="store_true", help="JSON instead of text")
    driver.set_defaults(run_command=_driver)
    flow = commands.add_parser("flow", help="runs a graph, or converts it")
    flow.add_argument("--run", metavar="FILE", help="run this graph until it is told to stop")
    flow.add_argument("--conf-convert", action="store_true", help="print the graph of -path in another format")
    flow.add_argument("--path", default="", metavar="FILE", help="the graph to convert")
    flow.add_argument("--out-format", choices=("json", "toml"), default="json")
    flow.set_defaults(run_command=run_flow)
    server.add_parser(commands)
    token.add_parser(commands)
    template.add_parser(commands)
    for name, what in LATER.items():
        later = commands.add_parser(name, help=f"{what} (not supported yet)", add_help=False)
        later.set_defaults(run_command=lambda options: fail(f"{options.command}: {LATER[options.command]}: {NOT_YET}"))
    help_command = commands.add_parser("help", help="this text")
    help_command.add_argument("topic", nargs="?", choices=sorted(commands.choices), help="a command")
    help_command.set_defaults(
        run_command=lambda options: print(commands.choices.get(options.topic, parser).format_help())
    )
    return parser


# ---- driver -------------------------------------------------------------------------------------------


def _driver(options: argparse.Namespace) -> int:
    if options.type not in ("", "flowunit"):
        return fail(f"driver: -type {options.type} is not known (flowunit)")
    places = [Path(place) for place in options.path.split(",") if place]
    if options.conf:
        places += [Path(place) for place in load_graph(Path(options.conf)).driver_dirs]
    default = paths.unit_dir()
    registry = Registry([*places, default], builtin_dir=default, cache_file=paths.cache_dir() / "drivers.json")
    registry.scan()
    units = [unit for unit in registry.units if options.name in ("", unit.name)]
    if options.name and not units:
        registry.find(options.name)
    if options.format_json:
        problems = [str(problem) for problem in registry.problems]
        print(json.dumps({"flowunits": [_as_json(unit) for unit in units], "problems": problems}, indent=2))
        return 0
    if options.details:
        for unit in units:
            _print_details(unit)
    elif options.type == "flowunit":
        table(
            ("FlowunitName", "DeviceType", "GroupType", "DriverName", "Version", "InputPort", "OutputPort"),
            [
                (
                    unit.name,
                    unit.device,
                    unit.group,
                    Path(unit.path).name,
                    unit.version,
                    _ports(unit.inputs),
                    _ports(unit.outputs),
                )
                for unit in units
            ],
        )
    else:
        table(
            ("Class", "Name", "Type", "Version", "Path"),
            [("DRIVER-FLOWUNIT", unit.name, unit.device, unit.version, unit.path) for unit in units],
            least=(25, 30, 10, 10),
        )
    for problem in registry.problems:
        print(f"not usable: {problem}")
    return 0


def _ports(ports: Sequence[object]) -> str:
    return ",".join(getattr(port, "name", "") for port in ports) or "-"


def _as_json(unit: UnitSpec) -> dict[str, object]:
    return {
        "name": unit.name,
        "type": unit.device,
        "version": unit.version,
        "description": unit.description,
        "group": unit.group,
        "kind": unit.kind.value,
        "flow": unit.flow_type.value,
        "path": unit.path,
        "inputports": [dataclasses.asdict(port) for port in unit.inputs],
        "outputports": [dataclasses.asdict(port) for port in unit.outputs],
        "options": [dataclasses.asdict(option) for option in unit.options],
    }


def _print_details(unit: UnitSpec) -> None:
    def line(indent: int, name: str, value: object) -> None:
        print(f"{' ' * indent}{name.ljust(16 - indent)}: {value}")

    print("-" * 40)
    line(0, "flowunit name", unit.name)
    line(0, "type", unit.device)
    line(0, "driver name", Path(unit.path).name)
    line(0, "version", unit.version)
    line(0, "description", unit.description)
    line(0, "group", unit.group)
    print("inputs")
    for number, port in enumerate(unit.inputs, 1):
        line(2, "input index", number)
        line(4, "name", port.name)
        line(4, "type", port.type)
        line(4, "device", port.device)
    print("outputs")
    for number, port in enumerate(unit.outputs, 1):
        line(2, "output index", number)
        line(4, "name", port.name)
        line(4, "device", port.device)
    print("options")
    for number, option in enumerate(unit.options, 1):
        line(2, "option", number)
        line(4, "name", option.name)
        line(4, "default", "" if option.default is None else option.default)
        line(4, "desc", option.description)
        line(4, "required", str(option.required).lower())
        line(4, "type", option.type)
        if option.values:
            line(4, "list values", ", ".join(option.values))


if __name__ == "__main__":
    sys.exit(main())
