"""On which line of a TOML or JSON file a key stands: sections, dotted keys, inline tables and arrays of tables.

The parsers hand back values without places, so the file's structure is walked a second time, here. It was parsed
before, so what is not well-formed need not be understood, only survived.
"""

from __future__ import annotations

import contextlib
import functools
import re
from types import MappingProxyType

from modelboxd.graph.places import string_value

Path = tuple[str, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_SCALAR = re.compile(r"[^,\]}\n#]*")


def key_line(text: str, *path: str) -> int:
    """The line of a key, such as ("graph", "strict"), or of a section; 0 when it is not there."""
    return _lines(text).get(path, 0)


@functools.lru_cache(maxsize=4)
def _lines(text: str) -> MappingProxyType[Path, int]:
    walk = _Walk(text)
    with contextlib.suppress(_EndError, RecursionError):  # what was found until there counts
        walk.file()
    return MappingProxyType({**walk.implied, **walk.lines})


class _EndError(Exception):
    """The text ends, or goes on in a way that is not understood."""


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.implied: dict[Path, int] = {}  # tables that exist because something in them is set
        self._counted = (0, 1)  # place and line

    def file(self) -> None:
        self._skip(_SPACE)
        if self._next() == "{":
            self._value(())
            return
        prefix: Path = ()
        while True:
            self._skip(_SPACE)
            start = self.at
            if self._next() == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                self._skip(_SPACE)
                prefix = self._key()
                self._record(prefix, start)
                self._skip(_SPACE)
                while self._next() == "]":
                    self.at += 1
            else:
                self._setting(prefix)

    def _setting(self, prefix: Path) -> None:
        """key = value, or "key": value."""
        start = self.at
        path = prefix + self._key()
        self._record(path, start)
        self._skip(_SPACE)
        if self._next() not in "=:":
            raise _EndError
        self.at += 1
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        opening = self._next()
        if opening in "[{":
            self.at += 1
            while self._more("]" if opening == "[" else "}"):
                if opening == "[":
                    self._value(path)
                else:
                    self._setting(path)
        elif opening in "\"'":
            self._string()
        elif not self._skip(_SCALAR):
            raise _EndError

    def _more(self, closing: str) -> bool:
        """Whether another item follows before `closing`, which is passed."""
        self._skip(_SPACE)
        if self._next() == ",":
            self.at += 1
            self._skip(_SPACE)
        if self._next() == closing:
            self.at += 1
            return False
        return True

    def _key(self) -> Path:
        words = []
        while True:
            if self._next() in "\"'":
                words.append(self._string())
            else:
                words.append(self._skip(_BARE))
                if not words[-1]:
                    raise _EndError
            if not self._skip(_DOT):
                return tuple(words)

    def _string(self) -> str:
        found = string_value(self.text, self.at)
        if found is None:
            raise _EndError
        value, self.at = found
        return value

    def _record(self, path: Path, place: int) -> None:
        before, line = self._counted
        line += self.text.count("\n", before, place)
        self._counted = (place, line)
        self.lines.setdefault(path, line)
        for length in range(1, len(path)):
            self.implied.setdefault(path[:length], line)

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise _EndError
        return self.text[self.at]

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]
