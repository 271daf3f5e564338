"""Tokens of clients, and what each allows. A file keeps their hashes, one line each: name, role, sha256:..."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from modelbox.errors import ConfigError, Where

PREFIX = "mbx_"
_LINE = re.compile(r"(?P<name>[\w.-]{1,64})\s+(?P<role>\w+)\s+sha256:(?P<hash>[0-9a-f]{64})")


class Role(IntEnum):
    """What a client may do; each includes those before it."""

    NONE = 0  # not even a token is needed
    READ = 1
    OPERATE = 2
    ADMIN = 3


ROLES = {"read": Role.READ, "operate": Role.OPERATE, "admin": Role.ADMIN}


@dataclass(frozen=True, slots=True)
class Token:
    """A line of the token file."""

    name: str
    role: Role
    hash: str

    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.name} {self.role.name.lower()} sha256:{self.hash}"


def new_token(name: str, role: str) -> tuple[str, Token]:
    """A secret to give away, and what is kept of it. 256 random bits need no slow hash."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Token(name, ROLES[role], hash_of(secret))


def hash_of(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def read_tokens(path: Path) -> list[Token]:
    """The tokens of a file. Raises ConfigError: file, line, what."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"token file {path} cannot be read: {reason}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"token file {path} can be written by others", hint=f"chmod 600 {path}")
    tokens = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = _LINE.fullmatch(words)
        if match is None or match["role"] not in ROLES:
            hint = f"name, one of {', '.join(ROLES)}, sha256:...; modelbox-tool token makes such lines"
            raise ConfigError("this is no token", where=Where(str(path), number), hint=hint)
        tokens.append(Token(match["name"], ROLES[match["role"]], match["hash"]))
    if not tokens:
        raise ConfigError(f"token file {path} has no token", hint="modelbox-tool token makes one")
    return tokens


def write_token(path: Path, token: Token) -> None:
    """Appends a line to a token file, which is made when it is missing. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(token.line() + "\n")
    except OSError as error:
        raise ConfigError(f"token file {path} cannot be written: {error.strerror}") from None
