"""Writes the manual pages: manpages.py FOLDER.

The texts are in packaging/man/. Options come from the commands' own parsers, keys from the table of settings, and
stand where a text says `.\\" @OPTIONS@`, `.\\" @COMMANDS@` and `.\\" @KEYS@`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from modelbox.version import VERSION
from modelboxd import cli, debug, settings, settings_file
from modelboxd.tool import main as tool

TEXTS = Path(__file__).resolve().parent / "man"


def escape(text: str) -> str:
    """Text as roff takes it: dashes that can be copied, no line that begins with a dot or an apostrophe."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def options(parser: argparse.ArgumentParser, *, single_dash: bool = False) -> Iterator[str]:
    """An entry per option. With `single_dash` as modelbox-tool writes them: -name instead of --name."""
    for action in parser._actions:
        if isinstance(action, (argparse._SubParsersAction, argparse._HelpAction)) or action.help == argparse.SUPPRESS:
            continue
        yield ".TP"
        value = "" if action.nargs == 0 else f"\\fI{escape(metavar(action))}\\fR"
        if action.option_strings:
            names = [f"\\fB{escape(shown(name, single_dash))}\\fR" for name in action.option_strings]
            yield ", ".join(names) + (f" {value}" if value else "")
        else:
            yield value
        yield escape(sentence(action.help)) if action.help else "\\&"
        if action.choices and action.metavar:
            yield "One of " + ", ".join(f"\\fB{escape(str(choice))}\\fR" for choice in action.choices) + "."


def shown(name: str, single_dash: bool) -> str:
    return name[1:] if single_dash and name.startswith("--") else name


def metavar(action: argparse.Action) -> str:
    word = action.metavar if isinstance(action.metavar, str) else None
    if word is None:
        word = "|".join(str(choice) for choice in action.choices) if action.choices else action.dest.upper()
    return f"[{word}...]" if action.nargs == "*" else f"[{word}]" if action.nargs == "?" else word


def sentence(text: str) -> str:
    first = text.split(" ", 1)[0]
    if first.isalpha():  # "flowunit:" is a value
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith(".") else ".")


def subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, help and parser of each command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, made in action.choices.items():
                yield name, helps.get(name, ""), made


def commands(parser: argparse.ArgumentParser, above: str = "") -> Iterator[str]:
    for name, help_text, made in subparsers(parser):
        yield f".SS {escape(above + name)}"
        yield escape(sentence(help_text))
        yield from options(made, single_dash=True)
        yield from commands(made, f"{above}{name} ")


def keys() -> Iterator[str]:
    """A section of modelbox.conf after the other, an entry per key."""
    for name, kind in settings.SECTIONS.items():
        yield f".SS [{name}]"
        yield escape((kind.__doc__ or "").strip())
        for item in dataclasses.fields(kind):
            default = settings_file.shown(item, settings.default_of(item))
            yield ".TP"
            yield f"\\fB{escape(settings.file_key(item))}\\fR = {escape(default)}"
            words = item.metadata.get("words")
            yield escape(sentence(item.metadata["help"]))
            if words:
                yield "One of " + ", ".join(f"\\fB{word}\\fR" for word in words) + "."


PARTS = {
    "modelbox.8": {"@OPTIONS@": lambda: options(cli.parser())},
    "modelbox-tool.1": {
        "@OPTIONS@": lambda: options(tool._parser(), single_dash=True),
        "@COMMANDS@": lambda: commands(tool._parser()),
    },
    "modelbox-python-debug.1": {"@OPTIONS@": lambda: options(debug.parser())},
    "modelbox.conf.5": {"@KEYS@": keys},
    "modelbox-graph.5": {},
}


def page(name: str) -> str:
    """A manual page as text."""
    lines = []
    for line in (TEXTS / name).read_text().splitlines():
        marker = line.removeprefix('.\\" ')
        part = PARTS[name].get(marker) if marker != line else None
        lines += [line.replace("@VERSION@", VERSION)] if part is None else list(part())
    return "\n".join(lines) + "\n"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        (folder / name).write_text(page(name))


if __name__ == "__main__":
    main()
