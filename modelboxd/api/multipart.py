"""multipart/form-data out of a whole body (RFC 7578), strictly: what is not well-formed is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelboxd.api.problems import Problem

PARTS_MAX = 1024
HEAD_MAX = 8192  # bytes of the header of one part
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAM = re.compile(r';\s*([\w!#$&+^`|~*.-]+)\s*=\s*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))\s*')


@dataclass(frozen=True, slots=True)
class Part:
    """One part; `params` are those of its Content-Type."""

    name: str
    type: str  # Content-Type in small letters; "" = none
    params: dict[str, str]
    data: memoryview


def parse(body: bytes | bytearray, content_type: str) -> list[Part]:
    """All parts, without a copy of their data. Raises Problem."""
    boundary = _params(content_type).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _bad("Content-Type has no boundary, or one that is not allowed")
    data = bytes(body)
    view = memoryview(data)
    mark = b"--" + boundary.encode()
    at = 0 if data.startswith(mark) else data.find(b"\r\n" + mark) + 2
    if at == 1:
        raise _bad("the boundary does not occur")
    at += len(mark)
    parts: list[Part] = []
    while not data.startswith(b"--", at):
        start = _line_end(data, at)
        end = data.find(b"\r\n" + mark, start - 2)
        if end < 0:
            raise _bad("the last boundary is missing")
        parts.append(_part(data, view, start, max(end, start)))
        if len(parts) > PARTS_MAX:
            raise _bad(f"there are more than {PARTS_MAX} parts")
        at = end + 2 + len(mark)
    return parts


def _bad(text: str) -> Problem:
    return Problem(400, "bad_request", f"the multipart body is not well-formed: {text}")


def _line_end(data: bytes, at: int) -> int:
    """Behind the rest of a boundary line, which may only hold blanks."""
    end = data.find(b"\r\n", at, at + 256)
    if end < 0 or data[at:end].strip(b" \t"):
        raise _bad("something stands behind a boundary")
    return end + 2


def _part(data: bytes, view: memoryview, start: int, end: int) -> Part:
    head_end = data.find(b"\r\n\r\n", start, min(end, start + HEAD_MAX) + 4)
    if head_end < 0:
        raise _bad("the header of a part is too long or has no end")
    fields: dict[str, str] = {}
    for line in data[start:head_end].split(b"\r\n"):
        word, colon, value = line.partition(b":")
        try:
            key = word.decode("ascii").strip().lower()
            text = value.decode()
        except UnicodeDecodeError:
            raise _bad("the header of a part is not UTF-8") from None
        if not colon or key in fields:
            raise _bad("the header of a part has a line that is no field, or a field twice")
        fields[key] = text.strip()
    disposition = fields.get("content-disposition", "")
    name = _params(disposition).get("name", "")
    if disposition.partition(";")[0].strip().lower() != "form-data" or not name:
        raise _bad("a part has no Content-Disposition: form-data with a name")
    if fields.get("content-transfer-encoding", "binary").lower() not in ("binary", "7bit", "8bit"):
        raise _bad("a part has a Content-Transfer-Encoding")
    kind = fields.get("content-type", "")
    has_file = "filename" in _params(disposition)
    media = kind.partition(";")[0].strip().lower() or ("" if has_file else "text/plain")
    return Part(name, media, _params(kind), view[head_end + 4 : end])


def _params(value: str) -> dict[str, str]:
    """The parameters behind the first word of a header field; what is not well-formed counts as absent."""
    found: dict[str, str] = {}
    at = value.find(";")
    while at >= 0:
        match = _PARAM.match(value, at)
        if match is None:
            break
        text = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        found.setdefault(match[1].lower(), text)
        at = match.end() if match.end() < len(value) else -1
    return found
