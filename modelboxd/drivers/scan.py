"""Scanning for native units: files found, probed in a separate process, results remembered by path, size, time."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modelbox.errors import DriverError
from modelbox.spec import FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec

log = logging.getLogger(__name__)

PATTERNS = ("libmodelbox-unit-*.so", "modelbox_*.so")
STREAM, ELEMENTWISE, SEES_ERRORS = 1, 2, 4
CACHE_FORMAT = 1


def find_files(places: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Libraries and TOML files below the places (directories or single files), each once, in order."""
    libraries: dict[Path, None] = {}
    tomls: dict[Path, None] = {}
    for place in places:
        files = [place] if place.is_file() else sorted(_walk(place))
        for path in files:
            if path.suffix == ".toml":
                tomls[path] = None
            elif any(path.match(pattern) for pattern in PATTERNS):
                libraries[path] = None
    return list(libraries), list(tomls)


def _walk(place: Path) -> Iterable[Path]:
    for directory, names, files in os.walk(place):
        names[:] = [name for name in names if not name.startswith((".", "__"))]
        for name in files:
            if name.endswith((".toml", ".so")):
                yield Path(directory) / name


class LibraryScan:
    """Descriptions of libraries, with a cache file that only this user can write."""

    def __init__(self, cache_file: Path | None, timeout_s: float, python: str = sys.executable) -> None:
        self._cache_file = cache_file
        self._timeout_s = timeout_s
        self._python = python

    def scan(self, paths: Sequence[Path]) -> tuple[list[UnitSpec], list[DriverError]]:
        """Units of all libraries, and what is wrong with the others."""
        cache = self._load()
        found: dict[str, dict[str, Any]] = {}
        keys = {str(path): _key(path) for path in paths}
        fresh: list[str] = []
        for path, key in keys.items():
            entry = cache.get(path)
            if entry is not None and entry.get("key") == key:
                found[path] = entry["report"]
            else:
                fresh.append(path)
        if fresh:
            for path, report in self._probe(fresh).items():
                found[path] = report
                cache[path] = {"key": keys[path], "report": report}
        known = {path: entry for path, entry in cache.items() if path in keys or os.path.exists(path)}
        if fresh or len(known) != len(cache):
            self._store({path: entry for path, entry in known.items() if not entry["report"].get("transient")})
        units: list[UnitSpec] = []
        problems: list[DriverError] = []
        for path in keys:
            report = found[path]
            if "error" in report:
                problems.append(DriverError(report["error"]))
            units += [_spec(path, unit) for unit in report.get("units", [])]
        return units, problems

    # ---- probing ------------------------------------------------------------------------------------------

    def _probe(self, paths: list[str]) -> dict[str, dict[str, Any]]:
        reports: dict[str, dict[str, Any]] = {}
        left = list(paths)
        while left:
            done, blame = self._probe_some(left)
            reports.update(done)
            left = [path for path in left if path not in reports]
            if blame is not None:
                path, reason, transient = blame
                reports[path] = {"path": path, "error": f"{path}: {reason}", "transient": transient}
                left.remove(path)
        return reports

    def _probe_some(self, paths: list[str]) -> tuple[dict[str, dict[str, Any]], tuple[str, str, bool] | None]:
        """Reports of one probing process, and the library that ended it, with the reason."""
        read, write = os.pipe2(os.O_CLOEXEC)
        env = dict(os.environ)
        top = str(Path(__file__).resolve().parents[2])
        env["PYTHONPATH"] = os.pathsep.join(part for part in (top, env.get("PYTHONPATH", "")) if part)
        with tempfile.TemporaryFile("w+") as orders:
            orders.write("\n".join(paths) + "\n")
            orders.seek(0)
            process = subprocess.Popen(
                [self._python, "-m", "modelboxd.drivers.probe", str(write)],
                stdin=orders,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[write],
                env=env,
                cwd="/",
            )
        os.close(write)
        try:
            return self._listen(process, read)
        finally:
            os.close(read)
            if process.poll() is None:
                process.kill()
            process.wait()

    def _listen(
        self, process: subprocess.Popen[bytes], read: int
    ) -> tuple[dict[str, dict[str, Any]], tuple[str, str, bool] | None]:
        reports: dict[str, dict[str, Any]] = {}
        current: str | None = None
        data = b""
        deadline = time.monotonic() + self._timeout_s + 20.0  # the interpreter has to start first
        while True:
            ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                process.kill()
                process.wait()
                if current is None:
                    raise DriverError(f"the probing process did not start ({self._python})")
                return reports, (current, f"did not answer within {self._timeout_s:g} s when it was loaded", True)
            some = os.read(read, 65536)
            if not some:
                break
            data += some
            *lines, data = data.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "start" in message:
                    current = message["start"]
                    deadline = time.monotonic() + self._timeout_s
                else:
                    reports[message["path"]] = message
                    current = None
        code = process.wait()
        if current is None:
            if not reports and code:
                raise DriverError(f"the probing process failed with exit code {code} ({self._python})")
            return reports, None
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return reports, (current, f"crashed with {name} when it was loaded", False)
        return reports, (current, f"ended the process with exit code {code} when it was loaded", False)

    # ---- the cache -------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, dict[str, Any]]:
        path = self._cache_file
        if path is None or not path.exists():
            return {}
        try:
            if path.stat().st_uid != os.geteuid():
                log.warning("%s belongs to somebody else and is not used", path)
                return {}
            data = json.loads(path.read_text())
            entries = data["libraries"] if data["format"] == CACHE_FORMAT else {}
            return entries if isinstance(entries, dict) else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged and made anew: %s", path, error)
            return {}

    def _store(self, entries: dict[str, dict[str, Any]]) -> None:
        path = self._cache_file
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_suffix(f".{os.getpid()}.new")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump({"format": CACHE_FORMAT, "libraries": entries}, file)
            os.replace(temporary, path)
        except OSError as error:
            log.warning("the driver scan cannot be remembered: %s", error)


def _key(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _spec(path: str, unit: dict[str, Any]) -> UnitSpec:
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
        flow_type=FlowType.STREAM if unit["flags"] & STREAM else FlowType.NORMAL,
        exception_visible=bool(unit["flags"] & SEES_ERRORS),
        elementwise=bool(unit["flags"] & ELEMENTWISE),
        default_batch_size=unit["default_batch_size"],
        max_batch_size=unit["max_batch_size"],
    )
