"""The control socket's server: one request a connection, a line of JSON each way. It has a thread and an event loop of
its own, so that it answers also when the rest of the server hangs.

    client -> server   {"command": "log", ...options}
    server -> client   {"result": ...}   or   {"error": "one line"}

Only the server's own user and root may connect: by the mode of the socket, and by the credentials of the peer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelbox.errors import ModelBoxError
from modelboxd.control.place import Place
from modelboxd.logs import one_line
from modelboxd.loop import IoThread

log = logging.getLogger(__name__)

REQUEST_BYTES = 4096
REQUEST_S = 5.0  # that a request may take to come, and an answer to be taken
CONNECTIONS_MAX = 64  # when there are more, the oldest that has asked nothing yet is cut off
COMMANDS_MAX = 16  # that run at once
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

Command = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Held:
    """A result after which the connection stays open until this process ends, so that the client sees it end."""

    result: Any


class CommandError(ModelBoxError):
    """A command cannot be done: one line for the user."""


class ControlServer:
    """Serves commands at a place from start() to stop()."""

    def __init__(self, place: Place, commands: dict[str, Command]) -> None:
        """Commands get the request, return what becomes `result`, and raise ModelBoxError. Each runs on a thread of its
        own."""
        self._place = place
        self._commands = commands
        self._io = IoThread("mb-control")
        self._server: asyncio.Server | None = None
        self._silent: dict[asyncio.StreamWriter, None] = {}  # have asked nothing yet, the oldest first
        self._open: set[asyncio.StreamWriter] = set()
        self._running = 0

    def start(self) -> None:
        """Listens."""
        self._io.start()
        self._io.run(self._start())

    async def _start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._place.socket, limit=REQUEST_BYTES, start_serving=True
        )

    def stop(self) -> None:
        """Gives the place back; connections end."""
        self._place.close()
        self._io.run(self._stop())
        self._io.stop()
        self._place.socket.close()

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)  # their ends are heard

    # ---- connections (the loop's thread) ---------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._silent[writer] = None
        if len(self._open) > CONNECTIONS_MAX and len(self._silent) > 1:
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.transport.abort()
        try:
            said = await self._answer(reader, writer)
            self._silent.pop(writer, None)
            if said is not None and not writer.transport.is_closing():
                held = said.get("result")
                if isinstance(held, Held):
                    said = {"result": held.result}
                writer.write(json.dumps(said).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), REQUEST_S)
                while isinstance(held, Held) and await reader.read(REQUEST_BYTES):
                    continue  # what a client still says is of no interest, only that it is there
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), REQUEST_S)
        except (OSError, TimeoutError) as error:
            log.debug("control socket: a client went away or does not read: %s", error)
        finally:
            self._silent.pop(writer, None)
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any] | None:
        """None: there is nobody to answer."""
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            return {"error": f"user {uid} may not use the control socket: it is its owner's and root's"}
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), REQUEST_S)
        except TimeoutError:
            return {"error": f"no request came within {REQUEST_S:g} s"}
        except asyncio.LimitOverrunError:
            return {"error": f"a request has at most {REQUEST_BYTES} bytes"}
        except asyncio.IncompleteReadError:
            return None
        self._silent.pop(writer, None)
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, RecursionError):
            return {"error": "the request is no line of JSON"}
        except (KeyError, TypeError):
            return {"error": f"there is no such command; there are {', '.join(sorted(self._commands))}"}
        if self._running >= COMMANDS_MAX:
            return {"error": f"{self._running} commands run already; try again later"}
        self._running += 1
        try:
            return await self._run(command, request)
        finally:
            self._running -= 1

    async def _run(self, command: Command, request: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[dict[str, Any]] = loop.create_future()

        def finish(said: dict[str, Any]) -> None:
            if not done.done():
                done.set_result(said)

        def work() -> None:
            said = guarded(command, request)
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, said)

        # A daemon thread: a command that hangs must not keep the process from ending.
        threading.Thread(target=work, name=f"mb-do-{request['command']}"[:15], daemon=True).start()
        return await done


def guarded(command: Command, request: dict[str, Any]) -> dict[str, Any]:
    """What is answered to a request."""
    try:
        return {"result": command(request)}
    except ModelBoxError as error:
        return {"error": one_line(str(error))}
    except Exception as error:
        log.exception("internal error in a command of the control socket")
        return {"error": one_line(f"internal error: {type(error).__name__}: {error}; please report this")}


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end, by the kernel's word."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])
