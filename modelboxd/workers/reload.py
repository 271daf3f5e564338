"""Which files of a unit have changed: `reload = true`, for development."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

PERIOD_S = 1.0
SETTLE_S = 0.1  # an editor may write in several steps: files are told when they have not changed for so long
SUFFIXES = (".py", ".toml")
State = tuple[int, int, int]  # time of the last change in ns, size, inode


def snapshot(folder: str) -> dict[str, State]:
    """The files of a folder and those below it that may be a unit's code; not those of virtual environments."""
    return dict(_states(folder))


def _states(folder: str) -> Iterator[tuple[str, State]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it is gone, or is not ours to read: then it has no files
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.name.endswith(SUFFIXES) and entry.is_file():
                status = entry.stat()
                yield entry.path, (status.st_mtime_ns, status.st_size, status.st_ino)
            elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__")):
                yield from _states(entry.path)
        except OSError:  # removed meanwhile
            continue


class Watcher:
    """Looks at the files of a folder once a second, on a thread of its own: file systems may be slow."""

    def __init__(self, folder: str, changed: Callable[[list[str]], None]) -> None:
        """`changed(files)` is called on the watcher's thread, with paths in order. What changes from now on counts."""
        self._folder = folder
        self._changed = changed
        self._over = threading.Event()
        self._files = snapshot(folder)
        threading.Thread(target=self._watch, name="mb-reload", daemon=True).start()

    def close(self) -> None:
        """No further calls begin. [any thread]"""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            files = snapshot(self._folder)
            while files != self._files:
                if self._over.wait(SETTLE_S):
                    return
                later = snapshot(self._folder)
                if later == files:
                    names = [name for name in {**self._files, **files} if self._files.get(name) != files.get(name)]
                    self._files = files
                    self._changed(sorted(names))
                files = later
