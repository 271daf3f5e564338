"""FlowUnit: the base class of Python flow units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelbox.buffer import Buffer, BufferList
from modelbox.configuration import Configuration
from modelbox.context import DataContext
from modelbox.device import CPU, Device
from modelbox.session import SessionContext
from modelbox.status import Status


class ExternalData:
    """Data that a source unit feeds into a new session; made by FlowUnit.create_external_data()."""

    def create_buffer_list(self) -> BufferList:
        """An empty list to fill and send."""
        raise NotImplementedError

    def send(self, items: BufferList) -> Status:
        """Calls process() with these buffers as external(). STOP after close(), BUSY when too many wait."""
        raise NotImplementedError

    def get_session_context(self) -> SessionContext:
        """The context of the new session."""
        raise NotImplementedError

    def get_session_config(self) -> Configuration:
        """The configuration of the new session."""
        return self.get_session_context().get_session_config()

    def close(self) -> Status:
        """Nothing more will be sent: the session ends when all has gone through the graph."""
        raise NotImplementedError


class FlowUnit:
    """Derive from this, define process(), and name the class in the unit's TOML (`entry = "module@Class"`).

    process() gets a DataContext and returns Status or StatusCode. open() and close() frame the life of the
    unit, data_pre() and data_post() that of a stream.
    """

    _device: Device = CPU
    _external_data: Callable[[], ExternalData] | None = None  # set where the unit is a source

    def __init__(self) -> None:
        self._device = CPU

    def open(self, config: Configuration) -> Any:
        """Called once before the first data; anything but success stops the job with the status' message."""
        return Status()

    def close(self) -> Any:
        """Called once at the end."""
        return Status()

    def process(self, data_context: DataContext) -> Any:
        """Called with data; see the reference for how many buffers a call gets and must give."""
        raise NotImplementedError(f"{type(self).__name__} does not define process()")

    def data_pre(self, data_context: DataContext) -> Any:
        """A stream begins."""
        return Status()

    def data_post(self, data_context: DataContext) -> Any:
        """A stream has ended."""
        return Status()

    def data_group_pre(self, data_context: DataContext) -> Any:
        """Never called; exists so that units may call it."""
        return Status()

    def data_group_post(self, data_context: DataContext) -> Any:
        """Never called; exists so that units may call it."""
        return Status()

    def get_bind_device(self) -> Device:
        """The device to make buffers on."""
        return self._device

    def create_buffer(self, data: Any) -> Buffer:
        """A buffer on the bound device."""
        return Buffer(self._device, data)

    def create_external_data(self) -> ExternalData:
        """A new session. Raises RuntimeError in units that have inputs, and outside of a running graph."""
        if self._external_data is None:
            raise RuntimeError("create_external_data() is for units without inputs, in a running graph")
        return self._external_data()
