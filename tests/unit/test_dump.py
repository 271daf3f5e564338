"""What SIGQUIT writes."""

from __future__ import annotations

import ctypes
import signal
import threading

from modelboxd import dump

LIMIT_S = 30.0


class Waiting:
    """A thread that waits in a function of a known name."""

    def __enter__(self) -> Waiting:
        self.ready, self.end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.waits_here, name="mb-waiting")
        self.thread.start()
        assert self.ready.wait(LIMIT_S)
        return self

    def waits_here(self) -> None:
        self.ready.set()
        self.end.wait(LIMIT_S)

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join(LIMIT_S)


def test_python_stacks_name_threads_and_functions() -> None:
    with Waiting() as waiting:
        lines = list(dump.python_stacks())
    (line,) = (line for line in lines if "mb-waiting" in line)
    assert line.startswith(f"python stack of thread {waiting.thread.native_id} mb-waiting: ")
    assert "test_dump.py:" in line
    assert " waits_here > threading.py" in line


def test_native_stacks_have_all_threads() -> None:
    with Waiting() as waiting:
        lines = list(dump.native_stacks())
        again = list(dump.native_stacks())
    for found in (lines, again):
        (line,) = (line for line in found if line.startswith(f"native stack of thread {waiting.thread.native_id} "))
        assert "libc.so" in line
        assert " < " in line


def test_a_thread_that_blocks_signals_is_named_all_the_same() -> None:
    ready, end = threading.Event(), threading.Event()

    def deaf() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ready.set()
        end.wait(LIMIT_S)

    thread = threading.Thread(target=deaf)
    thread.start()
    assert ready.wait(LIMIT_S)
    lines = list(dump.native_stacks())
    end.set()
    thread.join(LIMIT_S)
    (line,) = (line for line in lines if f"thread {thread.native_id} " in line)
    assert "does not answer" in line


def test_a_signal_that_a_library_uses_is_left_alone() -> None:
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    number = signal.SIGRTMAX - 3
    before = libc.signal(number, 1)  # SIG_IGN: not the default, so somebody has decided
    try:
        (line,) = dump.native_stacks()
        assert "uses the signal" in line
    finally:
        libc.signal(number, before)
