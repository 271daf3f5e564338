"""Makes the daemon's calls: the functions of one flow unit, with what they see around them.

Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from modelbox import log as unit_log
from modelbox import meta
from modelbox.buffer import BufferList
from modelbox.context import DataContext, DataMeta, StreamState
from modelbox.flowunit import FlowUnit
from modelbox.session import SessionContext
from modelbox.status import Status, StatusCode
from modelboxd.workers import protocol
from modelboxd.workers.outcome import CONTINUE, STOPPING, SUCCESS, CallFailed, failure_of, returned, to_status
from modelboxd.workers.trace import describe, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelbox._core.memory import Pool
    from modelboxd.workers.external import Externals
    from modelboxd.workers.protocol import Writer
    from modelboxd.workers.sharing import Sharing

BEGIN, END, EVENT, CANCEL = protocol.BEGIN, protocol.END, protocol.EVENT, protocol.CANCEL
WITH_EVENTS = ("stream", "expand", "source")  # roles whose units may send events
TEXT_BYTES = 16384  # of an error


class Caller:
    """A unit, its streams and its sessions."""

    def __init__(self, pool: Pool, writer: Writer, externals: Externals, sharing: Sharing) -> None:
        self.unit = FlowUnit()  # until use()
        self.streams: dict[int, StreamState] = {}
        self.sessions: dict[int, SessionContext] = {}
        self.begun = 0.0  # when the call under way began, 0.0: none; read by the heart's thread
        # In a process that the unit has forked: ends it, with the exception that has led out of process().
        self.forked: Callable[[BaseException | None], None] | None = None
        self._pool = pool
        self._writer = writer
        self._externals = externals
        self._sharing = sharing
        self._node = ""
        self._role = "normal"
        self._framed = False  # data_pre() and data_post() are called
        self._has_pre = self._has_post = False
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._sections: tuple[str, ...] = ()  # of a session's configuration that are for this node
        self._continued = False  # the last call returned CONTINUE
        self._held: set[int] = set()  # contexts whose later calls of this message have to wait for an event

    def prepare(self, order: dict[str, Any]) -> None:
        """What the OPEN message says of the unit."""
        self._node = order["node"]
        self._inputs, self._outputs = order["inputs"], order["outputs"]
        self._role, self._framed = order["role"], order["framed"]
        self._sections = (f"flowunit.{order['unit']}.", f"node.{self._node}.")

    def use(self, unit: FlowUnit) -> None:
        """Makes this the unit that is called; again when open() may have set data_pre() or data_post()."""
        self.unit = unit
        # The base class' do nothing.
        self._has_pre = self._framed and getattr(unit.data_pre, "__func__", None) is not FlowUnit.data_pre
        self._has_post = self._framed and getattr(unit.data_post, "__func__", None) is not FlowUnit.data_post

    def forget(self, numbers: set[int]) -> None:
        """Sessions have ended: so have their contexts that wait for an event that nobody will ask for."""
        for number in numbers:
            self.sessions.pop(number, None)
        for stream in [stream for stream, state in self.streams.items() if state.session in numbers]:
            del self.streams[stream]

    def begin_message(self) -> None:
        """The calls of a new message follow."""
        self._held.clear()

    def answer(
        self,
        stream: int,
        session: int,
        flags: int,
        session_id: str,
        cores: list[list[Any]],
        metas: list[bytes] | None,
        index: int,
    ) -> None:
        """Makes call number `index` of a message and writes its result. Raises ModelBoxError when memory is out."""
        self.begun = monotonic()
        if stream in self._held:
            self._writer.result(protocol.SKIPPED, 0, b"", [], None)
            return
        state = self._state(stream, session, metas)
        if flags & CANCEL:
            state.events.clear()
        has_data = bool(cores) and len(cores[0]) > 0
        context = self._context(state, cores, flags, session, session_id)
        del cores
        if flags & EVENT and state.events:
            context._event = state.events.popleft()
            has_data = True
        result_flags, status, text, results, metas = self._attempt(context, state, flags if stream else 0, has_data)
        shared = self.sessions.get(session) if self.sessions else None
        if shared is not None:
            self._sharing.collect(index, shared, self._node)
        if text:
            result_flags |= protocol.ERROR | (protocol.DATA_PRE if state.failed else 0)
        if context.used_session:
            result_flags |= protocol.KEEPS_SESSION
        if state.events:
            result_flags |= protocol.MORE
            self._held.add(stream)
        self._writer.result(result_flags, status, text, results, metas)
        if flags & END and not state.events:
            self.streams.pop(stream, None)

    def _state(self, stream: int, session: int, metas: list[bytes] | None) -> StreamState:
        state = self.streams.get(stream) if stream else None
        if state is None:
            state = StreamState(has_events=stream != 0 and self._role in WITH_EVENTS)
            state.session = session
            if metas is not None:
                state.input_meta = {port: block for port, block in zip(self._inputs, metas) if block}  # noqa: B905 - also Python 3.9
            if stream:
                self.streams[stream] = state
        return state

    def _context(
        self, state: StreamState, cores: list[list[Any]], flags: int, session: int, session_id: str
    ) -> DataContext:
        """What the call sees."""
        external: BufferList | None = None
        if self._role == "source":
            external = BufferList.over(cores[0]) if cores and cores[0] else None
            inputs = {}
            if external is not None:
                self._externals.called(flags >> 8, self.sessions, session, session_id)
        else:
            inputs = {port: BufferList.over(items) for port, items in zip(self._inputs, cores)}  # noqa: B905
        outputs = {port: BufferList() for port in self._outputs}
        return DataContext(inputs, outputs, state, self.sessions, (session, session_id), external, self._sections)

    def _attempt(
        self, context: DataContext, state: StreamState, flags: int, has_data: bool
    ) -> tuple[int, int, bytes, list[list[Any]], list[bytes] | None]:
        """Makes the call. Returns the result's flags, status and text, which is empty when all went well, then what
        stands in the outputs and the stream metas; behind the error of a failed call, what data_post() has given."""
        failure: BaseException | None = None
        results: list[list[Any]] = []
        metas: list[bytes] | None = None
        try:
            self._run(context, state, flags, has_data)
        except BaseException as error:
            failure = error
        if failure is None or flags & END:
            try:
                results, metas = self._results(context), self._news_of_meta(state)
            except BaseException as error:  # values run code of their own when they are packed
                results, metas = [], None
                if failure is not None:
                    unit_log.warn(f"what data_post() has given cannot be sent: {describe(error)}")
                failure = failure or error
        if failure is None:
            return 0, 0, b"", results, metas
        if isinstance(failure, CallFailed):
            text, result_flags, status = str(failure), failure.flags, failure.status
        else:
            tell(failure)
            text, result_flags, status = describe(failure), 0, StatusCode.STATUS_FAULT
        return result_flags, status, text.encode("utf-8", "replace")[:TEXT_BYTES], results, metas

    def _results(self, context: DataContext) -> list[list[Any]]:
        return [items.cores(self._pool) for items in context._outputs.values()]

    def _news_of_meta(self, state: StreamState) -> list[bytes] | None:
        """Stream meta per output port; it goes out once, before the first result of its port. Raises for one that
        cannot be sent, and forgets it then: it fails one call."""
        if len(state.output_meta) <= state.metas_sent:
            return None
        made = []
        for port in self._outputs:
            one = state.output_meta.get(port)
            try:
                made.append(self._stream_meta(port, one) if one is not None else b"")
            except BaseException:
                del state.output_meta[port]
                raise
        state.metas_sent = len(state.output_meta)
        return made

    @staticmethod
    def _stream_meta(port: str, one: DataMeta) -> bytes:
        block = meta.encode(one._private)
        if len(block) > meta.MAX_SIZE:
            raise ValueError(f"the stream meta of port '{port}' has {len(block)} bytes, at most {meta.MAX_SIZE} go")
        return block

    def _run(self, context: DataContext, state: StreamState, flags: int, has_data: bool) -> None:
        failure: BaseException | None = None
        self._continued = False
        if flags & BEGIN and self._has_pre:
            failure = self._begin(context, state)
        if has_data and not state.failed:
            try:
                result = self.unit.process(context)
                if self.forked is not None:
                    self.forked(None)
                if result is not SUCCESS:
                    failure = failure_of(result)
                    self._continued = result == CONTINUE
            except BaseException as error:
                if self.forked is not None:
                    self.forked(error)
                failure = error
            if failure is not None:
                context._drop_outputs()
            state.outputs_begun.update(port for port, items in context._outputs.items() if len(items))
        if self._role == "expand" and not self._continued:
            state.events.clear()  # only CONTINUE keeps a sub-stream open
        if flags & END and self._has_post and not state.events:
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
            failure = None if status else CallFailed(status.code(), returned("data_pre", status))
        state.failed = failure is not None
        if state.failed or self._role == "expand":
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
        for port, items in given.items() if self._role != "expand" and not state.failed else ():
            for buffer in items:
                results[port].push_back(buffer)
        # A tuple, for Python 3.9.
        stops = isinstance(result, (Status, StatusCode)) and result in STOPPING
        if stops and (stop := failure_of(result, "data_post")) is not None:
            raise stop
