"""One connection: plain requests go straight to their unit, everything else through aiohttp's connection.

    bytes -> whole head -> judged (head.py), the verdict kept by its bytes
                 |-- plain, to a unit that takes requests directly: body gathered here, one Reply, one write
                 '-- else, or not a head in sight: lent to aiohttp, and taken back when the length of that
                     request is known, all of it is there and aiohttp waits for the next one

The next request is not looked at before the last one is answered and the client has room for the answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web

from modelboxd.server.answer import Answer, Headers, error_answer
from modelboxd.server.body import FULL, Bodies
from modelboxd.server.handling import HEAD_TOO_LARGE, TELLS_IDLE, Handling
from modelboxd.server.head import END, LINE_MAX, Head

if TYPE_CHECKING:
    from modelboxd.server.reply import Reply

log = logging.getLogger(__name__)

HELD_MAX = 1 << 16  # bytes of further requests that wait here; then the client has to wait
METHODS = (b"POST ", b"GET ", b"PUT ", b"DELETE ")
HEAD_MAX = 1 << 17  # bytes of a whole head
TOO_MANY = error_answer(503, "too many connections, try again later", headers={"Retry-After": "1"}, close=True)
STOPPING = error_answer(503, "the service is stopping", headers={"Retry-After": "5"}, close=True)
FRESH_S = 0.5  # at the stop, what a client gets to send its first request, or to read that it comes too late
LINGER_S = 2.0  # what a client sends after its answer is read for so long
TRIES = 4  # turns of the loop
_FOREVER_S = 1e8


class Direct(Protocol):
    """A unit that takes requests without a handler of aiohttp. All on the I/O thread, none raises."""

    def prepare(self, head: Head) -> Any:
        """What is kept with a plain head for run(); an Answer: always that; None: by a handler of aiohttp. It may put
        somebody else in `head.direct`."""

    def take(self, sink: Any) -> Reply | Answer:
        """A request has begun; an Answer refuses it."""

    def wait(self, reply: Reply) -> None:
        """The body is still coming."""

    def run(self, reply: Reply, prepared: Any, body: bytes | bytearray) -> None:
        """The whole request is there."""


class Port(Protocol):
    """What a connection needs of the port that accepted it."""

    loop: asyncio.AbstractEventLoop
    web: web.Server
    keepalive_s: float
    head_timeout_s: float
    bodies: Bodies

    def judge(self, raw: bytes) -> Head | None:
        """The head with its unit; None: all is left to aiohttp."""

    def shaped(self, answer: Answer) -> Answer:
        """An error that was made with error_answer(), in the form that this port has for errors."""

    def joined(self, connection: Connection) -> None: ...

    def left(self, connection: Connection) -> None: ...


class Connection:  # an asyncio.Protocol in form, not by name: a compiled class has no interpreted base
    """See above. [I/O thread]"""

    __slots__ = (
        "_body",
        "_fresh",
        "_full",
        "_gone",
        "_head",
        "_held",
        "_lent",
        "_other",
        "_owed",
        "_partial",
        "_port",
        "_reply",
        "_since",
        "_stopped",
        "_stopping",
        "_tail",
        "_transport",
        "_tries",
    )

    def __init__(self, port: Port) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._held = b""  # a part of a head, or what waits for its turn
        self._reply: Reply | None = None  # the request under way
        self._head: Head | None = None  # its head
        self._body: bytearray | None = None  # its body, as far as it is there
        self._fresh = True  # no byte has come yet
        self._full = False  # the client does not read its answers
        self._stopped = False  # reading is paused, since too much is held
        self._stopping = False  # no further request
        self._gone: asyncio.Future[None] | None = None  # shutdown() waits for the answer
        self._other: Handling | None = None
        self._lent = False  # aiohttp has it
        self._owed = 0  # bytes of the lent request that aiohttp must still get; -1: unknown
        self._tries = 0  # how often it is looked whether aiohttp waits, before it gets what came
        self._partial = 0  # bytes of a part of a head that aiohttp has
        self._tail = b""  # the last three of them
        self._since = 0.0  # since when nothing, or only a part of a head came; 0: from the next tick

    # ---- transport ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._port.joined(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._held = b""
        self._drop_body()
        self._port.left(self)
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.gone()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self._other is not None:
            self._other.connection_lost(exc)

    def eof_received(self) -> None:
        return None  # a client that will not send any more has gone

    def pause_writing(self) -> None:
        self._full = True
        if self._other is not None:
            self._other.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._other is not None:
            self._other.resume_writing()
        if self._held:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._lent and not self._take_back(data):
            return
        if self._body is not None:
            self._gather(data)
        elif self._stopping:
            self._tell_stopping()
        elif self._reply is not None or self._full:
            self._hold(data)
        elif self._held:
            data, self._held = self._held + data, b""
            self._begin(data, False)
        else:
            self._fresh = False
            self._begin(data, True)

    # ---- direct ---------------------------------------------------------------------------------------------

    def _begin(self, data: bytes, fresh: bool) -> None:
        """Bytes from the beginning of a request; nothing is under way."""
        end = data.find(END) + len(END)
        if end > HEAD_MAX:
            self._turn_off(HEAD_TOO_LARGE)
            return
        if end < len(END):
            if len(data) > LINE_MAX or not any(data.startswith(word) or word.startswith(data) for word in METHODS):
                self._lend(data, None)  # it may say what is wrong before the end
                return
            self._held = data
            if fresh:
                self._since = 0.0
            return
        head = self._port.judge(data[:end])
        if head is None or head.prepared is None:
            self._lend(data, head)
            return
        prepared = head.prepared
        taken: Reply | Answer = prepared if isinstance(prepared, Answer) else head.direct.take(self)
        rest = len(data) - end - head.length
        if rest < 0:
            if isinstance(taken, Answer):
                self._lend(data, head)  # it lets the rest of the body go by
                return
            self._reply, self._head, self._body = taken, head, bytearray()
            head.direct.wait(taken)
            self._gather(data[end:])
            return
        body = data[end:]
        if rest:
            self._held, body = body[head.length :], body[: head.length]
        self._head = head
        if isinstance(taken, Answer):
            self.put(taken.status, taken.headers, taken.body, taken.close)
        else:
            self._reply = taken
            head.direct.run(taken, prepared, body)

    def _gather(self, data: bytes) -> None:
        """More of the body."""
        body, head = self._body, self._head
        assert body is not None
        assert head is not None
        need = head.length - len(body)
        if len(data) < need:
            if self._port.bodies.take(len(data)):
                body += data
            else:
                assert self._reply is not None
                self._reply.give(FULL)
            return
        self._drop_body()
        body += data[:need]
        self._held = data[need:]
        head.direct.run(self._reply, head.prepared, body)

    def _drop_body(self) -> None:
        """What was gathered is not ours any more."""
        if self._body is not None:
            self._port.bodies.give(len(self._body))
            self._body = None

    def put(self, status: int, headers: Headers, body: Any, close: bool) -> None:
        """The answer to the request under way."""
        head, self._head = self._head, None
        is_sending = self._body is not None
        self._reply = None
        self._drop_body()
        self._since = 0.0
        transport = self._transport
        if transport is None:
            return
        # Before the whole body was there: what follows could not be told from the next request.
        close = close or is_sending or (head is not None and head.close)
        transport.write(headers.message(status, body, close))
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if is_sending and transport.can_write_eof():
            self._linger()
        elif close or self._stopping:
            self._end()
        elif self._held:
            self._port.loop.call_soon(self._go_on)

    def _linger(self) -> None:
        """Closes later: the system would drop an answer that a client who is still sending has not read yet."""
        assert self._transport is not None
        self._stopping = True
        self._held = b""
        self._transport.write_eof()
        self._port.loop.call_later(LINGER_S, self._end)

    def _end(self) -> None:
        """Closes when everything is written; nothing that still comes is looked at."""
        self._stopping = True
        self._held = b""
        if self._transport is not None:
            self._transport.close()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD_MAX and not self._stopped and self._transport is not None:
            self._stopped = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """The next one of the requests that were held."""
        if self._reply is not None or self._full or self._stopping or self._lent or not self._held:
            return
        data, self._held = self._held, b""
        if self._stopped and self._transport is not None:
            self._stopped = False
            self._transport.resume_reading()
        self._begin(data, True)

    # ---- lent to aiohttp -------------------------------------------------------------------------------------

    def _lend(self, data: bytes, head: Head | None) -> None:
        port = self._port
        other = self._other
        fresh = other is None
        if other is None:
            other = self._other = Handling(
                port.web,
                loop=port.loop,
                access_log=None,  # type: ignore[arg-type]  # how aiohttp is told to keep none
                # tick() looks after idle connections; aiohttp does not know of direct requests.
                keepalive_timeout=_FOREVER_S if TELLS_IDLE and port.keepalive_s > 0 else port.keepalive_s,
                auto_decompress=False,
                max_line_size=LINE_MAX,
                max_field_size=LINE_MAX,
            )
            other.shaped = port.shaped
            assert self._transport is not None
            other.connection_made(self._transport)
            if self._full:
                other.pause_writing()
        self._lent = True
        self._owed = -1 if head is None or head.length < 0 else head.size + head.length
        self._feed(data, fresh)

    def _feed(self, data: bytes, fresh: bool = False) -> None:
        other = self._other
        assert other is not None
        if self._owed >= 0:  # more than was owed is a request that aiohttp has: it then keeps the connection
            self._owed = max(self._owed - len(data), -1)
        was_partial = self._partial
        idle = fresh or bool(was_partial) or other.is_idle()
        if idle and self._is_beyond(data):  # aiohttp before 3.13 does not count headers
            self._turn_off(HEAD_TOO_LARGE)
            return
        try:
            other.data_received(data)
        except ValueError as error:  # before 3.9 the parser lets those of bad URLs out
            log.debug("no well-formed HTTP: %s", error)
            if idle:
                self._refuse(error_answer(400, "the request is not well-formed HTTP", close=True))
            self._end()
            return
        self._partial = self._partial + len(data) if idle and not other.has_request() else 0
        if not (was_partial and self._partial):
            self._since = 0.0
        self._tail = (self._tail + data[-3:])[-3:] if self._partial else b""

    def _is_beyond(self, data: bytes) -> bool:
        """Whether the head that `data` goes on with is too large."""
        if self._partial + len(data) <= HEAD_MAX:
            return False
        end = (self._tail + data).find(END)
        return end < 0 or self._partial - len(self._tail) + end > HEAD_MAX

    def _take_back(self, data: bytes) -> bool:
        """Whether the lent request is over and the connection ours again; if not, `data` is looked after."""
        if self._held:
            self._held += data
        elif self._owed > 0 or not TELLS_IDLE:
            self._feed(data)
        elif self._is_idle():
            if self._owed == 0:
                self._lent, self._partial, self._tail = False, 0, b""
                return True
            self._feed(data)
        else:  # aiohttp may have answered a moment ago, and is about to say that it waits
            self._held = data
            self._tries = TRIES
            self._port.loop.call_soon(self._try_again)
        return False

    def _try_again(self) -> None:
        if not self._held or not self._lent:
            return
        self._tries -= 1
        if self._tries and not self._is_idle():
            self._port.loop.call_soon(self._try_again)
        elif self._owed == 0 and self._is_idle():
            self._lent, self._partial, self._tail = False, 0, b""
            self._go_on()
        else:
            data, self._held = self._held, b""
            self._feed(data)

    def _is_idle(self) -> bool:
        return self._other is not None and self._other.is_idle()

    # ---- time ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called now and then: ends what is idle for too long."""
        busy = self._reply is not None or self._full
        if busy or (self._lent and not (TELLS_IDLE and self._is_idle())):
            self._since = 0.0
            return
        partial = bool(self._partial if self._lent else self._held)
        limit = self._port.head_timeout_s if partial else self._port.keepalive_s
        if not self._since:
            self._since = now
        elif now - self._since >= limit > 0:
            if partial:
                self._refuse(error_answer(408, "the request did not arrive in time", close=True))
            self._end()

    def is_waiting(self) -> bool:
        """There is no whole request: nothing is lost when it ends."""
        return not self._full and (TELLS_IDLE and self._is_idle() if self._lent else self._reply is None)

    def turn_away(self) -> None:
        """There is no room for this connection."""
        self._turn_off(TOO_MANY)

    def _turn_off(self, answer: Answer) -> None:
        """The last answer to a client who may be sending."""
        self._refuse(answer)
        self._lent = False  # aiohttp gets no more of it
        self._port.left(self)
        if self._transport is not None and self._transport.can_write_eof():
            self._linger()
        else:
            self._end()

    def _refuse(self, answer: Answer) -> None:
        """The last answer of the connection, while nothing is under way."""
        answer = self._port.shaped(answer)
        if self._transport is not None:
            self._transport.write(answer.headers.message(answer.status, answer.body, True))

    def stop(self) -> None:
        """No further request; one that has begun to come, or the first of a new connection, gets 503."""
        self._stopping = True
        if self._reply is not None or self._lent:
            return
        if self._held:
            self._turn_off(STOPPING)
        elif not self._fresh:
            self._end()

    def _tell_stopping(self) -> None:
        """A request to a server that stops. Only the first of a connection gets an answer: clients know that a
        connection they use again may end under them, and ask anew."""
        if self._fresh:
            self._fresh = False
            self._turn_off(STOPPING)

    async def shutdown(self, limit_s: float) -> None:
        """After stop(): waits for the answer to what is under way, `limit_s` at most, and a moment for the request of a
        new client and for one who has still to read that there is none; closes."""
        reply = self._reply
        if not self._lent and self._transport is not None and not self._transport.is_closing():
            self._gone = self._port.loop.create_future()
            await asyncio.wait([self._gone], timeout=limit_s if reply is not None else min(limit_s, FRESH_S))
            if reply is not None and self._reply is reply:
                self._reply = None
                self._drop_body()
                reply.gone()
        if not self._lent:
            self._end()
