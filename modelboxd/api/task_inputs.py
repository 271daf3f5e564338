"""The inputs of a task out of a request: JSON, parts of a multipart body, or the body as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelboxd.api.multipart import parse
from modelboxd.api.problems import Problem
from modelboxd.api.routes import JSON, Call, parse_json
from modelboxd.tasks.model import TaskInputError
from modelboxd.tasks.values import Value, from_bytes, from_json, from_json_part, to_core

if TYPE_CHECKING:
    from modelboxd.engine.feed import CoreList
    from modelboxd.engine.job import Job


class Inputs:
    """The inputs of one request, as they came."""

    def __init__(self, call: Call, data: bytes | bytearray, job: Job, max_json: int) -> None:
        self._query = call.query
        self._field = call.request.headers.get("Content-Type", "")
        self._type = self._field.partition(";")[0].strip().lower()
        self._data = data
        self._job = job
        self._max_json = max_json

    def lists(self) -> list[tuple[str, CoreList]]:
        """What goes to each input node. Raises Problem, TaskInputError, OutOfMemoryError. [any thread]"""
        return to_lists(self._job, self._values(input_nodes(self._job)))

    def _values(self, nodes: list[str]) -> dict[str, list[Value]]:
        port = self._query.get("port", "")
        if self._type == "multipart/form-data" and not port:
            return self._parts()
        if self._type == JSON and not port:
            return self._json()
        if not port and len(nodes) > 1:
            raise TaskInputError([("?port", f"is missing: which of {', '.join(nodes)} gets the body?")])
        made = from_bytes(
            bytes(self._data), self._type, self._query.get("dtype", ""), self._query.get("shape", ""), "body"
        )
        return {port or nodes[0]: [made]}

    def _json(self) -> dict[str, list[Value]]:
        self._check_size(len(self._data), "JSON")
        value = parse_json(self._data)
        if not isinstance(value, dict) or not isinstance(value.get("inputs"), dict):
            hint = 'must be an object such as {"inputs": {"NODE": VALUE}}; with ?port=NODE the body itself is the value'
            raise TaskInputError([("", f"the body {hint}")])
        others = sorted(value.keys() - {"inputs"})
        if others:
            raise TaskInputError([(f"/{others[0][:80]}", "is not known; options of a task stand in the query")])
        return from_json(value["inputs"])

    def _parts(self) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        json_size = 0
        for part in parse(self._data, self._field):
            if part.type == JSON:
                json_size += len(part.data)
                self._check_size(json_size, f"JSON (part {part.name[:80]})")
                values = from_json_part(parse_json(bytes(part.data)), part.name[:80])
            else:
                where = f"part {part.name[:80]}"
                dtype, shape = part.params.get("dtype", ""), part.params.get("shape", "")
                values = [from_bytes(part.data, part.type, dtype, shape, where)]
            found.setdefault(part.name, []).extend(values)
        return found

    def _check_size(self, size: int, what: str) -> None:
        if size > self._max_json:
            hint = "send large data as bytes or as parts of a multipart body"
            raise Problem(413, "too_large", f"{what} is larger than {self._max_json} bytes (tasks.max_json); {hint}")


def input_nodes(job: Job) -> list[str]:
    """Raises Problem for a job that has none."""
    nodes = list(job.inputs.steps)
    if not nodes:
        text = f"the graph of job '{job.name}' has no input node, so that it takes no tasks"
        raise Problem(409, "no_inputs", text)
    return nodes


def to_lists(job: Job, found: dict[str, list[Value]]) -> list[tuple[str, CoreList]]:
    """What goes to each input node. Raises Problem, TaskInputError, OutOfMemoryError. [any thread]"""
    nodes = input_nodes(job)
    _check(job, nodes, found)
    return [(node, to_core(job.pool, found.get(node, []))) for node in nodes]


def _check(job: Job, nodes: list[str], found: dict[str, list[Value]]) -> None:
    """Whether the job has these inputs, and they fit together. Raises TaskInputError."""
    wrong = [
        (name[:80], f"is no input node of job '{job.name}'; it has {', '.join(nodes)}")
        for name in found
        if name not in nodes
    ]
    if not wrong and job.inputs.match:
        most = max((len(values) for values in found.values()), default=0)
        for node in nodes:
            count = len(found.get(node, ()))
            if count != most or not most:
                needed = f"{most} values, as the others have; {count} came" if most else "a value"
                wrong.append((node, f"needs {needed}"))
    if wrong:
        raise TaskInputError(wrong[:20])
