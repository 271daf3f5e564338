"""What a client would rather have: the Accept header (RFC 9110)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"\s*([\w!#$&+^`|~*.-]+/[\w!#$&+^`|~*.-]+)\s*(?:;(.*))?")
_Q = re.compile(r"(?:^|;)\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def quality(accept: str, media_type: str) -> float:
    """How much a client wants a media type, 0 to 1; the most exact range counts."""
    best, found = -1, 0.0
    main = media_type.partition("/")[0]
    for item in accept[:2048].split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            continue
        asked = match[1].lower()
        rank = {media_type: 2, f"{main}/*": 1, "*/*": 0}.get(asked, -1)
        if rank > best:
            q = _Q.search(match[2] or "")
            best, found = rank, float(q[1]) if q else 1.0
    return found


def prefers_raw(accept: str, *types: str) -> bool:
    """Whether a client wants one of `types` more than JSON."""
    return any(quality(accept, kind) > quality(accept, "application/json") for kind in types)
