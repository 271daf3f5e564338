"""The daemon: builds every part in order, runs the jobs, and takes all of it down again.

Order of start: memory, threads, I/O loop, API, jobs. Order of stop: sources stop taking work, sessions drain, units
close, the API closes, workers end, threads end.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from modelbox._core import lib
from modelbox.errors import ConfigError, InternalError, ModelBoxError
from modelbox.version import VERSION
from modelboxd import logs, paths, systemd, watchdog
from modelboxd.api.app import Api
from modelboxd.control.commands import Commands
from modelboxd.control.place import Place
from modelboxd.control.server import ControlServer
from modelboxd.dump import dump
from modelboxd.jobs.manager import JobManager, Reloaded
from modelboxd.jobs.model import State
from modelboxd.jobs.runtime import CLOSE_S, Runtime
from modelboxd.jobs.sources import Sources
from modelboxd.jobs.store import JobStore
from modelboxd.plugins.host import Plugins
from modelboxd.settings import Settings
from modelboxd.workers.inside import Waker

log = logging.getLogger(__name__)

DESCRIPTORS = 65536
STATUS_LIMIT = 400  # letters of a status line


class Daemon:
    """One server process."""

    def __init__(self, settings: Settings, graphs: Sequence[Path] = (), *, skip_bad: bool = False) -> None:
        """Without `graphs`, those of the configuration. With `skip_bad` a graph that cannot be started is told and
        left out, as long as another one runs."""
        self.settings = settings
        self.graphs = list(graphs)
        self.skipped = 0
        self._skip_bad = skip_bad
        self._stopping = False  # a plain value: an Event of which a handler holds the lock would stop the next handler
        self._started = threading.Event()
        self._wake = Waker()  # a signal, or the end of the start
        self._reload = False
        self._reason = ""  # of the stop

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. Returns the exit code; raises ModelBoxError when it cannot start."""
        raise_descriptor_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGQUIT, lambda *_: self._beside(self._dump))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._wake.set_on_signals()
        self.runtime = Runtime(self.settings)
        self.api: Api | None = None
        self._watchdog = watchdog.Watchdog(self.runtime.io, self.runtime.executor, period=watchdog.period_s())
        self.control: ControlServer | None = None
        self.plugins: Plugins | None = None
        self.jobs = JobManager(self.runtime, Sources(self.settings, self.graphs), self._store())
        try:
            commands = self._start_control()
            self._start_api()
            if self.api is not None:
                commands.stats = self.api.stats
                self.plugins = Plugins(self.settings, self.api)
            elif self.settings.plugin.files:
                log.warning("plugins are left out: they need the API (server.api, server.port)")
            # Threads that compute give the interpreter up by themselves; the I/O thread should not wait 5 ms for one
            # that does not. What was made so far stays: the garbage collector need not look at it again.
            sys.setswitchinterval(0.001)
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            if not self._start_jobs():
                return 0
            state = f"{len(self.jobs.all()) - self.skipped} jobs" + (
                f", {self.skipped} skipped" if self.skipped else ""
            )
            log.info(
                "modelbox %s is ready: %s, %d threads (pid %d)",
                VERSION,
                state,
                self.runtime.executor.threads,
                os.getpid(),
            )
            lib.mb_trim_malloc()  # what reading the graphs has left
            systemd.notify("READY=1", f"STATUS={self._status()}")
            self._watchdog.start()
            self._serve()
            log.info("stopping by %s", self._reason)
            systemd.notify("STOPPING=1", f"STATUS=Stopping by {self._reason}: draining")
        finally:
            self._watchdog.stop()
            self._stop_parts()
        return 0

    def _serve(self) -> None:
        """Until a signal says that it is over."""
        while not self._stopping:
            self._wait()
            if self._reload and not self._stopping:
                self._reload = False
                # On a thread of its own, so that a stop is heard while a unit takes long to open.
                threading.Thread(target=self._reload_now, name="mb-reload", daemon=True).start()

    def _reload_now(self) -> None:
        with suppress(ModelBoxError):  # it was told
            self.reload()

    def reload(self) -> Reloaded:
        """Opens log files anew, and reads the graph files again. Raises ModelBoxError when they cannot be read."""
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading")
        logs.reopen()
        trouble = ""
        try:
            done = self.jobs.reload()
            trouble = "; ".join(f"{name}: {reason}" for name, reason in done.failed.items())
            return done
        except ModelBoxError as error:
            log.error("graph files could not be read again: %s", error)
            trouble = str(error)
            raise
        except Exception as error:
            log.exception("internal error while graph files were read again")
            trouble = f"internal error: {error}"
            raise InternalError(trouble) from error
        finally:
            # What could not be reloaded goes on as it was, so the service is as ready as before.
            status = f"Reload failed, the rest goes on: {trouble}. {self._status()}" if trouble else self._status()
            systemd.notify("READY=1", f"STATUS={logs.one_line(status)[:STATUS_LIMIT]}")

    def _status(self) -> str:
        """The line that `systemctl status` shows: what runs, what does not, and why."""
        jobs = self.jobs.all()
        names = [job.id for job in jobs if job.state is State.RUNNING]
        failed = [job for job in jobs if job.state is State.FAILED]
        text = f"{len(names)} jobs run: {', '.join(names)}" if names else "No job runs"
        if failed:
            reason = failed[0].error.split("\n")[0]
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            text += f"; {len(failed)} failed: {failed[0].id}: {reason}{more}"
        return logs.one_line(text)[:STATUS_LIMIT]

    @staticmethod
    def _beside(function: Callable[[], None]) -> None:
        """Runs what a signal asks for on a thread of its own: the main thread may hold the lock that it needs."""
        threading.Thread(target=function, name="mb-signal", daemon=True).start()

    def _dump(self) -> None:
        dump(self.jobs.running(), self.runtime.executor, self.runtime.worker_stacks)

    def _store(self) -> JobStore | None:
        settings = self.settings
        folder = Path(settings.server.state_dir) if settings.server.state_dir else paths.state_dir()
        try:
            return JobStore(folder)
        except ConfigError as error:
            if "server.state_dir" in settings.origins or not self.graphs:
                raise
            log.warning("jobs made over the API will not be kept: %s", error)
            return None

    def _start_control(self) -> Commands:
        """Raises ConfigError."""
        commands = Commands(self.runtime, self.jobs, reload=self.reload, stop=self.stop)
        settings = self.settings.control
        if not settings.enable:
            return commands
        try:
            server = ControlServer(Place(Path(settings.listen)), commands.table())
        except ConfigError as error:
            where = self.settings.origins.get("control.listen") or self.settings.origins.get("control.enable")
            if where is not None:
                raise ConfigError(error.message, where=where, hint=error.hint) from None
            log.warning("modelbox-tool server cannot reach this server: %s", error)
            return commands
        server.start()
        self.control = server
        return commands

    def _start_api(self) -> None:
        if not self.settings.server.api:
            return
        api = Api(self.settings, self.jobs, self.runtime)  # what it refuses is always an error
        try:
            api.start()
        except ConfigError as error:
            # A graph that is tried by hand should not need a port of its own for the API.
            if "server.port" in self.settings.origins or not self.graphs:
                raise
            log.warning("there is no API: %s", error)
            return
        self.api = api

    def _start_jobs(self) -> bool:
        """Starts all jobs on a thread of their own, so that a signal is heard while a unit takes long to open.
        False when a signal came first; what was opening is then given up."""
        failure: list[Exception] = []

        def start() -> None:
            try:
                if self.plugins is not None:
                    self.plugins.load()
                self.skipped = self.jobs.start_all(skip_bad=self._skip_bad)
                if self.plugins is not None:
                    self.plugins.start()
            except Exception as error:
                failure.append(error)
            finally:
                self._started.set()
                self._wake.set()

        starter = threading.Thread(target=start, name="mb-start", daemon=True)
        starter.start()
        while not (self._started.is_set() or self._stopping):
            self._wait()
        if not self._started.is_set():
            log.info("stopping by %s before the start was over", self._reason)
            self.jobs.begin_stop()
            self.runtime.give_up_opening()
            starter.join(CLOSE_S)
            return False
        self._wake.set()  # a reload may have been asked for meanwhile
        if failure and not self._stopping:
            raise failure[0]
        return not self._stopping

    def stop(self, reason: str) -> None:
        """Drains and ends, like SIGTERM. [any thread]"""
        self._reason = self._reason or reason
        self._stopping = True
        self._wake.set()

    def _on_signal(self, number: int, _: object) -> None:
        self.stop(signal.Signals(number).name)

    def _on_reload(self, number: int, _: object) -> None:
        self._reload = True
        self._wake.set()

    def _wait(self) -> None:
        """Until there is something to do; runs the units of this process meanwhile."""
        if self.runtime.inside is not None:
            self.runtime.inside.serve(self._wake)
        else:
            self._wake.sleep()
        self._wake.clear()

    def _stop_jobs(self) -> None:
        """Stops all jobs; units of this process are served until they are closed."""
        if self.runtime.inside is None:
            self.jobs.stop_all()
            return
        over = Waker()

        def stop() -> None:
            try:
                self.jobs.stop_all()
            finally:
                over.set()

        threading.Thread(target=stop, name="mb-stop", daemon=True).start()
        self.runtime.inside.serve(over)

    def _stop_parts(self) -> None:
        if self.plugins is not None:
            self.plugins.stop()
        self._stop_jobs()
        if self.api is not None:
            self.api.stop()
        self.runtime.close()
        if self.control is not None:
            self.control.stop()
        log.info("stopped")


def raise_descriptor_limit() -> None:
    """Connections and the arenas of workers need a descriptor each; the usual limit of 1024 is for old programs that
    use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
