"""Values of sessions on their way to and from a worker process (VALUES messages); the worker's end.

The daemon's end is values.py. A value is a buffer: packed bytes, which the daemon never looks into, or an error, where
the value cannot leave its process. Its meta says key, kind and the node that has set it.
"""

from __future__ import annotations

from typing import Any

from modelbox import meta
from modelbox._core import objects
from modelbox._core.memory import Pool
from modelbox.session import Packed, SessionContext
from modelboxd.workers.protocol import VALUES, Peer, Reader, Writer

RAW = 0


class Sharing:
    """What the calls of one message have changed, and what others have."""

    def __init__(self, peer: Peer, pool: Pool) -> None:
        self._writer = Writer(peer)
        self._pool = pool
        self._found: list[tuple[int, list[Any], bytes]] = []

    def collect(self, index: int, context: SessionContext, node: str) -> None:
        """Takes what call number `index` of the message has changed. Raises ModelBoxError when memory is out."""
        changes = context.take_changes(node)
        if changes:
            cores = [self._core(key, is_config, packed) for (key, is_config), packed in changes.items()]
            self._found.append((index, cores, meta.encode({"writes": context.writes})))

    def _core(self, key: str, is_config: bool, packed: Packed) -> Any:
        about = meta.encode({"key": key, "config": is_config, "node": packed.node})
        if packed.failure:
            return objects.make_error(b"Session.Value", packed.failure.encode("utf-8", "replace"), RAW, about)
        return objects.make_core(self._pool.address, packed.data, RAW, about)

    def message(self, sequence: int) -> bytes | None:
        """What was collected, to be sent before the results of the CALLS message `sequence`; None: nothing."""
        if not self._found:
            return None
        found, self._found = self._found, []
        writer = self._writer
        writer.begin()
        try:
            for index, cores, about in found:
                writer.result(0, index, b"", [cores], [about])
            return writer.finish(VALUES, sequence, len(found))
        except BaseException:
            writer.undo()
            raise

    @staticmethod
    def receive(reader: Reader, sessions: dict[int, SessionContext]) -> None:
        """Values that others have changed."""
        for heard, session, _, session_id, lists, _ in reader.calls():
            context = sessions.get(session)
            if context is None:
                context = sessions[session] = SessionContext(session_id)
            context.heard(heard)
            for core in lists[0]:
                about = meta.decode(core.meta)
                failure = core.error[1] if core.error is not None else ""
                context.receive(about["key"], about["config"], Packed(bytes(core), failure, about["node"]))
