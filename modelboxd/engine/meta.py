"""Stream meta on its way through the graph: encoded blocks, merged only where several meet."""

from __future__ import annotations

from collections.abc import Sequence

from modelbox import meta


def merge_metas(blocks: Sequence[bytes]) -> bytes:
    """The union of encoded stream metas; where a key is in several, the first block wins."""
    filled = [block for block in blocks if block]
    if not filled:
        return b""
    if len(filled) == 1:
        return filled[0]
    merged: dict[str, object] = {}
    for block in reversed(filled):
        merged.update(meta.decode(block))
    return meta.encode(merged)
