"""Compressed bodies, bounded by what comes out."""

from __future__ import annotations

import zlib

from modelboxd.api.problems import Problem

ENCODINGS = ("gzip", "deflate")


def inflate(data: bytes | bytearray | memoryview, limit: int) -> bytes:
    """What gzip or zlib has made of at most `limit` bytes. Raises Problem."""
    # 32: the header tells which of the two it is.
    stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        made = stream.decompress(data, limit + 1)
    except zlib.error:
        raise Problem(400, "bad_request", "the body is not what its Content-Encoding says") from None
    if len(made) > limit:
        raise Problem(413, "too_large", f"the body is larger than {limit} bytes when it is decompressed")
    if not stream.eof or stream.unused_data:
        raise Problem(400, "bad_request", "the compressed body is cut off, or something stands behind it")
    return made
