"""The document and the page that are made from the declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jsonschema_rs

from modelboxd.api import docs, problems
from modelboxd.api.app import Api
from modelboxd.api.openapi import document
from modelboxd.settings import Settings

TOP = Path(__file__).resolve().parents[3]


def test_the_page_is_up_to_date() -> None:
    assert docs.text() == (TOP / "docs/api.md").read_text(), "run: make docs"


def test_the_document() -> None:
    api = Api(Settings(), cast(Any, None), cast(Any, None))
    made = document(api.router.routes, api.schemas, has_tokens=True)
    names = set()
    for path, methods in made["paths"].items():
        for operation in methods.values():
            assert operation["operationId"] not in names
            names.add(operation["operationId"])
            given = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
            assert given == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path
            assert operation["responses"]
    for schema in made["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    assert {"createJob", "replaceJob", "modelboxCreate", "ready"} <= names


def test_codes_are_told() -> None:
    used = {code for _, _, code in problems._KINDS}
    assert used <= set(problems.CODES)
