"""Values that a unit keeps under a key."""

from __future__ import annotations

from typing import Any


class Private:
    """Base of everything with set_private() and its typed sisters."""

    __slots__ = ("_private",)

    def __init__(self) -> None:
        self._private: dict[str, Any] = {}

    def set_private(self, key: str, value: Any) -> None:
        self._private[key] = value

    def set_private_int(self, key: str, value: int) -> None:
        self.set_private(key, int(value))

    def set_private_string(self, key: str, value: str) -> None:
        self.set_private(key, str(value))

    def get_private_int(self, key: str) -> int:
        """Raises RuntimeError for a missing key."""
        return int(self._typed(key, int))

    def get_private_string(self, key: str) -> str:
        """Raises RuntimeError for a missing key."""
        return str(self._typed(key, str))

    def _find(self, key: str) -> Any:
        """The value, None when it is missing."""
        return self._private.get(key)

    def _typed(self, key: str, kind: type) -> Any:
        value = self._find(key)
        if not isinstance(value, kind):
            raise RuntimeError("invalid key.")
        return value
