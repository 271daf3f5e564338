"""The part of JSON Schema that the API uses, beside a package for all of it."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelboxd.api.schema import Schemas, check_schema, convert, list_of, number, record, ref, text

SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, -2.0]) | st.text("ab1\n", max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "integer", "number"])
LEAVES = st.one_of(
    st.builds(lambda kind: {"type": kind}, TYPES),
    st.builds(lambda kinds: {"type": kinds}, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
    st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, SCALARS),
    st.builds(lambda least, most: {"minLength": least, "maxLength": most}, st.integers(0, 2), st.integers(0, 3)),
    st.builds(lambda least, most: {"minimum": least, "maximum": most}, st.integers(-3, 1), st.integers(0, 3)),
    st.sampled_from([{"pattern": "^[ab]+$"}, {"pattern": "1"}, {"$ref": "#/components/schemas/Named"}, {}]),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda members, needed, others: {"properties": members, "required": needed, "additionalProperties": others},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            st.booleans() | inner,
        ),
        st.builds(
            lambda items, least, most: {"items": items, "minItems": least, "maxItems": most},
            inner,
            st.integers(0, 1),
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"oneOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)
NAMED = {"type": "string", "pattern": "^a"}


@settings(max_examples=600, deadline=None)
@given(SCHEMAS, VALUES)
def test_agrees_with_a_package(schema: dict[str, Any], value: Any) -> None:
    ours = Schemas()
    ours.add({"Named": NAMED})
    check_schema(schema)
    document = {"allOf": [schema], "components": {"schemas": {"Named": NAMED}}}
    assert (not ours.errors(schema, value)) == jsonschema_rs.is_valid(document, value), (schema, value)


def test_places_of_errors() -> None:
    schemas = Schemas()
    schemas.add({"Item": record({"name": text(maxLength=3)}, {"size": number(integer=True, minimum=1)})})
    schema = list_of(ref("Item"), minItems=1)
    assert schemas.errors(schema, [{"name": "abc", "size": 1}]) == []
    assert schemas.errors(schema, [{"name": "abcd", "size": 0, "x/y~": 1}, 5, {}]) == [
        ("/0/name", "must have at most 3 characters"),
        ("/0/size", "must be at least 1"),
        ("/0/x~1y~0", "is not known"),
        ("/1", "must be object"),
        ("/2", "'name' is missing"),
    ]
    assert schemas.errors(schema, []) == [("", "must have at least 1 items")]
    assert len(schemas.errors(schema, [1] * 1000)) == 20


def test_what_is_not_supported_is_refused() -> None:
    with pytest.raises(ValueError, match="keyword allOf"):
        check_schema({"properties": {"a": {"items": {"allOf": []}}}})
    schemas = Schemas()
    schemas.add({"A": {"type": "string"}})
    schemas.add({"A": {"type": "string"}})
    with pytest.raises(ValueError, match="two schemas A"):
        schemas.add({"A": {"type": "null"}})


@pytest.mark.parametrize(
    ("schema", "word", "value"),
    [({"type": "integer"}, "-12", -12), ({"type": "integer"}, "1.0", "1.0"), ({"type": "integer"}, "٣", "٣"), ({"type": "number"}, "1e3", 1000.0),
     ({"type": "number"}, "nan", "nan"), ({"type": "number"}, "inf", "inf"), ({"type": "boolean"}, "true", True), ({"type": "boolean"}, "1", "1"),
     ({"type": "string"}, "1", "1"), ({"type": "integer"}, "9" * 5000, "9" * 5000)],
)  # fmt: skip
def test_texts_of_parameters(schema: dict[str, Any], word: str, value: Any) -> None:
    assert convert(schema, word) == value
