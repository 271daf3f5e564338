"""Bytes on the daemon's end of a worker: whatever comes, it is taken or the worker is condemned; nothing else happens."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox import meta
from modelbox._core import lib
from modelbox._core.memory import Pool, new_list
from modelbox.buffer import Buffer
from modelbox.errors import UnitError
from modelboxd.graph.life import Life
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import HEADER, MAGIC, VALUES, WorkerCall
from modelboxd.workers.values import Budget, SessionValues
from tests.integration.hostile.worker import BUFFER, PORT, RESULT, memfd

NEAR = [0, 1, 2, 7, 8, 40, 64, 255, 4096, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 8, (1 << 32) - 1]
word = st.sampled_from(NEAR) | st.integers(0, (1 << 32) - 1)
long = word | st.sampled_from([1 << 32, (1 << 32) + 1, (1 << 40) - 64, (1 << 64) - 64, (1 << 64) - 1])
few = st.integers(0, 3)
byte = st.integers(0, 5) | st.integers(0, 255)
buffer = st.builds(BUFFER.pack, byte, few, few, st.just(0) | word, st.just(0) | word, few | word, long, long, long)
ports = st.builds(
    lambda count, meta, items: PORT.pack(count, meta) + b"".join(items),
    few,
    st.just(0) | word,
    st.lists(buffer, max_size=3),
)
result = st.builds(
    lambda flags, count, status, text, items: RESULT.pack(flags, count, status, text) + b"".join(items),
    st.integers(0, 127) | word, few | word, word, st.just(0) | word, st.lists(ports, max_size=2),
)  # fmt: skip
body = st.binary(max_size=200) | st.builds(
    b"".join, st.lists(result | buffer | st.binary(min_size=8, max_size=8), max_size=4)
)
message = st.builds(
    lambda magic, kind, flags, sequence, count, released, rest: (
        HEADER.pack(magic, kind, flags, 0, sequence, count, released, 0) + rest
    ),
    st.just(MAGIC), st.sampled_from([3, 4, 5, 16, 17, 18, 18, 18, 19, 20, 32, 32]) | byte, st.integers(0, 1) | byte,
    few | word, few | word, few | word, body,
)  # fmt: skip

# Session values that nearly are what they should be.
some = st.sampled_from([0, 1, -1, 1 << 62, 1 << 80, True, None, "k", "other", "k" * 5000, 0.5, [1], {"a": 1}])


def mostly(good: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda number: other if number == 15 else good)


about = st.builds(
    lambda key, config, node, more: meta.encode({"key": key, "config": config, "node": node} | more),
    mostly(st.sampled_from(["a", "b", "c"]), some), mostly(st.booleans(), some), mostly(st.just("n"), some),
    mostly(st.just({}), st.dictionaries(st.sampled_from(["more", "key"]), some, max_size=1)),
)  # fmt: skip
value = st.builds(
    lambda block, size, where: BUFFER.pack(where, 0, 0, len(block), 0, 0, 0, size, 0) + block + bytes(-(-size // 8) * 8),
    mostly(about, st.binary(max_size=3).map(lambda data: data * 8)), st.integers(1, 3000), mostly(st.just(1), byte),
)  # fmt: skip
values_of_call = st.builds(
    lambda flags, writes, items: (
        [flags, PORT.pack(len(items), len(block := meta.encode({"writes": writes}))) + block + b"".join(items)]
    ),
    mostly(st.just(0), few), mostly(st.integers(1, 9), some), st.lists(value, max_size=3),
)  # fmt: skip
values_message = st.builds(
    lambda sequence, more, first, items: (
        HEADER.pack(MAGIC, VALUES, 0, 0, sequence, max(len(items) + more, 0), 0, 0)
        + b"".join(RESULT.pack(flags, 1, first + at, 0) + rest for at, (flags, rest) in enumerate(items))
    ),
    mostly(st.integers(1, 2), few), mostly(st.just(0), st.integers(-1, 1)), mostly(st.just(0), few),
    st.lists(values_of_call, min_size=1, max_size=2),
)  # fmt: skip


class Session:
    """The owner of the calls' values."""

    def __init__(self) -> None:
        self.budget = Budget(20_000)
        self.values = SessionValues(1, "s", 10_000, self.budget)

    def take_values(self, worker: Worker, writes: int, items: Any) -> None:
        with contextlib.suppress(UnitError):  # too many fail the session
            self.values.take(worker, writes, items)
        assert 0 <= self.budget.used <= 10_000
        self.values.news(worker)


class Loop:
    """Takes the place of the I/O loop: nothing is called by itself."""

    def call_later(self, *_: object) -> Any:
        return self

    def cancel(self) -> None:
        pass

    def add_reader(self, *_: object) -> None:
        pass

    remove_reader = add_writer = remove_writer = add_reader


class Io:
    loop = Loop()

    def call(self, function: Any, *_: Any) -> None:
        pass


def make(pool: Pool, answers: list[Any], said: list[str], owner: Session) -> tuple[Worker, socket.socket]:
    """A worker that has started, with a message of one call and one of two under way, and its other end."""
    worker = Worker("job/node#0", 0, Io(), pool, Life())  # type: ignore[arg-type]
    remote = worker.remote.dup()
    worker.started(1, b"{}")
    worker.ready, worker.outputs = True, 1
    worker.on_lost = lambda _, reason: said.append(reason)
    worker.on_external = lambda *_: None
    for count in (1, 2):
        lists = [new_list(1) for _ in range(count)]
        for items in lists:
            core = Buffer(None, b"x" * 5000).to_core(pool)
            lib.mb_buffer_seal(core)
            lib.mb_list_push(items, lib.mb_buffer_ref(core))
        calls = [WorkerCall(0, False, False, 1, "s", [items], [b""]) for items in lists]
        for call in calls:
            call.owner = owner
        worker.submit(calls, answers.append)
    return worker, remote


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(message | values_message | st.binary(min_size=1, max_size=64), few), min_size=1, max_size=4))
def test_any_bytes_are_taken_or_end_the_worker(messages: list[tuple[bytes, int]]) -> None:
    pool = Pool(arena_size=1 << 20, guard_all=True)
    answers: list[Any] = []
    said: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    owner = Session()
    worker, remote = make(pool, answers, said, owner)
    for data, count in messages:
        fds = [memfd(4096) for _ in range(count if data[4:5] == b"\x03" else count // 3)]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(remote, [data], fds)
        for fd in fds:
            os.close(fd)
        while worker.alive and worker.inbox.read_one():
            pass
    if worker.alive:
        assert not said
        worker.condemn("is not needed any more")
    assert len(said) == 1 and len(answers) == 2, (said, answers)
    assert "failed on" not in said[0]
    answers.clear()
    owner.values.close()
    assert owner.budget.used == 0
    remote.close()
    assert pool.stats().live_buffers == 0
    del worker, remote, owner
    for thread in threading.enumerate():
        if thread.name == "mb-close":
            thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the pool's arena
