"""A worker process: runs one Python flow unit and answers the daemon's calls.

Started by the python-master, which forks; run() never returns. Nothing here is trusted by the daemon.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import importlib.util
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from modelbox import buffer as buffer_module
from modelbox import log as unit_log
from modelbox import meta
from modelbox._core import lib
from modelbox._core.memory import Pool
from modelbox.buffer import BufferList
from modelbox.configuration import Configuration
from modelbox.context import DataContext, DataMeta, StreamState
from modelbox.device import Device
from modelbox.errors import ModelBoxError
from modelbox.flowunit import FlowUnit
from modelbox.session import SessionContext
from modelbox.status import Status, StatusCode
from modelboxd.workers import heart, protocol, threads
from modelboxd.workers.external import Externals
from modelboxd.workers.protocol import HEADER, Arenas, Peer, ProtocolError, Reader, Writer, header_only
from modelboxd.workers.sharing import Sharing
from modelboxd.workers.trace import describe, tell

BEGIN, END, EVENT, CANCEL = protocol.BEGIN, protocol.END, protocol.EVENT, protocol.CANCEL
CONTINUE = StatusCode.STATUS_CONTINUE
SUCCESS = StatusCode.STATUS_SUCCESS
STOPPING = (StatusCode.STATUS_STOP, StatusCode.STATUS_SHUTDOWN)  # a unit wants its job to stop

WITH_EVENTS = ("stream", "expand", "source")  # roles whose units may send events


class CallFailed(Exception):
    """One call of the unit failed; the text is for the user. `flags`: result flags."""

    def __init__(self, status: int, text: str, flags: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.flags = flags


def run(sock: socket.socket) -> None:
    """Serves the daemon until it says STOP or goes away; ends the process."""
    code = 1
    threads.limit()
    try:
        code = Worker(sock).serve()
    except (BrokenPipeError, ConnectionResetError):
        code = 0  # the daemon went away
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Worker:
    """The process' only object: socket, memory, unit, streams and sessions."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pool = Pool(arena_size=protocol.ARENA_SIZE, max_bytes=protocol.ARENA_BYTES, keep_bytes=64 << 20)
        buffer_module.allow_pickle()
        self.peer = Peer(self.pool, private_maps=True)
        self.writer = Writer(self.peer)
        self.arenas = Arenas(self.peer)
        self.sending = threading.Lock()  # a source unit may send from threads of its own
        self.externals = Externals(self.peer, self.pool, self.send)
        self.sharing = Sharing(self.peer, self.pool)
        self.sections: tuple[str, ...] = ()  # of a session's configuration that are for this node
        self.incoming = bytearray(protocol.MESSAGE_LIMIT + HEADER.size)
        self.places = [self.incoming]
        self.unit = FlowUnit()  # until open()
        self.has_pre = self.has_post = False
        self.role = "normal"
        self.framed = False  # data_pre() and data_post() are called
        self.continued = False  # the last call returned CONTINUE
        self.held: set[int] = set()  # contexts whose later calls of this message have to wait for an event
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.node = ""
        self.begun = 0.0  # when the call under way began, 0.0: none; read by the heart's thread
        self.idle_s = 0.0  # see trim(); 0: never
        self.may_trim = False  # there was something to do since the last trim(); receive() then waits for idle_s only
        self.streams: dict[int, StreamState] = {}
        self.sessions: dict[int, SessionContext] = {}
        self.enter()

    def enter(self) -> None:
        """Makes this the worker that the SDK's functions of this process belong to."""
        buffer_module.set_default_pool(self.pool)
        unit_log.set_sink(self.send_log)

    # ---- socket ----------------------------------------------------------------------------------------

    def receive(self) -> Reader | None:
        """The next message; None when the daemon is gone."""
        # It sleeps until something comes: looking for it in a loop takes the CPU that the sender needs.
        try:
            size, ancillary, _, _ = self.sock.recvmsg_into(self.places, protocol.ANCILLARY)
        except BlockingIOError:  # nothing for idle_s
            self.trim()
            size, ancillary, _, _ = self.sock.recvmsg_into(self.places, protocol.ANCILLARY)
        if not self.may_trim and self.idle_s:
            self.may_trim = True
            self.limit_wait(self.idle_s)
        if not size:
            return None
        reader = Reader(self.peer, memoryview(self.incoming)[:size])
        if ancillary and reader.kind == protocol.PULSE:
            heart.start(socket.socket(fileno=_descriptors(ancillary)[0]), lambda: self.begun)
        elif ancillary:
            self._map_arena(reader, ancillary)
        return reader

    def _map_arena(self, reader: Reader, ancillary: list[tuple[int, int, bytes]]) -> None:
        fds = _descriptors(ancillary)
        number, _ = reader.unpack(protocol.ARENA_BODY)
        self.peer.map(number, fds[0])
        for fd in fds:
            os.close(fd)

    def limit_wait(self, seconds: float) -> None:
        """How long receive() waits for a message; 0 = for ever. The kernel counts, so it costs nothing per message."""
        whole = int(seconds)
        limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def trim(self) -> None:
        """There was nothing to do for a while after work: gives memory back that is kept for more work, once."""
        self.may_trim = False
        self.limit_wait(0.0)
        self.pool.trim()
        lib.mb_trim_malloc()
        with self.sending:
            self._send_news()

    def send(self, message: bytes) -> None:
        with self.sending:
            self._send_news()
            self.sock.send(message)

    def _send_news(self) -> None:
        for news, fd in self.arenas.news():
            if fd is None:
                self.sock.send(news)
            else:
                socket.send_fds(self.sock, [news], [fd])

    def send_log(self, level: int, file: str, line: int, text: str) -> None:
        body = f"{file}\0{text}".encode("utf-8", "replace")[:32768]
        self.sock.send(header_only(protocol.LOG, protocol.LOG_BODY.pack(level, line) + body))

    # ---- life --------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """The main loop; returns the exit code."""
        code = None
        while code is None:
            code = self.serve_one()
        return code

    def serve_one(self) -> int | None:
        """Waits for a message and does what it says; the exit code when that was the last one."""
        reader = self.receive()
        if reader is None:
            return 0
        if reader.kind == protocol.CALLS:
            self.answer(reader)
        elif reader.kind == protocol.RELEASE:
            reader.release()
        elif reader.kind == protocol.GONE:
            self.peer.unmap(reader.words("I"))
        elif reader.kind == protocol.SESSIONS:
            self.forget(set(reader.words("Q")))
        elif reader.kind == protocol.VALUES:
            self.sharing.receive(reader, self.sessions)
        elif reader.kind == protocol.OPEN:
            if not self.open(json.loads(reader.rest())):
                return 3
        elif reader.kind == protocol.STOP:
            self.close()
            return 0
        return None

    def open(self, order: dict[str, Any]) -> bool:
        """Imports the unit, makes it, opens it; tells the daemon how it went."""
        self.node = order["node"]
        self.inputs, self.outputs = order["inputs"], order["outputs"]
        self.role, self.framed = order["role"], order["framed"]
        self.idle_s = order["idle_s"]
        self.sections = (f"flowunit.{order['unit']}.", f"node.{self.node}.")
        try:
            # Python tells a file that was changed twice within a second by its size alone.
            sys.dont_write_bytecode = sys.dont_write_bytecode or order["reload"]
            unit = load_unit(order["toml"], order["entry"])
            if order["trial"]:
                self.sock.send(header_only(protocol.READY))
                return True
            self.use(unit)
            # Whatever its number among those of the server, it is the only one that this process sees.
            self.unit._device = Device(order["device"], "0")
            self.unit._external_data = self.externals.open if self.role == "source" else None
            self.externals.limit(*order["room"])
            result = self.unit.open(Configuration(order["config"]))
            self.use(self.unit)  # open() may have set data_pre() or data_post()
            status = to_status(result, f"open() of {order['entry']}")
            if not status:
                raise CallFailed(status.code(), _returned("open", status))
        except BaseException as error:
            if not isinstance(error, CallFailed):
                tell(error)
            text = str(error) if isinstance(error, CallFailed) else describe(error, order["toml"])
            self.sock.send(header_only(protocol.FAILED, text.encode("utf-8", "replace")[:32768]))
            return False
        self.sock.send(header_only(protocol.READY))
        return True

    def use(self, unit: FlowUnit) -> None:
        """Makes this the unit that is called."""
        self.unit = unit
        # The base class' do nothing.
        self.has_pre = self.framed and getattr(unit.data_pre, "__func__", None) is not FlowUnit.data_pre
        self.has_post = self.framed and getattr(unit.data_post, "__func__", None) is not FlowUnit.data_post

    def forget(self, numbers: set[int]) -> None:
        """Sessions have ended: so have their contexts that wait for an event that nobody will ask for."""
        for number in numbers:
            self.sessions.pop(number, None)
            if number & protocol.FAILED_SOURCE:
                self.externals.fail(number & ~protocol.FAILED_SOURCE)
        for stream in [stream for stream, state in self.streams.items() if state.session in numbers]:
            del self.streams[stream]

    def close(self) -> None:
        try:
            self.unit.close()
        except Exception as error:
            unit_log.warn(f"close() failed: {describe(error)}")

    # ---- calls ----------------------------------------------------------------------------------------------

    def answer(self, reader: Reader) -> None:
        """Runs the calls of one message and sends their results as one message."""
        writer = self.writer
        writer.begin()
        try:
            calls = reader.calls()
            calls.reverse()
            self.held.clear()
            while calls:
                self._answer_call(
                    *calls.pop(), reader.count - len(calls) - 1
                )  # nothing holds on to one that was answered
            values = self.sharing.message(reader.sequence)
            if values is not None:
                self.send(values)
            message = writer.finish(protocol.RESULTS, reader.sequence, reader.count)
        except ProtocolError:
            raise
        except ModelBoxError as error:
            message = self._refuse(reader, error)
        self.begun = 0.0
        self.send(message)

    def _refuse(self, reader: Reader, error: ModelBoxError) -> bytes:
        """The results cannot be sent: the same answer, which says why, to every call of the message."""
        writer = self.writer
        writer.undo()
        text = str(error).encode("utf-8", "replace")[:1024]
        for _ in range(reader.count):
            writer.result(protocol.ERROR, StatusCode.STATUS_FAULT, text, [], None)
        return writer.finish(protocol.RESULTS, reader.sequence, reader.count)

    def _answer_call(
        self,
        stream: int,
        session: int,
        flags: int,
        session_id: str,
        cores: list[list[Any]],
        metas: list[bytes] | None,
        index: int,
    ) -> None:
        self.begun = monotonic()
        if stream in self.held:
            self.writer.result(protocol.SKIPPED, 0, b"", [], None)
            return
        state = self._stream(stream, session, metas)
        if flags & CANCEL:
            state.events.clear()
        external: BufferList | None = None
        if self.role == "source":
            external = BufferList.over(cores[0]) if cores and cores[0] else None
            inputs = {}
            if external is not None:
                self.externals.called(flags >> 8, self.sessions, session, session_id)
        else:
            inputs = {port: BufferList.over(items) for port, items in zip(self.inputs, cores)}  # noqa: B905 - also Python 3.9
        has_data = bool(cores) and len(cores[0]) > 0
        del cores
        outputs = {port: BufferList() for port in self.outputs}
        context = DataContext(inputs, outputs, state, self.sessions, (session, session_id), external, self.sections)
        if flags & EVENT and state.events:
            context._event = state.events.popleft()
            has_data = True
        status, text, result_flags = 0, b"", 0
        results: list[list[Any]] = []
        try:
            self._run(context, state, flags if stream else 0, has_data)
            results = [items.cores(self.pool) for items in outputs.values()]
        except CallFailed as error:
            status, text = error.status, str(error).encode("utf-8", "replace")[:16384]
            result_flags = error.flags
        except BaseException as error:
            tell(error)
            status, text = StatusCode.STATUS_FAULT, describe(error).encode("utf-8", "replace")[:16384]
        shared = self.sessions.get(session) if self.sessions else None
        if shared is not None:
            self.sharing.collect(index, shared, self.node)
        if text:
            # Behind the errors of a failed call stands what data_post() has given.
            results = [items.cores(self.pool) for items in outputs.values()] if flags & END else []
            result_flags |= protocol.ERROR | (protocol.DATA_PRE if state.failed else 0)
        if context.used_session:
            result_flags |= protocol.KEEPS_SESSION
        if state.events:
            result_flags |= protocol.MORE
            self.held.add(stream)
        # Stream meta goes out once, before the first result of its port.
        sent = None
        if len(state.output_meta) > state.metas_sent:
            sent = [self._output_meta(state, port) for port in outputs]
            state.metas_sent = len(state.output_meta)
        self.writer.result(result_flags, status, text, results, sent)
        if flags & END and not state.events:
            self.streams.pop(stream, None)

    def _stream(self, stream: int, session: int, metas: list[bytes] | None) -> StreamState:
        state = self.streams.get(stream) if stream else None
        if state is None:
            state = StreamState(has_events=stream != 0 and self.role in WITH_EVENTS)
            state.session = session
            if metas is not None:
                state.input_meta = {port: to_meta(block) for port, block in zip(self.inputs, metas) if block}  # noqa: B905
            if stream:
                self.streams[stream] = state
        return state

    def _output_meta(self, state: StreamState, port: str) -> bytes:
        made = state.output_meta.get(port)
        return meta.encode(made._private) if made is not None else b""

    def _run(self, context: DataContext, state: StreamState, flags: int, has_data: bool) -> None:
        failure: BaseException | None = None
        self.continued = False
        if flags & BEGIN and self.has_pre:
            failure = self._begin(context, state)
        if has_data and not state.failed:
            try:
                result = self.unit.process(context)
                if result is not SUCCESS:
                    failure = failure_of(result)
                    self.continued = result == CONTINUE
            except BaseException as error:
                failure = error
            if failure is not None:
                context._drop_outputs()
            state.outputs_begun.update(port for port, items in context._outputs.items() if len(items))
        if self.role == "expand" and not self.continued:
            state.events.clear()  # only CONTINUE keeps a sub-stream open
        if flags & END and self.has_post and not state.events:
            self._end(context, state)
        if failure is not None:
            raise failure

    def _begin(self, context: DataContext, state: StreamState) -> BaseException | None:
        """data_pre(), and why it failed; nothing of a failed one counts, nor what an expand gives in it."""
        try:
            status = to_status(self.unit.data_pre(context), "data_pre()")
        except BaseException as error:
            failure: BaseException | None = error
        else:
            failure = None if status else CallFailed(status.code(), _returned("data_pre", status))
        state.failed = failure is not None
        if state.failed or self.role == "expand":
            context._drop_outputs()
        return failure

    def _end(self, context: DataContext, state: StreamState) -> None:
        """data_post(): what it gives stands behind the results, but in no sub-stream of an expand, and not behind a
        failed data_pre(). Its own failure changes nothing."""
        results = dict(context._outputs)
        context._drop_outputs()
        try:
            result = self.unit.data_post(context)
        except BaseException as error:
            unit_log.warn(f"data_post() failed: {describe(error)}")
            result = None
            context._drop_outputs()
        given = dict(context._outputs)
        context._outputs.update(results)
        for port, items in given.items() if self.role != "expand" and not state.failed else ():
            for buffer in items:
                results[port].push_back(buffer)
        if (
            isinstance(result, Status | StatusCode)
            and result in STOPPING
            and (stop := failure_of(result, "data_post")) is not None
        ):
            raise stop


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


