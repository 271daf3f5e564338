"""Bytes on the daemon's end of a worker: whatever comes, it is taken or the worker is condemned; nothing else happens."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelbox._core import lib
from modelbox._core.memory import Pool, new_list
from modelbox.buffer import Buffer
from modelboxd.graph.life import Life
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import HEADER, MAGIC, WorkerCall
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
    st.just(MAGIC), st.sampled_from([3, 4, 5, 16, 17, 18, 18, 18, 19, 20]) | byte, st.integers(0, 1) | byte,
    few | word, few | word, few | word, body,
)  # fmt: skip


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


def make(pool: Pool, answers: list[Any], said: list[str]) -> tuple[Worker, socket.socket]:
    """A worker that has started, with two calls under way, and its other end."""
    worker = Worker("job/node#0", 0, Io(), pool, Life())  # type: ignore[arg-type]
    remote = worker.remote.dup()
    worker.started(1, b"{}")
    worker.ready, worker.outputs = True, 1
    worker.on_lost = lambda _, reason: said.append(reason)
    worker.on_external = lambda *_: None
    for _ in range(2):
        items = new_list(1)
        core = Buffer(None, b"x" * 5000).to_core(pool)
        lib.mb_buffer_seal(core)
        lib.mb_list_push(items, lib.mb_buffer_ref(core))
        worker.submit([WorkerCall(0, False, False, 1, "s", [items], [b""])], answers.append)
    return worker, remote


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(message | st.binary(min_size=1, max_size=64), few), min_size=1, max_size=4))
def test_any_bytes_are_taken_or_end_the_worker(messages: list[tuple[bytes, int]]) -> None:
    pool = Pool(arena_size=1 << 20, guard_all=True)
    answers: list[Any] = []
    said: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    worker, remote = make(pool, answers, said)
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
    remote.close()
    assert pool.stats().live_buffers == 0
    del worker, remote
    for thread in threading.enumerate():
        if thread.name == "mb-close":
            thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the pool's arena
