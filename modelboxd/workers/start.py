"""Starts the python-master in an interpreter of a unit's own: `python start.py FOLDER MASTER'S ARGUMENTS`.

The interpreter has its own packages; of the server's it gets modelbox and modelboxd, which lie in FOLDER, and nothing
else that may lie there. Runs in CPython from 3.9 on, as all that workers import.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

OURS = ("modelbox", "modelboxd")


class Finder:
    """Finds our packages in one folder."""

    def __init__(self, folder: str) -> None:
        self._path = [folder]

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self._path, target) if name in OURS else None


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != here]
    finder: Any = Finder(sys.argv.pop(1))
    sys.meta_path.insert(0, finder)
    from modelboxd.workers import master

    master.main()


if __name__ == "__main__":
    main()