def failure_of(result: Any, function: str = "process") -> CallFailed | None:
    """What a function returned, when that means a failure. Raises CallFailed for what is no status."""
    status = to_status(result, f"{function}()")
    if status.code() in (SUCCESS, CONTINUE):
        return None
    flags = protocol.STOPS if status.code() in STOPPING else 0
    return CallFailed(status.code(), status.errormsg() or _returned(function, status), flags)


def _returned(function: str, status: Status) -> str:
    text = f"{function}() returned {status.str_code()}"
    return f"{text}: {status.errormsg()}" if status.errormsg() else text


def to_status(result: Any, what: str) -> Status:
    """What a unit's function returned, as Status. Raises CallFailed for anything else."""
    if isinstance(result, Status):
        return result
    if isinstance(result, StatusCode):
        return Status(result)
    if isinstance(result, bool):
        return Status(result)
    raise CallFailed(
        StatusCode.STATUS_INVALID,
        f"{what} returned {type(result).__name__}, expected Status or StatusCode (is a return missing?)",
        protocol.RULE,
    )


def to_meta(block: bytes) -> DataMeta:
    """Stream meta out of its encoded form."""
    made = DataMeta()
    made._private.update(meta.decode(block, allow_pickle=True))
    return made


def load_unit(toml: str, entry: str) -> FlowUnit:
    """The unit that `module@Class` beside the TOML names. Raises CallFailed with a sentence for the user."""
    import modelbox

    sys.modules["_flowunit"] = modelbox
    module_name, _, class_name = entry.partition("@")
    directory = str(Path(toml).parent)
    sys.path.insert(0, directory)
    there = getattr(sys.modules.get(module_name), "__file__", None)
    if there and Path(directory) not in Path(there).parents:  # of another unit in this process
        del sys.modules[module_name]
    if not any((Path(directory) / name).exists() for name in (f"{module_name}.py", module_name)):
        with contextlib.suppress(ImportError, ValueError):
            if importlib.util.find_spec(module_name) is not None:
                return make_unit(importlib.import_module(module_name), class_name, toml, entry)
        raise CallFailed(
            StatusCode.STATUS_BADCONF, f'{toml}: entry = "{entry}": there is no {module_name}.py in {directory}'
        )
    return make_unit(importlib.import_module(module_name), class_name, toml, entry)


def make_unit(module: Any, class_name: str, toml: str, entry: str) -> FlowUnit:
    unit_class = getattr(module, class_name, None)
    if unit_class is None:
        known = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, FlowUnit)]
        there = ", ".join(name for name in known if name != "FlowUnit") or "none"
        raise CallFailed(
            StatusCode.STATUS_BADCONF,
            f"{toml}: entry = \"{entry}\": {module.__file__} has no class '{class_name}' (flow units in it: {there})",
        )
    if not (isinstance(unit_class, type) and issubclass(unit_class, FlowUnit)):
        raise CallFailed(StatusCode.STATUS_BADCONF, f"{toml}: '{class_name}' does not derive from modelbox.FlowUnit")
    return unit_class()
