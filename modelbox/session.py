"""SessionContext: what belongs to one session, seen alike by all its nodes, in whatever process they run.

A context collects what a unit changes; the worker sends that along with the results of the call
(modelboxd/workers/sharing.py), before any later call of the session is made. Values arrive packed and are rebuilt when
they are asked for.
"""

from __future__ import annotations

import hashlib
from typing import Any

from modelbox import meta
from modelbox.configuration import Configuration
from modelbox.errors import said
from modelbox.private import Private

_FIXED = frozenset((str, int, float, bool, bytes, complex, type(None)))  # cannot be changed in place
KEY_LIMIT = 4096  # characters of a key
_NEVER = b""  # in place of a digest: the value stays in this process


class Packed:
    """A value on its way between processes, or why it cannot leave its own (`failure`). `node`: who has set it."""

    __slots__ = ("data", "failure", "node")

    def __init__(self, data: bytes, failure: str, node: str) -> None:
        self.data = data
        self.failure = failure
        self.node = node


class _SessionConfig(Configuration):
    """The session's configuration; what is set here goes to the other nodes, too."""

    def __init__(self, changed: dict[str, None]) -> None:
        super().__init__()
        self._changed = changed

    def set(self, key: str, value: Any) -> None:
        _check_key(key)
        super().set(key, value)
        self._changed[key] = None


class SessionContext(Private):
    """Private values and configuration of a session, and its id.

    A value that one call has set is seen by all calls that what it gave leads to. Values are anything that pickle can
    take; one that it cannot take stays in its process, and other processes get an error that says so. Objects that
    are changed in place after get_private() or set_private() in the same call are sent again. Where nodes that do not
    follow each other set one key, the last one wins.
    """

    __slots__ = (
        "_changed",
        "_config",
        "_config_changed",
        "_digests",
        "_id",
        "_packed",
        "_touched",
        "_unheard",
        "_writes",
    )

    def __init__(self, session_id: str) -> None:
        super().__init__()
        self._id = session_id
        self._config_changed: dict[str, None] = {}
        self._config = _SessionConfig(self._config_changed)
        self._changed: dict[str, None] = {}  # set since the last take_changes(); a dict, since threads may set
        self._touched: dict[str, None] = {}  # given out, and perhaps changed in place
        self._packed: dict[str, Packed] = {}  # from other processes, not asked for yet
        self._digests: dict[str, bytes] = {}  # of values that can be changed in place, as last sent
        self._writes = 0  # messages with changes, so far
        self._unheard: dict[str, int] = {}  # key -> the write that the daemon may not have seen yet

    # ---- for units ---------------------------------------------------------------------------------------

    def set_private(self, key: str, value: Any) -> None:
        """Sets a value for all nodes of the session. Raises TypeError for a key that is no str, ValueError for one of
        more than 4096 characters or one that is no text."""
        _check_key(key)
        self._private[key] = value
        self._packed.pop(key, None)
        self._changed[key] = None

    def get_private(self, key: str) -> Any:
        """Raises ValueError for a missing key, RuntimeError for a value that cannot come into this process."""
        found = self._find(key)
        if found is None and key not in self._private:
            raise ValueError(f"can not find session private: {key}")
        return found

    def get_session_config(self) -> Configuration:
        """The session's configuration: the same for all its nodes."""
        return self._config

    def get_session_id(self) -> str:
        return self._id

    def _find(self, key: str) -> Any:
        packed = self._packed.pop(key, None)
        if packed is not None:
            try:
                self._private[key] = value = self._rebuild(key, packed)
            except RuntimeError:
                self._packed.setdefault(key, packed)
                raise
            if value.__class__ not in _FIXED:
                self._digests[key] = _digest(meta.pack_object(value))
        value = self._private.get(key)
        if value.__class__ not in _FIXED and key not in self._changed and self._digests.get(key) != _NEVER:
            self._touched[key] = None
        return value

    def _rebuild(self, key: str, packed: Packed) -> Any:
        about = f"the session's value '{key}', which node '{packed.node}' has set,"
        if packed.failure:
            raise RuntimeError(f"{about} cannot leave its process: {packed.failure}")
        try:
            return meta.unpack_object(packed.data, True)
        except Exception as error:  # pickle runs the value's own code
            raise RuntimeError(f"{about} cannot be rebuilt here: {said(error)}") from error

    # ---- for the worker ------------------------------------------------------------------------------------

    def take_changes(self, node: str) -> dict[tuple[str, bool], Packed]:
        """What has changed since the last time, by key and whether it is configuration."""
        if not (self._changed or self._touched or self._config_changed):
            return {}
        changes: dict[tuple[str, bool], Packed] = {}
        while self._changed:  # piece by piece, since other threads may go on setting
            key, _ = self._changed.popitem()
            self._touched.pop(key, None)
            changes[key, False] = self._pack(key, node)
        while self._touched:
            key, _ = self._touched.popitem()
            before = self._digests.get(key)
            packed = self._pack(key, node)
            if self._digests.get(key) != before:
                changes[key, False] = packed
        while self._config_changed:
            key, _ = self._config_changed.popitem()
            changes[key, True] = Packed(self._config.get_string(key).encode("utf-8", "surrogatepass"), "", node)
        if changes:
            self._writes += 1
            self._unheard.update((key, self._writes) for key, is_config in changes if not is_config)
        return changes

    def _pack(self, key: str, node: str) -> Packed:
        value = self._private[key]
        try:
            data = meta.pack_object(value)
        except BaseException as error:  # pickle runs the value's own code, outside of the call
            self._digests[key] = _NEVER
            return Packed(b"", said(error).replace("\n", " "), node)
        if value.__class__ in _FIXED:
            self._digests.pop(key, None)
        else:
            self._digests[key] = _digest(data)
        return Packed(data, "", node)

    @property
    def writes(self) -> int:
        """How many times take_changes() gave something."""
        return self._writes

    def heard(self, writes: int) -> None:
        """The daemon had seen so many of our writes when it sent what receive() gets next."""
        for key in [key for key, write in self._unheard.items() if write <= writes]:
            del self._unheard[key]

    def receive(self, key: str, is_config: bool, packed: Packed) -> None:
        """A value from another process. One that we have set later, as the daemon sees it, stays."""
        if is_config:
            Configuration.set(self._config, key, packed.data.decode("utf-8", "surrogatepass"))
        elif key not in self._unheard and key not in self._changed:
            self._packed[key] = packed
            self._private.pop(key, None)
            self._touched.pop(key, None)


def _check_key(key: str) -> None:
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}")
    if len(key) > KEY_LIMIT:
        raise ValueError(f"a key can have {KEY_LIMIT} characters, not {len(key)}: {key[:20]}...")
    key.encode("utf-8", "surrogateescape")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
