"""Scanning for native units: files found, probed in a separate process, results remembered by path, size, time.

What is remembered on disk are the libraries that can be used. A failure may be mended without touching the file (a
missing library gets installed), so it is only remembered in memory, for a minute: the graphs of one start do not
wait again for the same library that hangs.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from modelbox._core import LIBRARY
from modelbox.errors import DriverError
from modelbox.spec import FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec, one_role

log = logging.getLogger(__name__)

PATTERNS = ("libmodelbox-unit-*.so", "modelbox_*.so")
STREAM, ELEMENTWISE, SEES_ERRORS, CONDITION, EXPAND, COLLAPSE, COLLAPSE_ANY, LOOP = (1 << bit for bit in range(8))
CACHE_FORMAT = 3
FAILURE_KEEP_S = 60.0
START_S = 20.0  # what the probing process may take to start
End = Literal["ended", "hung", "unstarted"]


def find_files(places: Sequence[Path]) -> tuple[list[Path], list[Path], list[DriverError]]:
    """Libraries and TOML files below the places (directories or single files), each once, in order; and problems.

    Links to files are followed, links to directories are not.
    """
    libraries: dict[Path, None] = {}
    tomls: dict[Path, None] = {}
    problems: list[DriverError] = []
    for place in places:
        try:
            place.stat()
        except FileNotFoundError:
            problems.append(DriverError(f"driver directory {place} does not exist"))
            continue
        except OSError as error:
            problems.append(DriverError(f"driver directory {place} cannot be read: {error.strerror}"))
            continue
        files = sorted(_walk(place, problems)) if place.is_dir() else [place]
        for path in files:
            if path.suffix == ".toml":
                kind = tomls
            elif any(path.match(pattern) for pattern in PATTERNS):
                kind = libraries
            else:
                if path == place:
                    problems.append(DriverError(f"{path}: is no unit TOML, and not named {' or '.join(PATTERNS)}"))
                continue
            if os.path.isfile(path):
                kind[path] = None
            elif not os.path.exists(path):
                problems.append(DriverError(f"{path}: is a link to a file that does not exist"))
            else:
                problems.append(DriverError(f"{path}: is no regular file"))
    return list(libraries), list(tomls), problems


def _walk(place: Path, problems: list[DriverError]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(DriverError(f"driver directory {error.filename} cannot be read: {error.strerror}"))

    for directory, names, files in os.walk(place, onerror=unreadable):
        names[:] = [name for name in names if not name.startswith((".", "__"))]
        for name in files:
            if name.endswith((".toml", ".so")):
                yield Path(directory) / name


class LibraryScan:
    """Descriptions of libraries, with a cache file that only this user can write."""

    _failed: ClassVar[dict[str, tuple[list[int], dict[str, Any], float]]] = {}  # path -> key, report, when

    def __init__(self, cache_file: Path | None, timeout_s: float, python: str = sys.executable) -> None:
        self._cache_file = cache_file
        self._timeout_s = timeout_s
        self._python = python

    def scan(self, paths: Sequence[Path]) -> tuple[list[UnitSpec], list[DriverError]]:
        """Units of all libraries, and what is wrong with the others."""
        cache = self._load()
        found: dict[str, dict[str, Any]] = {}
        keys: dict[str, list[int]] = {}
        for path in map(str, paths):
            try:
                keys[path] = _key(path)
                reason = _unsafe(path)
            except OSError as error:  # gone meanwhile
                reason = f"cannot be read: {error.strerror}"
            report = {"error": f"{path}: {reason}"} if reason else self._remembered(path, keys[path], cache)
            if report is not None:
                found[path] = report
        fresh = [path for path in keys if path not in found]
        good = 0
        for path, report in self._probe(fresh).items():
            found[path] = report
            if "units" in report:
                cache[path] = {"key": keys[path], "report": report}
                good += 1
            else:
                cache.pop(path, None)
                self._failed[path] = (keys[path], report, time.monotonic())
        known = {path: entry for path, entry in cache.items() if path in keys or os.path.exists(path)}
        if good or len(known) != len(cache):
            self._store(known)
        units: list[UnitSpec] = []
        problems: list[DriverError] = []
        for path in map(str, paths):
            if "error" in found[path]:
                problems.append(DriverError(found[path]["error"]))
            else:
                units += _specs(path, found[path])
        return units, problems

    def _remembered(self, path: str, key: list[int], cache: dict[str, Any]) -> dict[str, Any] | None:
        failed = self._failed.get(path)
        if failed is not None and failed[0] == key and time.monotonic() - failed[2] < FAILURE_KEEP_S:
            return failed[1]
        entry = cache.get(path)
        if entry is None:
            return None
        try:
            report: dict[str, Any] = entry["report"]
            _specs(path, report)
            return report if entry["key"] == key else None
        except (KeyError, TypeError, ValueError, AttributeError):  # damaged
            return None

    # ---- probing ------------------------------------------------------------------------------------------

    def _probe(self, paths: list[str]) -> dict[str, dict[str, Any]]:
        reports: dict[str, dict[str, Any]] = {}
        left = list(paths)
        while left:
            done, reason, end = self._probe_some(left)
            reports.update(done)
            left = [path for path in left if path not in done]
            # Something that was loaded before may have crashed the process: then the next one begins with the suspect.
            guilty = left if end == "unstarted" else left[:1] if end == "hung" or not done else []
            reports.update({path: {"path": path, "error": f"{path}: {reason}"} for path in guilty})
            left = left[len(guilty) :]
        return reports

    def _probe_some(self, paths: list[str]) -> tuple[dict[str, dict[str, Any]], str, End]:
        """Reports of one probing process, why it went no further, and how it ended."""
        read, write = os.pipe2(os.O_CLOEXEC)
        env = dict(os.environ)
        top = str(Path(__file__).resolve().parents[2])
        env["PYTHONPATH"] = os.pathsep.join(part for part in (top, env.get("PYTHONPATH", "")) if part)
        with tempfile.TemporaryFile("w+") as orders, tempfile.TemporaryFile("w+", errors="replace") as said:
            json.dump(paths, orders)
            orders.seek(0)
            try:
                process = subprocess.Popen(
                    [self._python, "-m", "modelboxd.drivers.probe", str(write), str(os.getpid())],
                    stdin=orders,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=[write],
                    env=env,
                    cwd="/",
                )
            except OSError as error:
                os.close(read)
                return {}, f"cannot be probed: {self._python} cannot be started: {error.strerror}", "unstarted"
            finally:
                os.close(write)
            try:
                done, reason, end = self._listen(process, read)
            finally:
                os.close(read)
                process.kill()
                process.wait()
            said.seek(0)
            last = said.read().strip().split("\n")[-1]  # of the interpreter itself, before any library was loaded
            return done, f"{reason}: {last}" if last else reason, end

    def _listen(self, process: subprocess.Popen[bytes], read: int) -> tuple[dict[str, dict[str, Any]], str, End]:
        reports: dict[str, dict[str, Any]] = {}
        started = False
        data = b""
        deadline = time.monotonic() + START_S
        poll = select.poll()  # select() takes no descriptor beyond 1023
        poll.register(read, select.POLLIN)
        while True:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                if not started:
                    return reports, f"cannot be probed: {self._python} did not start in {START_S:g} s", "unstarted"
                return reports, self._too_slow(), "hung"
            some = os.read(read, 65536)
            if not some:
                break
            data += some
            *lines, data = data.split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:  # a library that writes to descriptors that are not its own
                    continue
                if "start" in message:
                    started = True
                    deadline = time.monotonic() + self._timeout_s
                elif "done" in message:
                    return reports, "gave no answer when it was loaded", "ended"
                else:
                    reports[message["path"]] = message
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # it has closed the descriptor, and goes on
            return reports, self._too_slow(), "hung"
        return reports, _ending(code, started), "ended" if started else "unstarted"

    def _too_slow(self) -> str:
        return f"did not answer within {self._timeout_s:g} s when it was loaded"

    # ---- the cache -------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, dict[str, Any]]:
        path = self._cache_file
        if path is None:
            return {}
        try:
            for place in (path.parent, path):
                status = place.lstat()
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    log.warning("%s can be written by others, so the driver scan is not remembered", place)
                    self._cache_file = None
                    return {}
            data = json.loads(path.read_text())
            entries = data["libraries"] if data["format"] == CACHE_FORMAT and data["core"] == _core() else {}
            return entries if isinstance(entries, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s is damaged and made anew: %s", path, error)
            return {}

    def _store(self, entries: dict[str, dict[str, Any]]) -> None:
        path = self._cache_file
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd, temporary = tempfile.mkstemp(".new", path.name, path.parent)
            try:
                with os.fdopen(fd, "w") as file:
                    json.dump({"format": CACHE_FORMAT, "core": _core(), "libraries": entries}, file)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            log.warning("the driver scan cannot be remembered: %s", error)


def _ending(code: int, started: bool) -> str:
    if code >= 0:
        how = f"ended the process with exit code {code}"
    else:
        how = f"crashed with {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
    return f"{how} when it was loaded" if started else f"cannot be probed: the probing process {how}"


def _key(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _core() -> list[int]:
    """Tells builds of the core apart: another one may describe, or refuse, other libraries."""
    return _key(str(LIBRARY))


def _unsafe(path: str) -> str:
    """Why root must not load a library: who could change it would become root. "" when all is well."""
    if os.geteuid() != 0:
        return ""
    folder = os.path.dirname(os.path.realpath(path))
    if os.stat(path).st_mode & stat.S_IWOTH:
        return f"everybody can change it, and this process is root; chmod o-w {path}"
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"everybody can replace it, and this process is root; chmod o-w {folder}"
    return ""


def _specs(path: str, report: dict[str, Any]) -> list[UnitSpec]:
    types = tuple((name, parent) for name, parent in report["types"])
    return [_spec(path, unit, types) for unit in report["units"]]


def _spec(path: str, unit: dict[str, Any], types: tuple[tuple[str, str], ...]) -> UnitSpec:
    flags = unit["flags"]
    expand, collapse, condition, loop = one_role(
        *(bool(flags & flag) for flag in (EXPAND, COLLAPSE, CONDITION, LOOP)),
    )
    stream = flags & STREAM and not (condition or loop)
    return UnitSpec(
        name=unit["name"],
        device=unit["device"],
        version=unit["version"],
        description=unit["description"],
        kind=UnitKind.NATIVE,
        path=path,
        inputs=tuple(PortSpec(**port) for port in unit["inputs"]),
        outputs=tuple(PortSpec(**port) for port in unit["outputs"]),
        options=tuple(OptionSpec(**{**option, "values": tuple(option["values"])}) for option in unit["options"]),
        group=unit["group"],
        flow_type=FlowType.STREAM if stream else FlowType.NORMAL,
        condition=condition,
        expand=expand,
        collapse=collapse,
        loop=loop,
        collapse_all=not flags & COLLAPSE_ANY,
        exception_visible=bool(flags & SEES_ERRORS),
        types=types,
        elementwise=bool(flags & ELEMENTWISE),
        default_batch_size=unit["default_batch_size"],
        max_batch_size=unit["max_batch_size"],
    )
