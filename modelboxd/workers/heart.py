"""The worker's answers to pings: a thread that sleeps until the daemon asks, and needs the interpreter to answer.

PING  u32 token
PONG  u32 token | f32 seconds that the call under way has run, 0 = none | UTF-8: where the unit is, "file:line in name"
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Callable
from time import monotonic  # units may put something else in its place
from types import FrameType

from modelboxd.workers.trace import is_ours, is_users

PING = struct.Struct("<I")
PONG = struct.Struct("<If")
WHERE_BYTES = 512
NAME = "mb-heart"  # of the thread


def start(sock: socket.socket, begun: Callable[[], float]) -> None:
    """`begun()`: when the call under way began (time.monotonic()), 0.0 = none."""
    main = threading.get_ident()
    threading.Thread(target=_answer, args=(sock, begun, main), name=NAME, daemon=True).start()


def _answer(sock: socket.socket, begun: Callable[[], float], main: int) -> None:
    with contextlib.suppress(OSError), open("/proc/thread-self/comm", "wb") as file:  # a sandbox may have no /proc
        file.write(NAME.encode())
    with contextlib.suppress(OSError):  # the daemon is gone; the main thread sees it too
        while len(ping := sock.recv(64)) == PING.size:
            since = begun()
            running = max(monotonic() - since, 0.001) if since else 0.0
            place = where(sys._current_frames().get(main)) if since else ""
            sock.send(PONG.pack(*PING.unpack(ping), running) + place.encode("utf-8", "replace")[:WHERE_BYTES])


def where(frame: FrameType | None) -> str:
    """The innermost line of the user's own code, else of a library that it uses."""
    library = None
    while frame is not None and not is_users(frame.f_code.co_filename):
        if library is None and not is_ours(frame.f_code.co_filename):
            library = frame
        frame = frame.f_back
    frame = frame or library
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def read_pong(data: bytes, token: int) -> tuple[float, str] | None:
    """Seconds and place of an answer; None for what is no answer to this ping. Nothing in it is believed."""
    if not PONG.size <= len(data) <= PONG.size + WHERE_BYTES:
        return None
    answered, running_s = PONG.unpack_from(data)
    if answered != token or not 0.0 <= running_s < 1e9:  # NaN too
        return None
    return running_s, data[PONG.size :].decode(errors="replace").replace("\n", " ")
