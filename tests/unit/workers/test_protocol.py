"""Messages of calls and results between two ends in one process; what a hostile worker may send."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from modelbox import meta
from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, address
from modelbox.buffer import Buffer, BufferList
from modelbox.errors import ModelBoxError, UnitError
from modelboxd.workers import protocol
from modelboxd.workers.protocol import HEADER, Arenas, Peer, ProtocolError, Reader, WorkerResult, Writer, header_only

INLINE = b"text"
LARGE = np.arange(50_000, dtype=np.uint8)


class End:
    """One side: its memory, its writer, and how the other side learns of its arenas."""

    def __init__(self, *, private_maps: bool) -> None:
        self.pool = Pool(arena_size=16 << 20)
        self.peer = Peer(self.pool, private_maps=private_maps)
        self.writer = Writer(self.peer)
        self.arenas = Arenas(self.peer)

    def announce(self, other: End) -> None:
        for message, fd in self.arenas.news():
            reader = Reader(other.peer, message)
            if fd is not None:
                other.peer.map(reader.unpack(protocol.ARENA_BODY)[0], fd)
            else:
                other.peer.unmap(reader.words("I"))

    def lent(self) -> int:
        buffers, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.mb_peer_lent(self.peer.handle, buffers, size)
        return int(buffers[0])


@pytest.fixture
def ends() -> tuple[End, End]:
    return End(private_maps=False), End(private_maps=True)


def buffers() -> BufferList:
    return BufferList([Buffer(None, INLINE.decode()), Buffer(None, LARGE)])


def results_message(worker: End, count: int = 3) -> bytes:
    """Results of `count` calls: an error first, the others one port with two buffers."""
    writer = worker.writer
    writer.begin()
    writer.result(protocol.ERROR | protocol.DATA_PRE, 3, b"wrong", [], None)
    stream_meta = [meta.encode({"rate": 25})]
    for _ in range(count - 1):
        writer.result(0, 0, b"", [buffers().cores(worker.pool)], stream_meta)
    return writer.finish(protocol.RESULTS, 9, count)


def read_all(results: list[WorkerResult]) -> int:
    """Touches every byte of results."""
    lists = [BufferList.from_core(items) for result in results for items in result.outputs]
    return sum(len(buffer.as_bytes()) for items in lists for buffer in items)


def test_calls_arrive_as_they_were_sent(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    items = buffers().to_core(daemon.pool)
    writer = daemon.writer
    writer.begin()
    block = meta.encode({"rate": 25})
    writer.call(1 << 40, 1 << 50, protocol.BEGIN, "ä" * 20, [address(items), address(items)], [b"", block])
    writer.call(0, 7, 0, "", [address(items)], None)
    message = writer.finish(protocol.CALLS, 5, 2)
    daemon.announce(worker)
    reader = Reader(worker.peer, message)
    assert (reader.kind, reader.sequence, reader.count) == (protocol.CALLS, 5, 2)
    first, second = reader.calls()
    assert first[:4] == (1 << 40, 1 << 50, protocol.BEGIN, "ä" * 20)
    assert first[5] == [b"", block]
    assert second[:4] == (0, 7, 0, "") and second[5] is None
    for port in (*first[4], *second[4]):
        text, array = BufferList.over(port)
        assert str(text) == "text"
        assert (array.numpy() == LARGE).all()


def test_results_and_what_goes_back(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    message = results_message(worker)
    worker.announce(daemon)
    assert worker.lent() == 2
    failed, *good = Reader(daemon.peer, message).results()
    assert isinstance(failed.error, UnitError) and str(failed.error) == "wrong" and failed.reason == "DataPreError"
    for result in good:
        assert result.error is None and result.output_meta == [meta.encode({"rate": 25})]
        assert [item.get_bytes() for item in BufferList.from_core(result.outputs[0])] == [4, 50_000]
    assert daemon.writer.release() is None
    del good, result, failed
    back = daemon.writer.release()
    assert back is not None
    Reader(worker.peer, back).release()
    assert worker.lent() == 0
    with pytest.raises(ProtocolError, match="not lent"):
        Reader(worker.peer, back).release()


def test_an_unsent_message_gives_back_what_it_took(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    message = results_message(worker)
    worker.announce(daemon)
    Reader(daemon.peer, message).results()
    items = buffers().to_core(daemon.pool)
    daemon.writer.begin()
    daemon.writer.call(0, 1, 0, "", [address(items)], None)
    daemon.writer.finish(protocol.CALLS, 1, 1)
    assert daemon.lent() == 1
    daemon.writer.undo()
    assert daemon.lent() == 0
    back = daemon.writer.release()  # the ids that the unsent message would have returned
    assert back is not None
    Reader(worker.peer, back).release()
    assert worker.lent() == 0


def test_a_long_body_travels_in_the_arena(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    message = results_message(worker, 400)
    worker.announce(daemon)
    assert len(message) < 100 and message[5] == protocol.LARGE
    results = Reader(daemon.peer, message).results()
    assert len(results) == 400
    assert str(BufferList.from_core(results[-1].outputs[0])[0]) == "text"


def test_a_body_beyond_the_limit_is_refused_and_undone(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    _, worker = ends
    monkeypatch.setattr(protocol, "BODY_LIMIT", 1000)
    with pytest.raises(ModelBoxError, match="at most 1000 are allowed"):
        results_message(worker, 20)
    worker.writer.undo()
    assert worker.lent() == 0


def test_every_cut_of_results_is_refused(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    message = results_message(worker)
    worker.announce(daemon)
    for size in range(len(message)):
        with pytest.raises(ProtocolError):
            Reader(daemon.peer, message[:size]).results()
    assert daemon.pool.stats().live_buffers == 0


@pytest.mark.parametrize("count", [4, 5, 1000, 0xFFFFFFFF])
def test_counts_beyond_the_message_are_refused(ends: tuple[End, End], count: int) -> None:
    daemon, worker = ends
    message = bytearray(results_message(worker))
    worker.announce(daemon)
    for place in (12, 16):  # results, ids
        damaged = bytearray(message)
        struct.pack_into("<I", damaged, place, count)
        with pytest.raises(ProtocolError):
            Reader(daemon.peer, damaged).results()
    assert daemon.pool.stats().live_buffers == 0


def test_damaged_results_never_do_harm(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    message = results_message(worker)
    worker.announce(daemon)
    source = random.Random(4)
    outcomes = set()
    for _ in range(3000):
        damaged = bytearray(message)
        for _ in range(source.randrange(1, 4)):
            damaged[source.randrange(HEADER.size, len(damaged))] = source.choice((0, 1, 0xFF, source.randrange(256)))
        try:
            results = Reader(daemon.peer, damaged).results()
        except ProtocolError:
            outcomes.add("refused")
        else:
            outcomes.add("taken")
            read_all(results)
            del results
    assert outcomes == {"refused", "taken"}
    assert daemon.pool.stats().live_buffers == 0


def test_a_text_without_an_error_is_refused(ends: tuple[End, End]) -> None:
    daemon, worker = ends
    worker.writer.begin()
    for text in (b"", b"text", b""):
        worker.writer.result(0, 0, text, [buffers().cores(worker.pool)], None)
    message = worker.writer.finish(protocol.RESULTS, 1, 3)
    worker.announce(daemon)
    with pytest.raises(ProtocolError, match="a text without an error"):
        Reader(daemon.peer, message).results()
    assert daemon.pool.stats().live_buffers == 0


@pytest.mark.parametrize("message", [b"", b"MBW1", b"X" * 24, header_only(protocol.RESULTS, count=1)])
def test_short_and_strange_messages_are_refused(ends: tuple[End, End], message: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reader(ends[0].peer, message).results()


def test_what_results_are_made_of_is_checked(ends: tuple[End, End]) -> None:
    writer = ends[1].writer
    writer.begin()
    for ports, metas in (([[object()]], None), ([()], None), ([[]], [1]), ([[]], {})):
        with pytest.raises(TypeError):
            writer.result(0, 0, b"", ports, metas)
    writer.undo()
