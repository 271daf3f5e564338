"""modelbox.conf: TOML into settings, and settings into TOML."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from modelbox.errors import ConfigError, Where
from modelboxd import paths
from modelboxd.graph.keys import key_line
from modelboxd.graph.loader import toml_error
from modelboxd.settings import SECTIONS, Settings, default_of, file_key

_VARIABLE = re.compile(r"(\\?)\$\{(\w+)\}")
_BYTES = {"B": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "G": 1 << 30, "GB": 1 << 30}
_SECONDS = {"S": 1, "M": 60, "MIN": 60, "H": 3600}
# The words that may follow a number, by the unit of the field.
_UNITS: dict[str, dict[str, int]] = {
    "": {},
    "bytes": _BYTES,
    "s": _SECONDS,
    "ms": {"MS": 1, **{word: 1000 * seconds for word, seconds in _SECONDS.items()}},
}
_EXAMPLES = {"": "5", "bytes": '67108864 or "64MB"', "s": '30 or "5min"', "ms": '500 or "2s"'}


def load(path: Path) -> Settings:
    """Reads a configuration and what it includes. Raises ConfigError: file, line, what, and the nearest known key."""
    loader = _Loader()
    loader.read(path)
    sections = {name: kind(**loader.values.get(name, {})) for name, kind in SECTIONS.items()}
    return Settings(**sections, plugin_options=loader.plugin_options, file=str(path), origins=loader.origins)


class _Loader:
    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.origins: dict[str, Where] = {}
        self.plugin_options: dict[str, dict[str, Any]] = {}

    def read(self, path: Path, depth: int = 0) -> None:
        if depth > 8:
            raise ConfigError(f"{path}: includes itself", hint="include.files go more than 8 files deep")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message, where = toml_error(error, text, str(path))
            raise ConfigError(message, where=where) from None
        for name, values in data.items():
            self._section(name, values, text, path)
        if "files" in data.get("include", {}):
            where = self.origins["include.files"]
            for pattern in self.values["include"]["files"]:
                for included in self._matches(path, pattern, where):
                    self.read(included, depth + 1)

    @staticmethod
    def _matches(path: Path, pattern: str, where: Where) -> list[Path]:
        """The files of an include pattern. A pattern may match nothing; a plain name must exist."""
        found = sorted(glob.glob(pattern, root_dir=path.parent))
        if not found and not glob.has_magic(pattern):
            raise ConfigError(f"include.files: {path.parent / pattern} does not exist", where=where)
        return [path.parent / name for name in found]

    def _section(self, name: str, values: Any, text: str, path: Path) -> None:
        kind = SECTIONS.get(name)
        if kind is None:
            if not isinstance(values, dict):
                raise ConfigError(f"'{name}' stands outside any section", where=Where(str(path), key_line(text, name)))
            raise ConfigError(
                f"section [{name}] is not known",
                where=Where(str(path), key_line(text, name)),
                hint=_near(name, SECTIONS),
            )
        if not isinstance(values, dict):
            raise ConfigError(f"'{name}' must be a section [{name}]", where=Where(str(path), key_line(text, name)))
        fields = {file_key(item): item for item in dataclasses.fields(kind)}
        for key, value in values.items():
            where = Where(str(path), key_line(text, name, key) or key_line(text, name))
            item = fields.get(key)
            if item is None:
                if name == "editor" and key == "test":
                    continue
                if name == "plugin" and isinstance(value, dict):
                    self.plugin_options.setdefault(key, {}).update(_expanded(value, where))
                    self.origins[f"plugin.{key}"] = where
                    continue
                raise ConfigError(f"{name}.{key} is not known", where=where, hint=_near(key, fields))
            made = convert(item, value, f"{name}.{key}", where)
            section = self.values.setdefault(name, {})
            if (name, key) == ("plugin", "files"):
                made = tuple(str(path.parent / file) if file.endswith(".py") else file for file in made)
                made = tuple(dict.fromkeys((*section.get("files", ()), *made)))
            section[item.name] = made
            self.origins[f"{name}.{key}"] = where


def convert(item: dataclasses.Field[Any], value: Any, name: str, where: Where) -> Any:
    """The value of a key in the type of its field. Raises ConfigError."""
    default = default_of(item)
    if isinstance(default, tuple):
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(part, (str, int)) and not isinstance(part, bool) for part in items):
            raise ConfigError(f"{name} must be a text or a list of texts", where=where)
        return tuple(text for text in (expand(str(part), where) for part in items) if text)
    if isinstance(default, bool):
        word = str(value).lower()
        if word not in ("true", "false", "1", "0"):
            raise ConfigError(f"{name} = {value!r} is not true or false", where=where)
        return word in ("true", "1")
    if isinstance(default, int):
        return _number(item, value, name, where)
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} must be a text", where=where)
    text = expand(value, where)
    words = item.metadata.get("words")
    if words and text not in words:
        match = next((word for word in words if word.lower() == text.lower()), None)
        if match is None:
            raise ConfigError(f"{name} = {text!r} is not allowed", where=where, hint=f"one of {', '.join(words)}")
        return match
    return text


def _number(item: dataclasses.Field[Any], value: Any, name: str, where: Where) -> int:
    unit, names = item.metadata["unit"], item.metadata["names"]
    text = expand(str(value), where) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if text in names:
        return int(names[text])
    match = re.fullmatch(r"\s*(-?[0-9]{1,30})\s*([A-Za-z]*)\s*", text)
    factor = {"": 1, **_UNITS[unit]}.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ConfigError(
            f"{name} = {value!r} is no whole number",
            where=where,
            hint=f"such as {_EXAMPLES[unit]}" + "".join(f' or "{word}"' for word in names),
        )
    number = int(match[1]) * factor
    least, most = item.metadata["least"], item.metadata["most"]
    if least is not None and number < least:
        raise ConfigError(f"{name} = {value!r} is too small", where=where, hint=f"at least {_in_unit(least, unit)}")
    if number > most:
        raise ConfigError(f"{name} = {value!r} is too large", where=where, hint=f"at most {_in_unit(most, unit)}")
    return number


def _in_unit(number: int, unit: str) -> str:
    """A number as people write it: 64MB, not 67108864."""
    for word in ("GB", "MB", "KB") if unit == "bytes" else ():
        if number and number % _BYTES[word] == 0:
            return f"{number // _BYTES[word]}{word}"
    return str(number)


def expand(text: str, where: Where) -> str:
    """Replaces ${VAR} by the environment variable; `\\${VAR}` stays as ${VAR}. Raises ConfigError when unset."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        found = str(paths.root()).rstrip("/") if match[2] == "MODELBOX_ROOT" else os.environ.get(match[2])
        if found is None:
            raise ConfigError(f"environment variable {match[2]} is not set", where=where)
        return found

    return _VARIABLE.sub(value, text)


