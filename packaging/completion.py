"""Writes the completions of bash and zsh: completion.py FOLDER. They come from the commands' own parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from modelboxd import cli, debug
from modelboxd.tool import main as tool

FILES = ("FILE", "GRAPH", "SOCKET", "CONF")
FOLDERS = ("PATH",)
USERS = ("USER",)


def dashes(name: str, parser: argparse.ArgumentParser) -> str:
    """modelbox-tool documents -name; the parser's own form is --name."""
    return name[1:] if parser.prog.startswith("modelbox-tool") and name.startswith("--") else name


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Its own, and those of commands below a command (`server log`), each name once."""
    seen: set[str] = set()
    below = subcommands(parser).values() if " " in parser.prog else ()
    for one in (parser, *below):
        for action in one._actions:
            if action.option_strings and action.help != argparse.SUPPRESS and not seen & {*action.option_strings}:
                seen.update(action.option_strings)
                yield action


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def value_kind(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


# ---- bash ---------------------------------------------------------------------------------------------


def bash_values(action: argparse.Action) -> str:
    """The statement that completes an option's value."""
    if action.choices:
        return f"COMPREPLY=($(compgen -W '{' '.join(map(str, action.choices))}' -- \"$cur\"))"
    kind = value_kind(action)
    if kind in FILES:
        return 'COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null'
    if kind in FOLDERS:
        return 'COMPREPLY=($(compgen -d -- "$cur")); compopt -o filenames 2>/dev/null'
    if kind in USERS:
        return 'COMPREPLY=($(compgen -u -- "$cur"))'
    return "COMPREPLY=()"


def bash_cases(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The lines that complete one parser's words, in a function whose `cur` and `prev` are set."""
    yield '  case "$prev" in'
    for action in options(parser):
        if takes_value(action):
            # -name and --name mean the same to modelbox-tool
            names = sorted({*action.option_strings, *(dashes(name, parser) for name in action.option_strings)})
            yield f"    {' | '.join(names)}) {bash_values(action)}; return ;;"
    yield "  esac"
    words = [dashes(name, parser) for action in options(parser) for name in action.option_strings]
    words += subcommands(parser)
    for action in parser._actions:
        if not action.option_strings and action.choices and not isinstance(action, argparse._SubParsersAction):
            words += map(str, action.choices)
    words = list(dict.fromkeys(words))
    yield f"  COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$cur\"))"
    files = [action for action in options(parser) if action.nargs == "*" and value_kind(action) in FILES]
    if files:
        yield '  [[ $cur == -* ]] || { COMPREPLY+=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null; }'


def bash(name: str, parser: argparse.ArgumentParser) -> str:
    function = "_" + name.replace("-", "_")
    lines = [f"# bash completion of {name}; made by packaging/completion.py", f"{function}() {{"]
    lines += ['  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command="" at', "  COMPREPLY=()"]
    known = subcommands(parser)
    if known:
        lines.append("  for ((at = 1; at < COMP_CWORD; at++)); do")
        lines.append(f"    case ${{COMP_WORDS[at]}} in {' | '.join(known)}) command=${{COMP_WORDS[at]}}; break ;; esac")
        lines.append("  done")
        lines.append('  case "$command" in')
        for command, made in known.items():
            lines.append(f"  {command})")
            lines += ["  " + line for line in bash_cases(made)]
            lines += ["    return ;;"]
        lines.append("  esac")
    lines += bash_cases(parser)
    lines += ["}", f"complete -F {function} {name}", ""]
    return "\n".join(lines)


# ---- zsh ----------------------------------------------------------------------------------------------


def zsh_text(text: str) -> str:
    """Help as it can stand between brackets in a single-quoted word."""
    for mark in ("\\", "[", "]", ":"):
        text = text.replace(mark, "\\" + mark)
    return text.replace("'", "'\\''")


def zsh_values(action: argparse.Action) -> str:
    kind = value_kind(action)
    name = zsh_text(kind.lower())
    if action.choices:
        return f":{name}:({' '.join(map(str, action.choices))})"
    if kind in FILES:
        return f":{name}:_files"
    if kind in FOLDERS:
        return f":{name}:_files -/"
    if kind in USERS:
        return f":{name}:_users"
    return f":{name}: "


def zsh_arguments(parser: argparse.ArgumentParser, rest: str) -> Iterator[str]:
    for action in options(parser):
        several = "*" if isinstance(action, argparse._AppendAction) else ""
        value = zsh_values(action) if takes_value(action) else ""
        for name in action.option_strings:
            yield f"    '{several}{dashes(name, parser)}[{zsh_text(action.help or '')}]{value}'"
    yield rest


def zsh_call(parser: argparse.ArgumentParser, rest: str) -> str:
    return "  _arguments -S \\\n" + " \\\n".join(line for line in zsh_arguments(parser, rest) if line)


def zsh(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"#compdef {name}", "# made by packaging/completion.py"]
    known = subcommands(parser)
    if not known:
        return "\n".join([*lines, zsh_call(parser, "    '*:graph:_files'"), ""])
    lines += ["local context state line curcontext=$curcontext", "typeset -A opt_args"]
    lines += [
        zsh_call(parser, f"    '1:command:({' '.join(known)})' \\\n    '*::argument:->rest'").replace(" -S ", " -C ")
    ]
    lines += ["[[ $state == rest ]] || return", "case $line[1] in"]
    for command, made in known.items():
        words = " ".join(subcommands(made))
        lines += [f"{command})", zsh_call(made, f"    '*: :({words})'" if words else "    '*: :'"), "  ;;"]
    return "\n".join([*lines, "esac", ""])


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    commands: dict[str, Callable[[], argparse.ArgumentParser]] = {
        "modelbox": cli.parser,
        "modelbox-tool": tool._parser,
        "modelbox-python-debug": debug.parser,
    }
    for name, make in commands.items():
        (folder / f"{name}.bash").write_text(bash(name, make()))
        (folder / f"_{name}").write_text(zsh(name, make()))


if __name__ == "__main__":
    main()
