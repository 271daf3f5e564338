"""docs/api.md out of the declarations: `python -m modelboxd.api.docs FILE` writes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from modelboxd.api.app import Api
from modelboxd.api.problems import CODES
from modelboxd.api.routes import JSON, Route
from modelboxd.api.schema import Schema, Schemas
from modelboxd.api.tokens import Role
from modelboxd.settings import Settings

HEAD = """# The API

Made from the declarations in `modelboxd/api/` by `make docs`; the same as a document for programs is at `/openapi.json`.

The server listens at `server.ip` and `server.port` (127.0.0.1:1104 as it comes). It takes and gives JSON. A slash at the end of a path
makes no difference; HEAD is answered where GET is. What a route does not know (a member, a parameter) is an error that names it.

    curl http://127.0.0.1:1104/v1/jobs
    curl -H 'Content-Type: application/json' -d '{"id": "echo", "graph": "..."}' http://127.0.0.1:1104/v1/jobs

## Who may use it

On a loopback address, everybody on the machine. On any other address the server does not start unless it knows whom to trust:

- `server.tokens` names a file of tokens. `modelbox-tool token -create NAME -role ROLE -file FILE` adds one and prints it, once; the file
  keeps its hash. Clients send `Authorization: Bearer TOKEN`. Roles: `read`; `operate` also starts and stops; `admin` also makes,
  replaces and deletes jobs, since a graph is code. After a number of wrong tokens an address has to wait (429).
- `server.cert`, `server.key` and `server.client_ca`: https, and clients need a certificate that one of `client_ca` has signed. They
  have the role `server.client_role`.
- `[acl] allow` (addresses and ranges) with `insecure = true`: those addresses may do everything.

`[acl] allow` holds besides tokens and certificates, too. A `Host` header must be an address, `localhost`, the name of the machine or one
of `server.hosts`; web pages of other origins than the server's own must be in `server.origins`.

A graph that comes over the API may name, in `driver.dir`, what is in `driver.dir` or `driver.api_dir` of the configuration, and no other
directory. It cannot read files (`graphconffilepath`) or the environment (`${...}`).

## Errors

Problem JSON (RFC 9457), `application/problem+json`; the `/v1/modelbox` routes have ModelBox's own form.

    {"type": "urn:modelbox:error:no_such_job", "title": "Not Found", "status": 404, "code": "no_such_job",
     "detail": "there is no job 'x'"}

`detail` is for people, `code` is for programs and stays:

| code | means |
| --- | --- |
"""


def text() -> str:
    """The page."""
    api = Api(Settings(), cast(Any, None), cast(Any, None))  # its routes are not asked, only read
    lines = [HEAD + "\n".join(f"| `{code}` | {meaning} |" for code, meaning in CODES.items())]
    subjects = dict.fromkeys(route.subject for route in api.router.routes if route.subject)
    for subject in subjects:
        lines += ["", f"## {subject}"]
        for route in api.router.routes:
            if route.subject == subject:
                lines += _route(route)
    lines += ["", "## Schemas"]
    for name, schema in api.schemas.named.items():
        lines += _schema(name, schema, api.schemas)
    return "\n".join(lines) + "\n"


def _route(route: Route) -> Iterator[str]:
    role = "needs no token" if route.role is Role.NONE else f"role `{route.role.name.lower()}`"
    yield from ("", f"### {route.method} {route.path.replace('*}', '}')}", "", f"{route.summary}; {role}.")
    if route.help:
        yield from ("", route.help)
    params = [(param, "path") for param in route.path_params] + [(param, "query") for param in route.query]
    if params or route.body is not None:
        yield ""
    for param, place in params:
        yield f"- `{param.name}` ({place}): {param.help} {_kind(param.schema)}".rstrip()
    if route.body is not None:
        kinds = ", ".join(f"`{kind}`" for kind in route.body.types)
        what = _kind(route.body.schema) if route.body.schema else ""
        yield f"- body: {what} {kinds}{'' if route.body.required else ', optional'}. {route.body.help}".rstrip()
    yield ""
    for status, answers in route.answers.items():
        kind = f" {_kind(answers.schema)}" if answers.schema else ""
        form = "" if answers.type == JSON or not answers.schema else f" (`{answers.type}`)"
        yield f"- {status}: {answers.help}{kind}{form}"
    if route.problems:
        yield f"- {', '.join(map(str, route.problems))}: errors"


def _schema(name: str, schema: Schema, schemas: Schemas) -> Iterator[str]:
    yield from ("", f"### {name}", "")
    if schema.get("description"):
        yield from (schema["description"], "")
    members = schema.get("properties")
    if not members:
        yield _kind(schema)
        return
    yield "| member | is | |"
    yield "| --- | --- | --- |"
    required = schema.get("required", ())
    for member, part in members.items():
        optional = "" if member in required else "optional; "
        yield f"| `{member}` | {_kind(part)} | {(optional + part.get('description', '')).rstrip('; ')} |"


def _kind(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    if "oneOf" in schema:
        return " or ".join(_kind(option) for option in schema["oneOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = schema.get("type", "anything")
    limits = [
        f"{key} {json.dumps(schema[key])}" for key in ("minLength", "maxLength", "minimum", "maximum") if key in schema
    ]
    return f"{kind if isinstance(kind, str) else ' or '.join(kind)}" + (f" ({', '.join(limits)})" if limits else "")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text())
