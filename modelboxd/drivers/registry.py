"""The driver registry: every flow unit that can be used here, and what is wrong with those that cannot."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from modelbox.errors import DriverError, UnitNotFoundError
from modelbox.spec import UnitKind, UnitSpec
from modelboxd.drivers.scan import LibraryScan, find_files
from modelboxd.drivers.unit_toml import read_unit
from modelboxd.graph.types import TypeTree

log = logging.getLogger(__name__)

DEVICES = ("cuda", "ascend", "rockchip", "cpu")  # best first, for nodes that name none
UNUSABLE_TOLD = 3  # in the message about a unit that is not there


class HiddenUnitError(DriverError):
    """A unit is there a second time; the first one counts."""


class TypeProblem(DriverError):
    """A port type cannot be added; the unit can be used all the same."""


class Registry:
    """Units by name, device and version, from the given places in order; the first of equal ones counts."""

    def __init__(
        self,
        places: Sequence[Path],
        *,
        builtin_dir: Path,
        cache_file: Path | None,
        probe_timeout_s: float = 10.0,
    ) -> None:
        self.places = list(places)
        self.units: list[UnitSpec] = []
        self.problems: list[DriverError] = []
        self.types = TypeTree()
        self._builtin_dir = builtin_dir
        self._cache_file = cache_file
        self._probe_timeout_s = probe_timeout_s
        self._scan = LibraryScan(cache_file, probe_timeout_s)
        self._by_name: dict[str, list[UnitSpec]] = {}

    def scan(self) -> None:
        """Reads all places. What cannot be used is in `problems`; nothing here raises for a bad driver."""
        libraries, tomls, missing = find_files(self.places)
        self.problems += missing
        units, problems = self._scan.scan(libraries)
        self.problems += problems
        for path in tomls:
            try:
                unit = read_unit(path, builtin_dir=self._builtin_dir)
            except DriverError as error:
                self.problems.append(error)
            else:
                if unit is not None:
                    units.append(unit)
        # Graphs last: one that is called like a flow unit does not stand in its way.
        for unit in sorted(units, key=lambda unit: (unit.kind is UnitKind.GRAPH, self._place_of(Path(unit.path)))):
            self._add(unit)
        added = {(name, parent, unit.path): None for unit in self.units for name, parent in unit.types}
        self.problems += [TypeProblem(text) for text in self.types.add_all(added)]
        for problem in self.problems:
            log.warning("%s", problem)
        log.info("%d flow units in %s", len(self.units), ", ".join(str(place) for place in self.places))

    def extended(self, dirs: Sequence[str]) -> Registry:
        """A registry with more places, which count first; this one when it has them all."""
        fresh = [path for path in map(Path, dirs) if path not in self.places]
        if not fresh:
            return self
        registry = Registry(
            [*fresh, *self.places],
            builtin_dir=self._builtin_dir,
            cache_file=self._cache_file,
            probe_timeout_s=self._probe_timeout_s,
        )
        registry.scan()
        return registry

    def _place_of(self, path: Path) -> int:
        return next(number for number, place in enumerate(self.places) if place == path or place in path.parents)

    def _add(self, unit: UnitSpec) -> None:
        same = self._by_name.setdefault(unit.name, [])
        for other in same:
            if (other.device, other.version) == (unit.device, unit.version) or unit.kind is UnitKind.GRAPH:
                if os.path.realpath(other.path) != os.path.realpath(unit.path):
                    text = (
                        f"unit '{unit.name}' {unit.version} for {unit.device} in {unit.path} is hidden by {other.path}"
                    )
                    self.problems.append(HiddenUnitError(text))
                return
        same.append(unit)
        self.units.append(unit)

    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        """The unit for a node. `device`: "" = the best present, a type, or a list such as "cuda:0,1;cpu" of which
        the first present counts; `version`: exact, else the highest. Raises UnitNotFoundError."""
        same = self._by_name.get(name, [])
        wanted = [part.split(":")[0].strip() for part in device.split(";") if part.strip() not in ("", "auto")]
        for kind in wanted or DEVICES + tuple(sorted({unit.device for unit in same} - set(DEVICES))):
            fitting = [unit for unit in same if unit.device == kind and version in ("", unit.version)]
            if fitting:
                return max(fitting, key=lambda unit: _version(unit.version))
        graph = next((unit for unit in same if unit.kind is UnitKind.GRAPH), None)
        if graph is not None and version in ("", graph.version):
            return graph  # it runs on whatever its nodes run on
        raise self._not_found(name, device, version, same)

    def _not_found(self, name: str, device: str, version: str, same: list[UnitSpec]) -> UnitNotFoundError:
        kind = f"type: {device or 'any'}, name: {name}" + (f", version: {version}" if version else "")
        message = f"create flowunit '{name}' failed. can not find flowunit [{kind}]"
        causes = [str(problem) for problem in self.problems if _concerns(problem, name)]
        if causes:
            message += f": {'; '.join(causes)}"
        if same:
            there = ", ".join(sorted(f"{unit.device} {unit.version}" for unit in same))
            return UnitNotFoundError(message, hint=f"it exists for: {there}; check 'device'")
        if causes:
            return UnitNotFoundError(message)
        unusable = [str(problem) for problem in self.problems if _may_hide_units(problem)]
        if unusable:
            message += f"; what cannot be used: {'; '.join(unusable[:UNUSABLE_TOLD])}"
            message += f"; and {len(unusable) - UNUSABLE_TOLD} more" * (len(unusable) > UNUSABLE_TOLD)
        near = difflib.get_close_matches(name, self._by_name, 3)
        searched = ", ".join(str(place) for place in self.places) or "nowhere"
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return UnitNotFoundError(message, hint=f"{hint}searched: {searched}; check driver.dir")


def _concerns(problem: DriverError, name: str) -> bool:
    """Whether a file that cannot be used seems to hold the unit: by its path, or the name in a TOML."""
    if isinstance(problem, (HiddenUnitError, TypeProblem)):
        return False
    file = problem.where.file if problem.where else str(problem).split(": ")[0]
    if f"/{name}." in file or f"/{name}/" in file or f"-{name}." in file or f"modelbox_{name}." in file:
        return True
    if not file.endswith(".toml"):
        return False
    try:
        text = Path(file).read_text(errors="replace")
    except OSError:
        return False
    return re.search(rf"^\s*name\s*=\s*[\"']?{re.escape(name)}[\"']?\s*(#|$)", text, re.MULTILINE) is not None


def _may_hide_units(problem: DriverError) -> bool:
    """Whether nobody knows which units there would be: a library, a directory."""
    if isinstance(problem, (HiddenUnitError, TypeProblem)):
        return False
    return problem.where is None and not str(problem).split(": ")[0].endswith(".toml")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
