"""Where a text of a TOML or JSON file stands: line and column of every character behind its escapes.

The parsers hand back values without places. So that a complaint about the DOT text names the line of the
file that the user edits, the strings of the file are read a second time, here, with the place of each character.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator

from modelbox.errors import Where

Locate = Callable[[int, int], Where]

_TOKEN = re.compile(
    r'#[^\n]*|"""(?P<long>(?:\\.|[^\\])*?"{0,2})"""(?!")|\'\'\'(?P<raw_long>.*?\'{0,2})\'\'\'(?!\')'
    r'|"(?P<short>(?:\\.|[^"\\\n])*)"|\'(?P<raw>[^\'\n]*)\'',
    re.DOTALL,
)
# JSON writes a character beyond the first plane as two escapes.
_HEX = "[0-9a-fA-F]"
_PAIR = rf"u([dD][89abAB]{_HEX}{{2}})\\u([dD][c-fC-F]{_HEX}{{2}})"
_ESCAPE = re.compile(rf"\\(?:{_PAIR}|u({_HEX}{{4}})|U({_HEX}{{8}})|([ \t]*\n\s*)|(.))", re.DOTALL)
_LETTERS = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class _Text:
    """One string of the file: its value, and from which place of the file each character came."""

    __slots__ = ("origins", "value")

    def __init__(self, raw: str, start: int, escapes: bool) -> None:
        parts: list[str] = []
        self.origins: list[tuple[int, int]] = []  # (place in the value, place in the file), where they diverge
        length = at = 0
        for match in _ESCAPE.finditer(raw) if escapes else ():
            self._add(parts, length, raw[at : match.start()], start + at)
            length += match.start() - at
            char = _unescape(match)
            self._add(parts, length, char, start + match.start())
            length += len(char)
            at = match.end()
        self._add(parts, length, raw[at:], start + at)
        self.value = "".join(parts)

    def _add(self, parts: list[str], length: int, text: str, start: int) -> None:
        if text:
            parts.append(text)
            self.origins.append((length, start))

    def origin(self, at: int) -> int:
        """The place in the file of character `at` of the value."""
        if not self.origins:
            return 0
        number = max(bisect.bisect_right(self.origins, at, key=lambda origin: origin[0]) - 1, 0)
        begin, start = self.origins[number]
        return start + at - begin


def _unescape(match: re.Match[str]) -> str:
    high, low, short, long, joined, letter = match.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if short or long:
        return chr(min(int(short or long, 16), 0x10FFFF))
    if joined is not None:  # a backslash at the end of a line joins it with the next one
        return ""
    return _LETTERS.get(letter, letter)


def _texts(source: str, start: int) -> Iterator[_Text]:
    """Every string literal of a TOML or JSON text, keys included, that begins at `start` or later."""
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup
        if kind is None or match.start() < start:
            continue
        raw, at = match[kind], match.start(kind)
        if kind.endswith("long") and raw.startswith("\n"):
            raw, at = raw[1:], at + 1
        yield _Text(raw, at, escapes=not kind.startswith("raw"))


def string_value(source: str, at: int) -> tuple[str, int] | None:
    """The value of the string literal that begins at `at`, and where it ends; None when there is none."""
    match = _TOKEN.match(source, at)
    if match is None or match.lastgroup is None:
        return None
    raw = match[match.lastgroup]
    if match.lastgroup.endswith("long"):
        raw = raw.removeprefix("\n")
    return _Text(raw, 0, escapes=not match.lastgroup.startswith("raw")).value, match.end()


def locate_text(source: str, key: str, values: list[str], file: str) -> Locate:
    """Places in the DOT text that `key` sets to `values` (its lines, or the whole as the only one) -> places
    in `file`, whose content is `source`. Where the strings cannot be found again, only the line of the key is told.
    """
    begins = _positions(source)
    texts = _find(source, key, values)
    if texts is None:
        only_line = source.count("\n", 0, max(source.find(key), 0)) + 1
        return lambda line, column: Where(file, only_line)

    @functools.cache
    def line_starts(number: int) -> list[int]:
        return _positions(values[number])

    def locate(line: int, column: int) -> Where:
        number = 0
        while number < len(values) - 1 and line > len(line_starts(number)):
            line -= len(line_starts(number))
            number += 1
        starts = line_starts(number)
        at = texts[number].origin(starts[min(line, len(starts)) - 1] + column - 1)
        row = bisect.bisect_right(begins, at)
        return Where(file, row, at - begins[row - 1] + 1)

    return locate


def _find(source: str, key: str, values: list[str]) -> list[_Text] | None:
    """The string literals with these values that follow each other, the first ones behind `key`."""
    found: list[_Text] = []
    for text in _texts(source, max(source.find(key), 0)):
        if text.value == values[len(found)]:
            found.append(text)
            if len(found) == len(values):
                return found
        else:
            found = [text] if text.value == values[0] else []
    return None


def _positions(text: str) -> list[int]:
    """Where each line begins."""
    return [0, *(match.end() for match in re.finditer("\n", text))]
