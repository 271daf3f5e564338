"""Threads of native libraries in a worker: as many as its share of the CPUs, also where no variable says so.

Most libraries read OMP_NUM_THREADS and its like when they are loaded. OpenBLAS came with numpy before the fork, and is
told here. OpenCV, torch (between operations) and onnxruntime are told when the unit imports them; nothing is imported
for that. Runs in CPython from 3.9 on.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from typing import Any

_OPENBLAS = ("openblas_set_num_threads", "openblas_set_num_threads64_", "scipy_openblas_set_num_threads64_")


def limit() -> None:
    """Sets what is loaded already, and waits for the others."""
    set_openblas(_number("OPENBLAS_NUM_THREADS"))
    sys.meta_path.insert(0, _Waiting())


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else 0


def set_openblas(count: int) -> None:
    """Sets the threads of every OpenBLAS that is loaded; 0 = leaves them."""
    if not count:
        return
    with suppress(OSError), open("/proc/self/maps") as maps:  # a sandbox may have no /proc
        paths = {line.split(None, 5)[5].strip() for line in maps if "openblas" in line}
        for path in paths:
            library = ctypes.CDLL(path)
            for name in _OPENBLAS:
                if hasattr(library, name):
                    getattr(library, name)(ctypes.c_int(count))


def _opencv(module: Any) -> None:
    count = _number("OPENCV_FOR_THREADS_NUM")
    if count:
        module.setNumThreads(count)


def _torch(module: Any) -> None:
    count = _number("OMP_NUM_THREADS")
    if count:
        module.set_num_threads(count)
        module.set_num_interop_threads(count)


def _onnxruntime(module: Any) -> None:
    """There is no variable and no setting for all sessions: a session whose options leave the number open (0: as many
    as there are cores, whatever the cgroup allows) gets the share."""
    count = _number("OMP_NUM_THREADS")
    session = getattr(module, "InferenceSession", None)
    if not count or session is None:
        return
    original = session.__init__

    def init(self: Any, model: Any, sess_options: Any = None, *rest: Any, **more: Any) -> None:
        options = module.SessionOptions() if sess_options is None else sess_options
        if not options.intra_op_num_threads:
            options.intra_op_num_threads = count
        original(self, model, options, *rest, **more)

    session.__init__ = init


_AFTER: dict[str, Callable[[Any], None]] = {"cv2": _opencv, "torch": _torch, "onnxruntime": _onnxruntime}


class _Waiting:
    """A finder that finds nothing itself: it has the right module loaded and then set."""

    def __init__(self) -> None:
        self._waiting = dict(_AFTER)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        after = self._waiting.pop(name, None)
        if after is None:
            return None
        spec = importlib.util.find_spec(name)  # by the others: it is not waited for any more
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            loader.exec_module = load
            load(module)
            set_up(after, sys.modules.get(name, module))

        loader.exec_module = exec_module
        return spec


def set_up(after: Callable[[Any], None], module: Any) -> None:
    """A library of another version than we know is used as it is."""
    with suppress(AttributeError, TypeError, RuntimeError):
        after(module)