def _expanded(value: Any, where: Where) -> Any:
    """A value of [plugin.NAME] with the variables in its texts replaced. Raises ConfigError."""
    if isinstance(value, dict):
        return {key: _expanded(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where) for item in value]
    return expand(value, where) if isinstance(value, str) else value


T = TypeVar("T")


def _near(word: str, known: dict[str, T]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def effective(settings: Settings) -> str:
    """All values as a TOML text; keys that a file set say where."""
    lines: list[str] = []
    for name, kind in SECTIONS.items():
        lines.append(f"[{name}]")
        for item in dataclasses.fields(kind):
            where = settings.origins.get(f"{name}.{file_key(item)}")
            origin = f"  # {where}" if where else ""
            value = getattr(getattr(settings, name), item.name)
            lines.append(f"{file_key(item)} = {shown(item, value)}{origin}")
        lines.append("")
    for name in settings.plugin_options:
        lines += [f"[plugin.{json.dumps(name)}]  # {settings.origins[f'plugin.{name}']}; its values are not shown", ""]
    return "\n".join(lines)


def shown(item: dataclasses.Field[Any], value: Any) -> str:
    """A value of this key as the file has it."""
    word = next((word for word, number in item.metadata["names"].items() if number == value), None)
    return toml_of(value if word is None else word, item.metadata["unit"])


def toml_of(value: Any, unit: str = "") -> str:
    """A value as the file has it; whole numbers with their unit."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    if isinstance(value, int):
        text = _in_unit(value, unit)
        return text if text.isdigit() else f'"{text}"'
    # A JSON string is a TOML string but for DEL; ${VAR} must not be expanded when the text is read again.
    return json.dumps(_VARIABLE.sub(r"\\\g<0>", str(value)), ensure_ascii=False).replace("\x7f", "\\u007f")


def template() -> str:
    """The commented modelbox.conf: every key with its meaning and default."""
    lines = ["# modelbox.conf: the configuration of the modelbox service.", "# Every key is shown with its default."]
    for name, kind in SECTIONS.items():
        lines += ["", f"# {kind.__doc__}".rstrip(), f"[{name}]"]
        for item in dataclasses.fields(kind):
            default = default_of(item)
            words = item.metadata.get("words")
            lines.append(f"# {item.metadata['help']}" + (f" ({' | '.join(words)})" if words else ""))
            if (name, item.name) == ("include", "files"):
                lines.append('files = ["conf.d/*.conf"]')
            else:
                lines.append(f"# {file_key(item)} = {shown(item, default)}")
    return "\n".join(lines) + "\n"
