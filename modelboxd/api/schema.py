"""JSON Schema, the part of it that the API uses: one list of schemas, and a check that says where a value is wrong.

A package for all of JSON Schema would bring compiled dependencies and megabytes for a dozen keywords; the tests
compare this one with such a package. check_schema() refuses keywords that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

KEYWORDS = frozenset({
    "$ref", "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "minimum", "maximum", "oneOf",
    "description", "examples", "default", "format", "title",  # for readers
})  # fmt: skip
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def text(help_text: str = "", **more: Any) -> Schema:
    """A string."""
    return _with({"type": "string", **more}, help_text)


def number(help_text: str = "", *, integer: bool = False, **more: Any) -> Schema:
    """A number."""
    return _with({"type": "integer" if integer else "number", **more}, help_text)


def flag(help_text: str = "", **more: Any) -> Schema:
    """true or false."""
    return _with({"type": "boolean", **more}, help_text)


def list_of(items: Schema, help_text: str = "", **more: Any) -> Schema:
    """An array."""
    return _with({"type": "array", "items": items, **more}, help_text)


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, help_text: str = "") -> Schema:
    """An object with these members and no others."""
    made: Schema = {"type": "object", "properties": {**required, **(optional or {})}, "additionalProperties": False}
    if required:
        made["required"] = list(required)
    return _with(made, help_text)


def ref(name: str) -> Schema:
    """A schema of the list by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _with(schema: Schema, help_text: str) -> Schema:
    return {**schema, "description": help_text} if help_text else schema


class Schemas:
    """Named schemas of the document."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def add(self, schemas: Mapping[str, Schema]) -> None:
        """Raises ValueError for a name that is there already or a keyword that is not known."""
        for name, schema in schemas.items():
            if self.named.get(name, schema) != schema:
                raise ValueError(f"there are two schemas {name}")
            check_schema(schema)
            self.named[name] = schema

    def errors(self, schema: Schema, value: Any) -> list[tuple[str, str]]:
        """(JSON pointer, what is wrong) of everything in `value` that is not as `schema` says, 20 at most."""
        return [error for error, _ in zip(self._errors(schema, value, ""), range(20), strict=False)]

    def resolve(self, schema: Schema) -> Schema:
        """Follows a $ref."""
        while "$ref" in schema:
            schema = self.named[schema["$ref"].rpartition("/")[2]]
        return schema

    def _errors(self, schema: Schema, value: Any, at: str) -> Iterator[tuple[str, str]]:
        schema = self.resolve(schema)
        kind = schema.get("type")
        if kind is not None and not any(_is(value, name) for name in ([kind] if isinstance(kind, str) else kind)):
            yield at, f"must be {kind if isinstance(kind, str) else ' or '.join(kind)}"
            return
        if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
            yield at, "must be one of " + ", ".join(map(str, schema["enum"]))
        if "const" in schema and not _same(value, schema["const"]):
            yield at, f"must be {schema['const']}"
        if "oneOf" in schema:
            fitting = sum(not any(True for _ in self._errors(option, value, at)) for option in schema["oneOf"])
            if fitting != 1:
                yield at, "fits none of the kinds that are possible" if not fitting else "fits several kinds"
        if isinstance(value, str):
            yield from _text_errors(schema, value, at)
        elif isinstance(value, dict):
            yield from self._object_errors(schema, value, at)
        elif isinstance(value, list):
            yield from self._list_errors(schema, value, at)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if value < schema.get("minimum", value):
                yield at, f"must be at least {schema['minimum']}"
            if value > schema.get("maximum", value):
                yield at, f"must be at most {schema['maximum']}"

    def _object_errors(self, schema: Schema, value: dict[str, Any], at: str) -> Iterator[tuple[str, str]]:
        for name in schema.get("required", ()):
            if name not in value:
                yield at, f"'{name}' is missing"
        known = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for name, item in value.items():
            place = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name in known:
                yield from self._errors(known[name], item, place)
            elif others is False:
                yield place[:200], "is not known"
            elif isinstance(others, dict):
                yield from self._errors(others, item, place)

    def _list_errors(self, schema: Schema, value: list[Any], at: str) -> Iterator[tuple[str, str]]:
        if len(value) < schema.get("minItems", 0):
            yield at, f"must have at least {schema['minItems']} items"
        if len(value) > schema.get("maxItems", len(value)):
            yield at, f"must have at most {schema['maxItems']} items"
        if "items" in schema:
            for number, item in enumerate(value):
                yield from self._errors(schema["items"], item, f"{at}/{number}")


def _text_errors(schema: Schema, value: str, at: str) -> Iterator[tuple[str, str]]:
    if len(value) < schema.get("minLength", 0):
        yield at, f"must have at least {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", len(value)):
        yield at, f"must have at most {schema['maxLength']} characters"
    # In JSON Schema, $ is the end of the text alone, not the line end before it.
    if "pattern" in schema and not re.search(re.sub(r"\$$", r"\\Z", schema["pattern"]), value):
        yield at, f"must match {schema['pattern']}"


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return kind == "number" or isinstance(value, int) or value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def check_schema(schema: Schema) -> None:
    """Raises ValueError for a keyword that errors() would not look at."""
    unknown = schema.keys() - KEYWORDS
    if unknown:
        raise ValueError(f"the keyword {min(unknown)} of JSON Schema is not supported")
    for part in (*schema.get("properties", {}).values(), *schema.get("oneOf", ())):
        check_schema(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            check_schema(schema[key])


def convert(schema: Schema, word: str) -> Any:
    """The text of a parameter in the type of its schema; the text itself where it has no such form."""
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?[0-9]{1,18}", word):
        return int(word)
    if kind == "number":
        try:
            value = float(word)
        except ValueError:
            return word
        return value if abs(value) < float("inf") else word
    if kind == "boolean" and word in ("true", "false"):
        return word == "true"
    return word
