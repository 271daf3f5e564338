"""What a worker has said before its end is taken, also when it ended without hearing everything."""

from __future__ import annotations

import socket
from typing import Any

from modelbox._core.memory import Pool
from modelboxd.loop import IoThread
from modelboxd.workers.inbox import Inbox
from modelboxd.workers.protocol import LOG, LOG_BODY, STOP, Peer, header_only


def test_messages_before_an_end_with_others_unread() -> None:
    io = IoThread()
    io.start()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    taken: list[int] = []
    ended: list[bool] = []
    said: list[str] = []
    try:
        inbox = Inbox(
            "w", ours, io, Peer(Pool(), private_maps=False), {}, lambda reader, _: taken.append(reader.kind),
            lambda: True, lambda *text: said.append(str(text)), lambda: ended.append(True),
        )  # fmt: skip
        ours.send(header_only(STOP))  # never read there
        for _ in range(3):
            theirs.send(header_only(LOG, LOG_BODY.pack(1, 1) + b"file\0text"))
        theirs.close()

        def read_all() -> list[Any]:
            return [inbox.read_one() for _ in range(4)]

        assert io.run(_made(read_all)) == [True, True, True, False]
    finally:
        io.stop()
        ours.close()
    assert (taken, ended, said) == ([LOG] * 3, [True], [])


async def _made(call: Any) -> Any:
    return call()
