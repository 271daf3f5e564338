"""All plugins of the server: each is loaded and started beside the others, and left out when that fails."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from modelbox.errors import ConfigError, ModelBoxError
from modelbox.plugin import Plugin
from modelboxd.api.plugins import PluginView
from modelboxd.plugins.find import Candidate, candidates, check_name
from modelboxd.plugins.runner import Runner, as_exception, told, where_is
from modelboxd.plugins.service import PluginService

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.settings import Settings

log = logging.getLogger(__name__)

STOP_S = 5.0  # that stop() of a plugin may take
LOOK_S = 0.2


class Host:
    """One plugin."""

    def __init__(self, plugins: Plugins, candidate: Candidate) -> None:
        self._plugins = plugins
        self._candidate = candidate
        self.name = candidate.name
        self.is_named = False  # it has told its name
        self.state = "loading"
        self.error = ""
        self.step = "import"  # what it does now
        self.since = time.monotonic()  # when that began
        self.over = threading.Event()  # it runs, or has failed
        self._lock = threading.Lock()
        self._plugin: Plugin | None = None
        self._runner: Runner | None = None
        self._service: PluginService | None = None
        self.thread = threading.Thread(target=self._start, name="mb-plugin", daemon=True)

    @property
    def options(self) -> dict[str, Any]:
        """[plugin.NAME] of the configuration."""
        return self._plugins.settings.plugin_options.get(self.name, {})

    def _start(self) -> None:
        try:
            made = self._candidate.load()
            self._set_name(made.name or self._candidate.name)
            self._runner = Runner(self.name)
            self._service = PluginService(self._runner, self._plugins.api)
            self._step("init()")
            plugin = made()
            plugin.service = self._service
            self._call(plugin.init, dict(self.options))
            self._step("")
            self._plugins.jobs_are_up.wait()
            if self.state == "failed" or self._plugins.is_stopping:
                return
            self.state = "starting"
            self._step("start()")
            self._call(plugin.start)
            self._run(plugin)
        except BaseException as error:
            step = f"{self.step}: " if self.step in ("init()", "start()") else ""
            self.fail(step + (str(error) if isinstance(error, ConfigError) else told(as_exception(error))))

    def _step(self, what: str) -> None:
        self.step, self.since = what, time.monotonic()

    def _set_name(self, name: str) -> None:
        check_name(name)
        with self._plugins.lock:
            if any(other.name == name for other in self._plugins.hosts if other is not self and other.is_named):
                raise ConfigError(f"there is another plugin '{name}'")
            self.name = name
            self.is_named = True

    def _call(self, function: Any, *arguments: Any) -> None:
        """One of init(), start(), stop(), on this thread or, where it is async, on the plugin's loop."""
        assert self._runner is not None
        made = function(*arguments)
        if inspect.isawaitable(made):
            self._runner.io.run(_awaited(made))

    def _run(self, plugin: Plugin) -> None:
        assert self._service is not None
        with self._lock:
            if self.state == "failed":  # too late
                return
            self._service.open()
            self._plugin, self.state = plugin, "running"
        routes = len(self._service.routes)
        log.info("plugin '%s' runs: %d routes (%s)", self.name, routes, self._candidate.source)
        self.over.set()

    def check_time(self, limit_s: float) -> None:
        """Gives it up when it takes too long."""
        if not self.over.is_set() and self.step and time.monotonic() - self.since >= limit_s:
            self.fail(f"{self.step} did not return within {limit_s:g} s (server.init_timeout){where_is(self.thread)}")

    def fail(self, reason: str) -> None:
        """Leaves the plugin out, with all that it has made."""
        with self._lock:
            if self.state in ("failed", "stopped"):
                return
            self.state, self.error = "failed", reason
        log.error("plugin '%s' is left out: %s", self.name, reason)
        self.over.set()
        self._clean_up()

    def _clean_up(self) -> None:
        service, runner = self._service, self._runner
        if service is not None:
            service.close()
            for job in () if self._plugins.is_stopping else service.created:
                try:
                    self._plugins.api.jobs.delete(job)
                except ModelBoxError as error:
                    log.warning("job '%s' of plugin '%s' stays: %s", job, self.name, error)
        if runner is not None:
            runner.close()

    def stop(self) -> None:
        """Stops it, within STOP_S."""
        plugin, runner = self._plugin, self._runner
        if self.state == "running" and plugin is not None and runner is not None:
            assert self._service is not None
            self._service.close()
            done = threading.Event()

            def work() -> None:
                try:
                    self._call(plugin.stop)
                except BaseException as error:
                    runner.failed("stop()", told(as_exception(error)))
                done.set()

            thread = threading.Thread(target=work, name="mb-plugin", daemon=True)
            thread.start()
            if not done.wait(STOP_S):
                runner.failed("stop()", f"it did not return within {STOP_S:g} s{where_is(thread)}")
            runner.close()
        with self._lock:
            if self.state != "failed":
                self.state = "stopped"
        self.over.set()

    def view(self) -> PluginView:
        """For /v1/plugins. [any thread]"""
        runner, service = self._runner, self._service
        routes = [f"{route.method} {route.path}" for route in service.routes] if service else []
        return PluginView(
            self.name,
            self.state,
            self.error or (runner.last_error if runner else ""),
            self._candidate.source,
            routes if self.state == "running" else [],
            runner.calls if runner else 0,
            runner.failures if runner else 0,
        )


async def _awaited(made: Any) -> Any:
    try:
        return await made
    except (SystemExit, KeyboardInterrupt) as error:  # would end the loop
        raise as_exception(error) from None


class Plugins:
    """All of them."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self.settings = settings
        self.api = api
        self.lock = threading.Lock()
        self.hosts: list[Host] = []
        self.jobs_are_up = threading.Event()
        self.is_stopping = False
        api.plugins = lambda: [host.view() for host in self.hosts]

    def load(self) -> None:
        """Begins to load all; they go on by themselves until start()."""
        self.hosts = [Host(self, candidate) for candidate in candidates(self.settings)]
        for host in self.hosts:
            host.thread.start()

    def start(self) -> None:
        """Has all start, now that jobs run; returns when each runs or was left out."""
        limit_s = float(self.settings.server.init_timeout)
        self.jobs_are_up.set()
        for host in self.hosts:
            while not host.over.wait(LOOK_S) and not self.is_stopping:
                for one in self.hosts:
                    one.check_time(limit_s)
        known = {host.name for host in self.hosts}
        for name in self.settings.plugin_options:
            if name not in known:
                where = self.settings.origins[f"plugin.{name}"]
                log.warning("%s: [plugin.%s]: there is no plugin '%s'", where, name, name)

    def stop(self) -> None:
        """Stops all side by side."""
        self.is_stopping = True
        self.jobs_are_up.set()
        threads = [threading.Thread(target=host.stop, name="mb-stop", daemon=True) for host in self.hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
