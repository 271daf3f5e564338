"""What a process() call sees: its inputs and outputs, its stream, its session."""

from __future__ import annotations

from collections import deque
from typing import Any

from modelbox import meta
from modelbox.buffer import BufferList
from modelbox.configuration import Configuration
from modelbox.private import Private
from modelbox.session import SessionContext
from modelbox.status import Status, StatusCode

EVENT_LIMIT = 8192  # events of one context that wait


class DataMeta(Private):
    """Meta of a whole stream, set with set_output_meta() before the first output."""

    __slots__ = ()

    def set_private(self, key: str, value: Any) -> None:
        """Raises TypeError for a key that is no str."""
        if not isinstance(key, str):
            raise TypeError(f"a key must be a str, not {type(key).__name__}")
        self._private[key] = value

    def get_private(self, key: str) -> Any:
        """The value, None when it is missing."""
        return self._private.get(key)


class FlowUnitEvent(DataMeta):
    """A note of a unit to itself. A key keeps its first value."""

    __slots__ = ()

    def set_private(self, key: str, value: Any) -> None:
        self._private.setdefault(key, value)


class FlowUnitError:
    """An error with a description."""

    __slots__ = ("_description",)

    def __init__(self, description: str, position: str = "", status: Status | None = None) -> None:
        self._description = description if status is None else f"{description}: {position}: {status.errormsg()}"

    def get_description(self) -> str:
        return self._description


class StreamState(Private):
    """Private values of a stream, and its metas."""

    __slots__ = (
        "events",
        "failed",
        "has_events",
        "input_meta",
        "metas_sent",
        "output_meta",
        "outputs_begun",
        "session",
    )

    def __init__(self, input_meta: dict[str, DataMeta | bytes] | None = None, *, has_events: bool = False) -> None:
        super().__init__()
        self.has_events = has_events
        self.events: deque[FlowUnitEvent] = deque()
        self.session = 0  # number of the session that it belongs to
        self.input_meta = input_meta or {}  # bytes: not asked for yet
        self.output_meta: dict[str, DataMeta] = {}
        self.outputs_begun: set[str] = set()  # ports that the unit has given something to
        self.metas_sent = 0  # how many of output_meta the engine has
        self.failed = False  # data_pre failed: the rest of the stream is skipped


class DataContext:
    """One process() call."""

    __slots__ = (
        "_event",
        "_external",
        "_inputs",
        "_outputs",
        "_sections",
        "_session",
        "_sessions",
        "_stream",
        "used_session",
    )

    def __init__(
        self,
        inputs: dict[str, BufferList],
        outputs: dict[str, BufferList],
        stream: StreamState,
        sessions: dict[int, SessionContext],
        session: tuple[int, str],
        external: BufferList | None = None,
        sections: tuple[str, ...] = (),
    ) -> None:
        self._sections = sections  # of the session's configuration, beside "nodes."
        self._inputs = inputs
        self._outputs = outputs
        self._stream = stream
        self._sessions = sessions
        self._session = session
        self._external = external
        self._event: FlowUnitEvent | None = None
        self.used_session = False

    def input(self, port: str) -> BufferList | None:
        """The buffers of an input port; None for a port that the unit does not have."""
        return self._inputs.get(port)

    def output(self, port: str) -> BufferList | None:
        """Where results of an output port go; None for a port that the unit does not have."""
        return self._outputs.get(port)

    def external(self) -> BufferList:
        """External data of a source unit; empty for others."""
        return BufferList() if self._external is None else self._external

    def _drop_outputs(self) -> None:
        """What was given so far does not count."""
        for port in self._outputs:
            self._outputs[port] = BufferList()

    def event(self) -> FlowUnitEvent | None:
        """The event that caused this call, None for data."""
        return self._event

    def has_error(self) -> bool:
        """Whether an input buffer carries an error."""
        return any(buffer.has_error() for items in self._inputs.values() for buffer in items)

    def send_event(self, event: FlowUnitEvent) -> Status:
        """Asks for one more call in this context, without inputs and with event() set, before further inputs of it.

        For stream, expand and source units; for others it does nothing. NOBUFS when too many wait.
        """
        if self._stream.has_events:
            if len(self._stream.events) >= EVENT_LIMIT:
                return Status(StatusCode.STATUS_NOBUFS, f"{EVENT_LIMIT} events of this stream wait")
            self._stream.events.append(event)
        return Status()

    def set_private(self, key: str, value: Any) -> None:
        """Keeps a value with the stream (STREAM units) or with this call (NORMAL units)."""
        self._stream.set_private(key, value)

    def get_private(self, key: str) -> Any:
        """The value, None when it is missing."""
        return self._stream._private.get(key)

    def set_private_int(self, key: str, value: int) -> None:
        self._stream.set_private_int(key, value)

    def get_private_int(self, key: str) -> int:
        return self._stream.get_private_int(key)

    def set_private_string(self, key: str, value: str) -> None:
        self._stream.set_private_string(key, value)

    def get_private_string(self, key: str) -> str:
        return self._stream.get_private_string(key)

    def get_input_meta(self, port: str) -> DataMeta | None:
        """Meta of the stream on an input port. Raises what its values raise when they are rebuilt."""
        if port not in self._inputs:
            return None
        found = self._stream.input_meta.get(port, b"")
        if isinstance(found, bytes):
            made = DataMeta()
            if found:
                made._private.update(meta.decode(found, allow_pickle=True))
            self._stream.input_meta[port] = found = made
        return found

    get_input_group_meta = get_input_meta

    def set_output_meta(self, port: str, meta: DataMeta) -> Status:
        """Sets the meta of the stream on an output port; the first call wins, before the first output. Raises TypeError
        for what is no DataMeta."""
        if not isinstance(meta, DataMeta):
            raise TypeError(f"set_output_meta() got {type(meta).__name__}, expected DataMeta")
        if port not in self._outputs:
            return Status(StatusCode.STATUS_NOTFOUND, f"there is no output port '{port}'")
        if port in self._stream.outputs_begun:
            return Status(StatusCode.STATUS_INVALID, "stream meta must be set before the first output")
        self._stream.output_meta.setdefault(port, meta)
        return Status()

    def get_session_context(self) -> SessionContext:
        """The session's context, which all its nodes share."""
        number, session_id = self._session
        self.used_session = True
        context = self._sessions.get(number)
        if context is None:
            context = self._sessions[number] = SessionContext(session_id)
        return context

    def get_session_config(self) -> Configuration:
        """What the session's configuration says for this node: its keys without a section, then those of the sections
        `nodes.`, `flowunit.NAME.` and `node.NAME.`, of which the last one wins."""
        context = self._sessions.get(self._session[0])
        made = Configuration()
        if context is not None:
            made._values = context.get_session_config().section("", "nodes.", *self._sections)
        return made
