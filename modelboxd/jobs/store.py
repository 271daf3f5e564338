"""The state directory: jobs that were made over the API, one file each, whole or not there.

A file is written beside its place, flushed to the disk, and renamed into it; then the folder is flushed. Whatever is
killed at whatever moment leaves the old file, the new one, or a temporary one, which the next start removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from modelbox.errors import ConfigError, ModelBoxError
from modelboxd.jobs.model import GraphText, check_id

log = logging.getLogger(__name__)

VERSION = 1
SUFFIX, TEMPORARY, DAMAGED = ".json", ".tmp", ".damaged"


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of a job. `created` is seconds since 1970."""

    id: str
    graph: str
    format: str
    stopped: bool = False  # somebody stopped it: it does not start by itself
    created: float = 0.0

    @property
    def text(self) -> GraphText:
        return GraphText(self.graph, self.format)


class JobStore:
    """One state directory, used by one server at a time."""

    def __init__(self, folder: Path) -> None:
        """Makes the directory where it is missing, and locks it. Raises ConfigError."""
        self.folder = folder / "jobs"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "server.state_dir says where jobs are kept"
            raise ConfigError(f"state directory {folder} cannot be used: {error.strerror}", hint=hint) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            hint = "one directory per server: server.state_dir"
            raise ConfigError(f"state directory {folder} is used by another server", hint=hint) from None

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._lock)

    def load(self) -> list[Stored]:
        """All jobs, by id. A file that cannot be read is set aside and told."""
        for rest in self.folder.glob(f"*{TEMPORARY}"):
            rest.unlink(missing_ok=True)
        return [stored for path in sorted(self.folder.glob(f"*{SUFFIX}")) for stored in self._read(path)]

    def _read(self, path: Path) -> Iterator[Stored]:
        try:
            data = json.loads(path.read_bytes())
            if data.pop("version", None) != VERSION:
                raise ValueError("written by another version")
            stored = Stored(**data)
            if check_id(stored.id) + SUFFIX != path.name or not isinstance(stored.graph, str):
                raise ValueError("not what its name says")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.error("job file %s cannot be read and is set aside: %s", path, error)
            with contextlib.suppress(OSError):  # a read-only directory: it is told again at the next start
                path.rename(path.with_name(path.name + DAMAGED))
            return
        yield stored

    def write(self, stored: Stored) -> None:
        """Keeps a job, in place of an earlier one of its id. Raises ModelBoxError: the disk is full, ..."""
        path = self._path(stored.id)
        beside = path.with_name(path.name + TEMPORARY)
        data = json.dumps({"version": VERSION, **asdict(stored)}).encode()
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
            self._flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one that tells
                beside.unlink(missing_ok=True)
            raise ModelBoxError(f"job '{stored.id}' cannot be kept in {self.folder}: {error.strerror}") from None

    def remove(self, job_id: str) -> None:
        """Forgets a job; nothing happens where there is none. Raises ModelBoxError."""
        try:
            self._path(job_id).unlink(missing_ok=True)
            self._flush()
        except OSError as error:
            raise ModelBoxError(f"job '{job_id}' cannot be removed from {self.folder}: {error.strerror}") from None

    def _path(self, job_id: str) -> Path:
        return self.folder / (check_id(job_id) + SUFFIX)

    def _flush(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
