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
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from modelbox import buffer as buffer_module
from modelbox import log as unit_log
from modelbox import meta
from modelbox._core import ffi, lib
from modelbox._core.memory import Pool, new_error, raise_error
from modelbox.buffer import BufferList
from modelbox.configuration import Configuration
from modelbox.context import DataContext, DataMeta, SessionContext, StreamState
from modelbox.errors import ModelBoxError
from modelbox.flowunit import FlowUnit
from modelbox.status import Status, StatusCode
from modelboxd.workers import protocol
from modelboxd.workers.protocol import HEADER, Arenas, Done, ProtocolError, Reader, Writer, header_only

SPIN_S = 400e-6  # a gap between messages below which looking beats sleeping

CONTINUE = StatusCode.STATUS_CONTINUE
SUCCESS = StatusCode.STATUS_SUCCESS


class CallFailed(Exception):
    """One call of the unit failed; the text is for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def run(sock: socket.socket) -> None:
    """Serves the daemon until it says STOP or goes away; ends the process."""
    code = 1
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
        self.pool = Pool(arena_size=16 << 20, keep_bytes=64 << 20)
        buffer_module.set_default_pool(self.pool)
        buffer_module.allow_pickle()
        error = new_error()
        peer = lib.mb_peer_new(self.pool.handle, protocol.INLINE_LIMIT, 1, error)
        if peer == ffi.NULL:
            raise_error(error)
        self.peer = ffi.gc(peer, lib.mb_peer_free)
        self.writer = Writer(self.peer)
        self.arenas = Arenas(self.peer)
        self.done = Done(self.peer)
        self.incoming = bytearray(protocol.MESSAGE_LIMIT + HEADER.size)
        self.places = [self.incoming]
        self.gap_s = 1.0  # how long the next message has taken to come lately
        self.unit: FlowUnit | None = None
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.node = ""
        self.streams: dict[int, StreamState] = {}
        self.sessions: dict[int, SessionContext] = {}
        unit_log.set_sink(self.send_log)

    # ---- socket ----------------------------------------------------------------------------------------

    def _wait(self) -> tuple[int, list[tuple[int, int, bytes]]]:
        """Receives one message. While messages follow each other quickly it looks for the next one for a moment
        before it sleeps: waking up takes longer than such a gap. An idle worker does not spin."""
        start = time.perf_counter()
        if self.gap_s < SPIN_S:
            end = start + 2 * SPIN_S
            while time.perf_counter() < end:
                try:
                    size, ancillary, _, _ = self.sock.recvmsg_into(self.places, protocol.ANCILLARY, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    os.sched_yield()
                    continue
                self.gap_s += (time.perf_counter() - start - self.gap_s) / 8
                return size, ancillary
        size, ancillary, _, _ = self.sock.recvmsg_into(self.places, protocol.ANCILLARY)
        self.gap_s += (min(time.perf_counter() - start, 1.0) - self.gap_s) / 8
        return size, ancillary

    def receive(self) -> Reader | None:
        """The next message; None when the daemon is gone."""
        size, ancillary = self._wait()
        if not size:
            return None
        reader = Reader(self.peer, memoryview(self.incoming)[:size])
        if ancillary:
            self._map_arena(reader, ancillary)
        return reader

    def _map_arena(self, reader: Reader, ancillary: list[tuple[int, int, bytes]]) -> None:
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
        number, _ = reader.unpack(protocol.ARENA_BODY)
        error = new_error()
        status = lib.mb_peer_map(self.peer, number, fds[0], protocol.ARENA_LIMIT, error)
        for fd in fds:
            os.close(fd)
        if status < 0:
            raise_error(error, -status)

    def send(self, message: Any) -> None:
        for news, fd in self.arenas.news():
            if fd is None:
                self.sock.send(news)
            else:
                socket.send_fds(self.sock, [news], [fd])
        self.sock.send(message)

    def send_log(self, level: int, file: str, line: int, text: str) -> None:
        body = f"{file}\0{text}".encode("utf-8", "replace")[:32768]
        self.sock.send(header_only(protocol.LOG, protocol.LOG_BODY.pack(level, line) + body))

    # ---- life --------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """The main loop; returns the exit code."""
        while True:
            reader = self.receive()
            if reader is None:
                return 0
            if reader.kind == protocol.CALLS:
                self.answer(reader)
            elif reader.kind == protocol.RELEASE:
                reader.release()
            elif reader.kind == protocol.GONE:
                for number in reader.words("I"):
                    lib.mb_peer_unmap(self.peer, number)
            elif reader.kind == protocol.SESSIONS:
                for number in reader.words("Q"):
                    self.sessions.pop(number, None)
            elif reader.kind == protocol.OPEN:
                if not self.open(json.loads(reader.rest())):
                    return 3
            elif reader.kind == protocol.STOP:
                self.close()
                return 0

    def open(self, order: dict[str, Any]) -> bool:
        """Imports the unit, makes it, opens it; tells the daemon how it went."""
        self.node = order["node"]
        self.inputs, self.outputs = order["inputs"], order["outputs"]
        try:
            self.unit = load_unit(order["toml"], order["entry"])
            result = self.unit.open(Configuration(order["config"]))
            status = to_status(result, f"open() of {order['entry']}")
            if not status:
                raise CallFailed(status.code(), f"open() returned {status.str_code()}: {status.errormsg()}")
        except BaseException as error:
            if not isinstance(error, CallFailed):
                unit_log.debug(traceback.format_exc())
            text = str(error) if isinstance(error, CallFailed) else describe(error, order["toml"])
            self.sock.send(header_only(protocol.FAILED, text.encode("utf-8", "replace")[:32768]))
            return False
        self.sock.send(header_only(protocol.READY))
        return True

    def close(self) -> None:
        if self.unit is None:
            return
        try:
            self.unit.close()
        except Exception as error:
            unit_log.warn(f"close() failed: {describe(error)}")

    # ---- calls ----------------------------------------------------------------------------------------------

    def answer(self, reader: Reader) -> None:
        """Runs the calls of one message and sends their results as one message."""
        writer = self.writer
        writer.reset()
        ids = b""
        try:
            for _ in range(reader.count):
                stream, session, flags, ports, session_id = reader.unpack(protocol.CALL)
                lists, metas = reader.ports(ports)
                self._answer_call(writer, stream, flags, (session, session_id), lists, metas)
                del lists
            reader.release()
            ids = self.done.take()  # what the unit no longer holds goes back with the results
            writer.put(ids)
            message = writer.finish(protocol.RESULTS, reader.sequence, reader.count, len(ids) // 8, self.pool)
        except ProtocolError:
            raise
        except ModelBoxError as error:
            message = self._refuse(reader, ids, error)
        self.send(message)

    def _refuse(self, reader: Reader, ids: bytes, error: ModelBoxError) -> memoryview:
        """The results cannot be sent: the same answer, which says why, to every call of the message."""
        self.done.keep(ids)
        writer = self.writer
        writer.undo()
        text = str(error).encode("utf-8", "replace")[:1024]
        for _ in range(reader.count):
            at = writer.room(protocol.RESULT.size)
            protocol.RESULT.pack_into(writer.view, at, protocol.ERROR, 0, StatusCode.STATUS_FAULT, len(text))
            writer.put(text)
        return writer.finish(protocol.RESULTS, reader.sequence, reader.count, 0, self.pool)

    def _answer_call(
        self,
        writer: Writer,
        stream: int,
        flags: int,
        session: tuple[int, bytes],
        lists: list[Any],
        metas: list[bytes],
    ) -> None:
        state = self._stream(stream, flags, metas)
        inputs = {port: BufferList.from_core(items) for port, items in zip(self.inputs, lists, strict=True)}
        outputs = {port: BufferList() for port in self.outputs}
        context = DataContext(inputs, outputs, state, self.sessions, (session[0], session[1].rstrip(b"\0").decode()))
        status, text = 0, b""
        cores: list[Any] = []
        try:
            self._run(context, stream, flags, bool(lists) and lists[0].count > 0)
            cores = [outputs[port].to_core(self.pool) for port in self.outputs]
        except CallFailed as error:
            status, text = error.status, str(error).encode("utf-8", "replace")[:16384]
        except BaseException as error:
            unit_log.debug(traceback.format_exc())
            status, text = StatusCode.STATUS_FAULT, describe(error).encode("utf-8", "replace")[:16384]
        result_flags = (protocol.ERROR if text else 0) | (protocol.KEEPS_SESSION if context.used_session else 0)
        if text and state.failed:
            result_flags |= protocol.DATA_PRE
        at = writer.room(protocol.RESULT.size)
        protocol.RESULT.pack_into(writer.view, at, result_flags, len(cores), status, len(text))
        if text:
            writer.put(text)
        for port, items in zip(self.outputs, cores, strict=False):
            for position in range(items.count):
                lib.mb_buffer_seal(items.items[position])
            writer.port(items, self._output_meta(state, port, flags))
        if flags & protocol.END:
            self.streams.pop(stream, None)

    def _stream(self, stream: int, flags: int, metas: list[bytes]) -> StreamState:
        state = self.streams.get(stream) if stream else None
        if state is None:
            received = {port: to_meta(block) for port, block in zip(self.inputs, metas, strict=True) if block}
            state = StreamState(received)
            if stream:
                self.streams[stream] = state
        return state

    def _output_meta(self, state: StreamState, port: str, flags: int) -> bytes:
        """Stream meta goes out once, with the first results of a stream."""
        if not flags & protocol.BEGIN or port not in state.output_meta:
            return b""
        return meta.encode(state.output_meta[port]._private)

    def _run(self, context: DataContext, stream: int, flags: int, has_data: bool) -> None:
        unit = self.unit
        assert unit is not None
        state = context._stream
        if stream and flags & protocol.BEGIN:
            status = to_status(unit.data_pre(context), "data_pre()")
            if not status:
                state.failed = True
                raise CallFailed(status.code(), f"data_pre() returned {status.str_code()}: {status.errormsg()}")
        failure: CallFailed | None = None
        if has_data and not state.failed:
            failure = self._process(unit, context)
            state.outputs_begun = True
        if stream and flags & protocol.END:
            unit.data_post(context)
        if failure is not None:
            raise failure

    def _process(self, unit: FlowUnit, context: DataContext) -> CallFailed | None:
        result = unit.process(context)
        if result is SUCCESS:
            return None
        status = to_status(result, "process()")
        if status.code() in (SUCCESS, CONTINUE):
            return None
        return CallFailed(status.code(), status.errormsg() or f"process() returned {status.str_code()}")


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
    )


def to_meta(block: bytes) -> DataMeta:
    """Stream meta out of its encoded form."""
    made = DataMeta()
    made._private.update(meta.decode(block, allow_pickle=True))
    return made


def describe(error: BaseException, toml: str = "") -> str:
    """One line: the exception and the innermost line of the user's own files."""
    text = f"{type(error).__name__}: {error}".rstrip(": ").replace("\n", " | ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    own = (str(Path(__file__).resolve().parent), str(Path(buffer_module.__file__).resolve().parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own) and "importlib" not in frame.filename
    ]
    if frames:
        return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{text} ({toml})" if toml else text


def load_unit(toml: str, entry: str) -> FlowUnit:
    """The unit that `module@Class` beside the TOML names. Raises CallFailed with a sentence for the user."""
    import modelbox

    sys.modules["_flowunit"] = modelbox
    module_name, _, class_name = entry.partition("@")
    directory = str(Path(toml).parent)
    sys.path.insert(0, directory)
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
