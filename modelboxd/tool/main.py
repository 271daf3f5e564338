"""The command `modelbox-tool`. Options are parsed as getopt does: -name x, -name=x, --name x, and abbreviations."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from modelbox.errors import ModelBoxError
from modelbox.spec import UnitSpec
from modelbox.version import VERSION
from modelboxd import paths
from modelboxd import settings as settings_module
from modelboxd.drivers.registry import Registry
from modelboxd.graph.loader import load_graph
from modelboxd.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(_double_dashes(arguments))
    if options.v:
        print(f"modelbox-tool {VERSION}")
        return 0
    logging.basicConfig(level=logging.INFO if options.verbose else logging.CRITICAL, stream=sys.stderr)
    if options.command is None:
        _parser().print_help()
        return 1
    try:
        return options.run(options) or 0
    except ModelBoxError as error:
        print(f"modelbox-tool: {error}", file=sys.stderr)
        return 1


def _double_dashes(arguments: list[str]) -> list[str]:
    """-name and -name=x are long options here, as in getopt_long_only()."""
    return [
        f"-{word}" if len(word) > 2 and word[0] == "-" and word[1] not in "-0123456789" else word for word in arguments
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelbox-tool", description="Looks at flow units, graphs and the server.")
    parser.add_argument("--verbose", action="store_true", help="log to the screen")
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
    driver.set_defaults(run=_driver)
    server = commands.add_parser("server", help="the server's configuration and port")
    server.add_argument("--conf", default="", help="modelbox.conf")
    server.add_argument("--get-conf-value", metavar="KEY", help="print one value, e.g. server.port")
    server.add_argument("--check-port", metavar="HOST:PORT", help="exit 0 free, 2 in use, 3 not allowed")
    server.set_defaults(run=_server)
    help_command = commands.add_parser("help", help="this text")
    help_command.set_defaults(run=lambda _: print(parser.format_help()))
    return parser


# ---- driver -------------------------------------------------------------------------------------------


def _driver(options: argparse.Namespace) -> int:
    places = [Path(place) for place in options.path.split(",") if place]
    if options.conf:
        places += [Path(place) for place in load_graph(Path(options.conf)).driver_dirs]
    default = paths.unit_dir()
    registry = Registry([*places, default], builtin_dir=default, cache_file=paths.cache_dir() / "drivers.json")
    registry.scan()
    units = [unit for unit in registry.units if options.name in ("", unit.name)]
    if options.format_json:
        problems = [str(problem) for problem in registry.problems]
        print(json.dumps({"flowunits": [_as_json(unit) for unit in units], "problems": problems}, indent=2))
        return 0
    if options.details:
        for unit in units:
            _print_details(unit)
    elif options.type == "flowunit":
        _table(
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
        _table(
            ("Class", "Name", "Type", "Version", "Path"),
            [("DRIVER-FLOWUNIT", unit.name, unit.device, unit.version, unit.path) for unit in units],
        )
    for problem in registry.problems:
        print(f"not usable: {problem}")
    return 0


def _ports(ports: Sequence[object]) -> str:
    return ",".join(getattr(port, "name", "") for port in ports) or "-"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
    print("-" * 40)
    print(f"flowunit name : {unit.name}\ntype          : {unit.device}\ndriver name   : {Path(unit.path).name}")
    print(f"version       : {unit.version}\ndescription   : {unit.description}\ngroup         : {unit.group}")
    for title, ports in (("inputs", unit.inputs), ("outputs", unit.outputs)):
        print(f"{title}:")
        for number, port in enumerate(ports, 1):
            print(f"  {number}. name {port.name}, type {port.type}, device {port.device}")
    print("options:")
    for number, option in enumerate(unit.options, 1):
        values = f", one of {', '.join(option.values)}" if option.values else ""
        default = "none" if option.default is None else repr(option.default)
        needed = ", required" if option.required else ""
        print(f"  {number}. {option.name} ({option.type}, default {default}{needed}{values}): {option.description}")


# ---- server -------------------------------------------------------------------------------------------


def _server(options: argparse.Namespace) -> int:
    if options.check_port:
        return _check_port(options.check_port)
    if options.get_conf_value:
        return _conf_value(Path(options.conf) if options.conf else paths.config_file(), options.get_conf_value)
    print("modelbox-tool server: say --get-conf-value or --check-port", file=sys.stderr)
    return 1


def _conf_value(file: Path, key: str) -> int:
    loaded = settings_module.load(file) if file.exists() else Settings()
    section_name, _, name = key.partition(".")
    section = getattr(loaded, section_name, None)
    item = (
        next((f for f in dataclasses.fields(section) if settings_module.file_key(f) == name), None) if section else None
    )
    if item is None:
        print(f"modelbox-tool: {key} is not known", file=sys.stderr)
        return 1
    value = getattr(section, item.name)
    print(" ".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value)
    return 0


def _check_port(text: str) -> int:
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        print(f"modelbox-tool: {text!r} is not of the form host:port", file=sys.stderr)
        return 1
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return {errno.EADDRINUSE: 2, errno.EACCES: 3}.get(error.errno or 0, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
