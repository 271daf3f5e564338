"""The tree of port types. A parent may feed a child and a child a parent; siblings may not."""

from __future__ import annotations

import re
from collections.abc import Iterable

ROOT = "raw"


def is_type_name(text: str) -> bool:
    """Whether a type may be called so."""
    return re.fullmatch(r"[A-Za-z_][\w.-]*", text) is not None


class TypeTree:
    """Type names under "raw". Unknown names count as raw, so that they fit everything."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        for name, parent in (("buff", ROOT), ("string", "buff"), ("tensor", ROOT), ("image", "tensor")):
            self.add(name, parent)

    def add(self, name: str, parent: str) -> None:
        """Registers a type below an existing one. Raises ValueError for a second parent or an unknown one."""
        if parent != ROOT and parent not in self._parents:
            raise ValueError(f"type '{parent}', which '{name}' is to be below, is not known")
        if name == ROOT:
            raise ValueError(f"'{ROOT}' is the root of all types")
        if self._parents.setdefault(name, parent) != parent:
            raise ValueError(f"type '{name}' is below '{self._parents[name]}' already")

    def __contains__(self, name: str) -> bool:
        return name == ROOT or name in self._parents

    def add_all(self, types: Iterable[tuple[str, str, str]]) -> list[str]:
        """Registers (name, parent, who says so), in any order. Returns why some cannot be."""
        problems: list[str] = []
        waiting = list(types)
        while waiting:
            ready = [item for item in waiting if item[1] in self]
            waiting = [item for item in waiting if item[1] not in self]
            if not ready:
                break
            for name, parent, source in ready:
                try:
                    self.add(name, parent)
                except ValueError as error:
                    problems.append(f"{source}: {error}")
        for name, parent, source in waiting:
            problems.append(f"{source}: type '{parent}', which '{name}' is to be below, is not known")
        return problems

    def line(self, name: str) -> list[str]:
        """The type and its ancestors up to the root."""
        line = [name]
        while line[-1] in self._parents:
            line.append(self._parents[line[-1]])
        return line if line[-1] == ROOT else [ROOT]

    def fit(self, source: str, target: str) -> bool:
        """The weak check of building: one is an ancestor of the other, or they are the same."""
        up, down = self.line(source), self.line(target)
        return up[0] in down or down[0] in up


TYPES = TypeTree()
