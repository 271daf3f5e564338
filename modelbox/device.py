"""Where memory lives."""

from __future__ import annotations


class Device:
    """A device by type ("cpu", "cuda", ...) and number, as units get it from get_bind_device()."""

    __slots__ = ("_id", "_type")

    def __init__(self, device_type: str = "cpu", device_id: str = "0") -> None:
        self._type = device_type
        self._id = device_id

    def get_device_id(self) -> str:
        """The number, as text."""
        return self._id

    def get_type(self) -> str:
        """The type, e.g. "cpu"."""
        return self._type

    def get_device_desc(self) -> str:
        """A line for people."""
        return f"{self._type}:{self._id}"

    def __repr__(self) -> str:
        return f"Device({self._type!r}, {self._id!r})"


CPU = Device()
