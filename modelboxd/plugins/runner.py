"""Where the code of one plugin runs: an event loop of its own, and a few threads for functions that are not async.

What a plugin does wrong (raises, blocks its loop, calls exit()) ends here: it is counted, told in one line, and costs
that call alone. Threads are daemon threads, so that one which hangs does not keep the server from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from modelbox.errors import ModelBoxError
from modelboxd.loop import IoThread
from modelboxd.workers import heart, trace

log = logging.getLogger(__name__)

THREADS = 8
EVENTS_MAX = 10_000  # callbacks that may wait; what is more is dropped
CALLBACK_S = 30.0
CLOSE_S = 2.0


class Threads:
    """At most THREADS threads, made as they are needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._made = 0
        self._busy = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Runs it on one of them."""
        future: Future[Any] = Future()
        with self._lock:
            self._busy += 1
            if self._busy > self._made < THREADS:
                self._made += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        self._work.put((future, function, arguments))
        return future

    def close(self) -> None:
        """They end when they have nothing to do."""
        for _ in range(self._made):
            self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            future, function, arguments = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(as_exception(error))
            with self._lock:
                self._busy -= 1
            del future, function, arguments, item


def as_exception(error: BaseException) -> Exception:
    """exit() in a plugin is an error of it, not the end of the server."""
    if isinstance(error, Exception):
        return error
    made = RuntimeError(f"{type(error).__name__}: {error}")
    return made.with_traceback(error.__traceback__)


def told(error: BaseException) -> str:
    """One line: the error, with file and line of the plugin's own code."""
    if isinstance(error, ModelBoxError) and error.where is not None:
        return str(error)
    return trace.describe(error)


def where_is(thread: threading.Thread | None) -> str:
    """The line that a thread is at, " (file:line in name)"."""
    frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
    place = heart.where(frame)
    return f" ({place})" if place else ""


class Runner:
    """The loop and the threads of a plugin, and what its calls come to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.io = IoThread(f"mb-plug-{name}"[:15])
        self.threads = Threads(f"mb-plug-{name}"[:15])
        self.calls = self.failures = 0
        self.last_error = ""
        self._events: deque[tuple[str, Callable[..., Any], Any]] = deque()
        self._dropped = 0
        self._is_telling = False
        self.io.start()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of one of the plugin's functions. [the loop]"""
        self.calls += 1
        try:
            if inspect.iscoroutinefunction(function):
                return await function(*arguments)
            made = await asyncio.wrap_future(self.threads.submit(function, *arguments))
            return await made if inspect.isawaitable(made) else made
        except (SystemExit, KeyboardInterrupt) as error:  # would end the loop
            raise as_exception(error) from None

    async def guard(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        """A call whose result nobody waits for. [the loop]"""
        try:
            await self.call(function, *arguments)
        except Exception as error:
            self.failed(what, told(error))

    def failed(self, what: str, text: str) -> None:
        """Counts and tells a call that has failed. [any thread]"""
        self.failures += 1
        self.last_error = f"{what}: {text}"
        log.error("plugin '%s': %s: %s", self.name, what, text)

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs a coroutine on the loop. [any thread]"""
        return asyncio.run_coroutine_threadsafe(coroutine, self.io.loop)

    def notify(self, what: str, function: Callable[..., Any], value: Any) -> None:
        """Calls a callback after those before it. [any thread]"""
        if len(self._events) >= EVENTS_MAX:
            self._dropped += 1
            if self._dropped == 1:
                self.failed(what, f"{EVENTS_MAX} calls wait already; further ones are dropped until it keeps up")
            return
        self._dropped = 0
        self._events.append((what, function, value))
        self.io.call(self._tell)

    def _tell(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self.io.loop.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        while self._events:
            what, function, value = self._events.popleft()
            try:
                async with asyncio.timeout(CALLBACK_S):
                    await self.guard(what, function, value)
            except TimeoutError:
                self.failed(what, f"it did not return within {CALLBACK_S:g} s; the next ones go on without it")
        self._is_telling = False

    def close(self) -> None:
        """Ends loop and threads; what hangs is left behind."""
        self.threads.close()
        if not self.io.stop(CLOSE_S):
            log.warning("plugin '%s' blocks its event loop; its thread is left behind", self.name)
