"""modelbox-tool token: tokens for clients of the API."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from modelbox.errors import ConfigError
from modelboxd.api.tokens import ROLES, new_token, read_tokens, write_token


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    token = commands.add_parser("token", help="tokens for clients of the API (server.tokens)")
    token.add_argument("--file", required=True, metavar="FILE", help="the token file")
    token.add_argument("--create", default="", metavar="NAME", help="add a token and print it")
    token.add_argument("--role", choices=tuple(ROLES), default="read", help="what it allows")
    token.set_defaults(run_command=run_token)


def run_token(options: argparse.Namespace) -> int:
    """Prints a new token, or lists the names that there are. Raises ConfigError."""
    path = Path(options.file)
    there = read_tokens(path) if path.exists() and path.stat().st_size else []
    if not options.create:
        for token in there:
            print(f"{token.name} {token.role.name.lower()}")
        return 0
    if not re.fullmatch(r"[\w.-]{1,64}", options.create, re.ASCII):
        raise ConfigError(f"{options.create!r} is no name for a token", hint="letters, digits, _ . -, at most 64")
    if any(token.name == options.create for token in there):
        raise ConfigError(f"{path} has a token '{options.create}' already", hint="remove its line first")
    secret, made = new_token(options.create, options.role)
    write_token(path, made)
    print(secret)
    return 0
