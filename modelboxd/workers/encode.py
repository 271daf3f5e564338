"""Messages to a worker that carry buffers: calls, and values of sessions. Used under the worker's lock.

What a bare address refers to is an argument or looked at again, so that it outlives its use: see modelboxd/compiled.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from modelbox._core.memory import address
from modelbox.errors import ModelBoxError
from modelboxd.workers import protocol
from modelboxd.workers.protocol import WorkerCall, Writer

if TYPE_CHECKING:
    from modelboxd.workers.process import Worker
    from modelboxd.workers.values import SessionValues


def encode_calls(writer: Writer, sequence: int, calls: list[WorkerCall]) -> bytes:
    """The message of these calls. Raises ModelBoxError; nothing is lent then."""
    writer.begin()
    try:
        for call in calls:
            places = [address(items) for items in call.inputs]
            writer.call(call.stream, call.session, call.flags, call.session_id, places, call.input_meta or None)
        return writer.finish(protocol.CALLS, sequence, len(calls))
    except ModelBoxError:
        writer.undo()
        raise


def encode_news(writer: Writer, worker: Worker, values: Iterable[SessionValues]) -> bytes | None:
    """The message with what `worker` has not seen of the values of sessions; None when it has seen all. Raises
    ModelBoxError; the worker has seen none of it then."""
    told: list[SessionValues] = []
    writer.begin()
    try:
        for one in values:
            told.append(one)
            news = one.news(worker)
            if news is None:
                told.pop()
            else:
                heard, items = news
                _put(writer, one, heard, items)
        return writer.finish(protocol.VALUES, 0, len(told)) if told else None
    except ModelBoxError:
        writer.undo()
        for one in told:
            one.unseen(worker)
        raise


def _put(writer: Writer, values: SessionValues, heard: int, items: Any) -> None:
    writer.call(heard, values.session, 0, values.session_id, [address(items)], None)
