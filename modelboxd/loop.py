"""The daemon's asyncio loop on a thread of its own: HTTP servers and worker channels live on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from modelbox._core import lib

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop where it is installed (about half the cost per request), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class IoThread:
    """Runs one event loop on a named thread from start() to stop()."""

    def __init__(self, name: str = "mb-io") -> None:
        self.loop = new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._ident = 0  # of the thread, while it runs

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Stops the loop and joins its thread; pending callbacks of this moment still run. False when the thread did
        not end within `timeout` seconds."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def is_current(self) -> bool:
        """True on the loop's own thread."""
        return threading.get_ident() == self._ident

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Runs `function(*args)` on the loop soon. [any thread]"""
        self.loop.call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine on the loop and waits for its result. Never from the loop's own thread.

        Raises what the coroutine raises, TimeoutError after `timeout` seconds (the coroutine is cancelled).
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def _main(self) -> None:
        self._ident = threading.get_ident()
        lib.mb_name_thread(self._thread.name.encode())
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            if pending:
                self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self._ident = 0
