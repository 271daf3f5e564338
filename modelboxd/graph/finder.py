"""Which unit a node means: a look into the driver registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from modelbox.errors import ModelBoxError
from modelbox.spec import UnitSpec
from modelboxd.graph.model import Attr
from modelboxd.graph.types import TYPES, TypeTree

ALIASES = {
    "httpserver_sync_receive_v2": "httpserver_sync_receive",
    "httpserver_sync_reply_v2": "httpserver_sync_reply",
}


class RegistryLike(Protocol):
    """The driver registry, as far as graphs need it."""

    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        """The unit; raises UnitNotFoundError."""
        ...

    def extended(self, dirs: Sequence[str]) -> Self:
        """The same with more directories, which count first."""
        ...


class Finder:
    """Units by the attributes of nodes; each is looked up once."""

    def __init__(self, registry: RegistryLike) -> None:
        self._registry = registry
        self._found: dict[tuple[str, str, str], UnitSpec | ModelBoxError] = {}
        self._extended: dict[tuple[str, ...], Finder] = {}

    @property
    def types(self) -> TypeTree:
        """The tree of port types; a registry that knows none of its own has the built-in ones."""
        types = getattr(self._registry, "types", TYPES)
        assert isinstance(types, TypeTree)
        return types

    def find(self, attrs: dict[str, Attr]) -> UnitSpec:
        """The unit of a node with these attributes. Raises the registry's UnitNotFoundError."""
        name, device, version = (attrs[key].text if key in attrs else "" for key in ("flowunit", "device", "version"))
        key = (ALIASES.get(name, name), device, version)
        if key not in self._found:
            try:
                self._found[key] = self._registry.find(*key)
            except ModelBoxError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, ModelBoxError):
            raise found
        return found

    def unit(self, attrs: dict[str, Attr]) -> UnitSpec | None:
        """The same, None when there is none."""
        if not ("flowunit" in attrs and attrs["flowunit"].text):
            return None
        try:
            return self.find(attrs)
        except ModelBoxError:
            return None

    def extended(self, dirs: Sequence[str]) -> Finder:
        """The same with more directories, which count first."""
        key = tuple(dirs)
        if not key:
            return self
        if key not in self._extended:
            self._extended[key] = Finder(self._registry.extended(dirs))
        return self._extended[key]
