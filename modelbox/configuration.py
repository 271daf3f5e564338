"""Configuration: typed reading of options that are text inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
SEPARATOR = "\x1f"  # the unit separator of ASCII
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def _bool(text: str) -> bool:
    return _WORDS[text.strip().lower()]


def _int(text: str) -> int:
    return int(text.strip())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return list_text([_text(item) for item in value])
    return str(value)


def list_text(items: Sequence[str]) -> str:
    """A list as the text of an option: with commas, or, where an item has one itself, with SEPARATOR after each."""
    if any("," in item for item in items):
        return "".join(item + SEPARATOR for item in items)
    return ",".join(items)


def _items(text: str) -> list[str]:
    return text.split(SEPARATOR)[:-1] if SEPARATOR in text else text.split(",")


class Configuration:
    """Key/value options. A missing or unconvertible value gives the default; a scalar read as a list has one
    item, a text with commas several; a list read as a scalar is its items with commas between."""

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        self._values: dict[str, str] = {key: _text(value) for key, value in (values or {}).items()}

    def set(self, key: str, value: Any) -> None:
        """Sets a scalar or a list."""
        self._values[key] = _text(value)

    def contain(self, key: str) -> bool:
        """Whether the key is set."""
        return key in self._values

    __contains__ = contain

    def keys(self) -> list[str]:
        """All keys."""
        return list(self._values)

    def section(self, *prefixes: str) -> dict[str, str]:
        """The texts of the keys below `prefixes`, without them; later ones win. Below "" are all keys."""
        found: dict[str, str] = {}
        for prefix in prefixes:
            size = len(prefix)
            found |= {key[size:]: text for key, text in self._values.items() if key.startswith(prefix)}
        return found

    def _one(self, key: str, default: T, convert: Callable[[str], T]) -> T:
        text = self._values.get(key)
        if text is None:
            return default
        try:
            return convert(",".join(_items(text)) if SEPARATOR in text else text)
        except (ValueError, KeyError):
            return default

    def _many(self, key: str, default: list[T] | None, convert: Callable[[str], T]) -> list[T]:
        text = self._values.get(key)
        if text is None:
            return [] if default is None else default
        try:
            return [convert(item.strip()) for item in _items(text)]
        except (ValueError, KeyError):
            return [] if default is None else default

    def get_string(self, key: str, default: str = "") -> str:
        return self._one(key, default, str)

    def get_bool(self, key: str, default: bool = False) -> bool:
        return self._one(key, default, _bool)

    def get_int(self, key: str, default: int = 0) -> int:
        return self._one(key, default, _int)

    def get_float(self, key: str, default: float = 0.0) -> float:
        return self._one(key, default, float)

    def get_string_list(self, key: str, default: list[str] | None = None) -> list[str]:
        return self._many(key, default, str)

    def get_bool_list(self, key: str, default: list[bool] | None = None) -> list[bool]:
        return self._many(key, default, _bool)

    def get_int_list(self, key: str, default: list[int] | None = None) -> list[int]:
        return self._many(key, default, _int)

    def get_float_list(self, key: str, default: list[float] | None = None) -> list[float]:
        return self._many(key, default, float)
