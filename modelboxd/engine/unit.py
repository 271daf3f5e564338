"""What a built-in unit (our own Python, run inside the daemon) sees of the engine, and the engine of it.

Built-in units exist where the work is I/O or releases the GIL: HTTP, inference runtimes. A user's Python
never runs here; it runs in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from modelbox.errors import ModelBoxError

if TYPE_CHECKING:
    from modelbox._core.memory import Pool
    from modelbox.buffer import Buffer, BufferList
    from modelbox.configuration import Configuration
    from modelboxd.graph.model import Node
    from modelboxd.loop import IoThread


class SessionView(Protocol):
    """The part of a session that units use."""

    id: str  # UUID text
    private: dict[str, Any]
    error: ModelBoxError | None

    @property
    def ended(self) -> bool: ...

    def cancel(self, reason: ModelBoxError) -> None:
        """Ends the session early: queued work is dropped, running work is not waited for. [any thread]"""


class ContextView(Protocol):
    """What a unit may keep from call to call of one stream or sub-stream."""

    private: dict[str, Any]


class UnitCall(Protocol):
    """One process() call: what came in, where results go."""

    session: SessionView | None  # the stream's session; NORMAL units: None (buffers may be mixed)
    stream: ContextView | None  # of stream, expand and collapse units
    event: Any  # what send_event() was given, in the call that answers it

    def input(self, port: str) -> BufferList: ...

    def output(self, port: str) -> BufferList: ...

    def send_event(self, event: Any = True) -> None:
        """Asks for one more call in this context, without inputs; stream and expand units only."""

    def input_meta(self, port: str) -> dict[str, Any]:
        """Stream meta of an input port. NORMAL units: of the stream that the call's first value is of."""

    def set_output_meta(self, port: str, values: dict[str, Any]) -> bool:
        """Sets stream meta of an output port; the first call per port counts. False behind the first output, and
        for a port that the unit does not have. NORMAL units: for the stream of input_meta()."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the daemon lends to built-in units."""

    job: str  # name of the job
    pool: Pool  # where buffers come from
    io: IoThread  # the asyncio loop thread
    listeners: Any  # modelboxd.server.listener.Listeners: shared HTTP ports
    cpus: int  # CPUs of this process: affinity and cgroup quota
    threads: int  # size of the engine's thread pool


@dataclass(frozen=True, slots=True)
class PortTensor:
    """What every buffer of a port holds."""

    dtype: str  # as numpy has it
    shape: tuple[int, ...]  # -1 = any size
    batch: int  # how many buffers the unit works on at once; 0 = any number


class BuiltinUnit:
    """Base class of built-in units. One instance per node.

    `inline = True` promises that process() never blocks and is short: it then runs on whatever thread made
    it ready, without a hand-over. Otherwise it runs on an engine thread.
    """

    inline: ClassVar[bool] = False

    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        self.node = node
        self.config = config
        self.services = services
        self.about = {"job": services.job, "node": node.name}  # fields of log lines

    def open(self) -> None:
        """Called once before the first call. Raise ConfigError or UnitError with a one-line reason."""

    def close(self) -> None:
        """Called once after the last call; must not raise."""

    def tensors(self) -> dict[str, PortTensor]:
        """The tensors of its ports, of input and output alike, as far as it knows them. After open(). [any thread]"""
        return {}

    def process(self, call: UnitCall) -> Any:
        """One call; push to `call.output(port)`. NORMAL units: as many out as in, several calls at once.

        Returns StatusCode.STATUS_CONTINUE where an expand unit has sent an event and its sub-stream stays open; else
        nothing. A ModelBoxError becomes error buffers `<unit>.ProcessError` for the buffers of this call.
        """
        raise NotImplementedError

    def stream_begin(self, call: UnitCall) -> None:
        """Called before the first data of a stream or sub-stream. A ModelBoxError skips the rest of it."""

    def stream_end(self, call: UnitCall) -> None:
        """Called after the last data of a stream or sub-stream; stream units may push to outputs."""


class Entry(Protocol):
    """A source unit's door into the engine. Thread-safe; never blocks."""

    def open(
        self, private: dict[str, Any] | None = None, on_end: Callable[[SessionView], None] | None = None
    ) -> SessionView:
        """A new session.

        `on_end(session)` is called exactly once, on any thread, when everything of the session has left the
        graph or the session failed (`session.error` is then set). Raises BusyError when the entry queue is
        full, ShutdownError when the job is stopping.
        """

    def send(self, session: SessionView, port: str, buffers: Sequence[Buffer], *, end: bool = False) -> None:
        """Appends buffers to the session's stream on `port`; `end` closes the stream after them."""

    def send_list(self, session: SessionView, port: str, items: Any, *, end: bool = False) -> None:
        """send() for sealed buffers that are a core list already; the list is taken over."""

    def has_room(self) -> bool:
        """False when back-pressure from the graph has filled the entry queue."""

    def troubles(self) -> list[tuple[str, str]]:
        """(node, reason) of every node of the job where work cannot go on for now."""


class SinkUnit(BuiltinUnit):
    """Base class of built-in STREAM units with one input port, no output ports, and `exception_visible`, that get
    core lists as they are: no wrapper is made for each buffer."""

    def receive(self, session: SessionView, items: Any) -> None:
        """Buffers of one stream, at least one, error buffers and holes (NULL) among them; `items` is a core list."""
        raise NotImplementedError

    def process(self, call: UnitCall) -> None:
        raise NotImplementedError("a sink unit gets core lists")


class SourceUnit(BuiltinUnit):
    """Base class of built-in units without input ports."""

    def start(self, entry: Entry) -> None:
        """Begin to produce; called once after every node of the job is open. Must not block."""
        raise NotImplementedError

    def finish_arriving(self, limit_s: float) -> None:
        """Nothing new comes any more, since another job has taken the place of this one: returns when what has half
        arrived is a session, or after `limit_s`."""

    def stop(self) -> None:
        """Stop taking new work; sessions under way go on. Returns when no new session can start."""
        raise NotImplementedError

    def process(self, call: UnitCall) -> None:
        raise NotImplementedError("a source has no input")
