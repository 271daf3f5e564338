"""What can be asked of a running server by its control socket. Each function runs on a thread of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from modelbox.errors import ModelBoxError
from modelboxd import dump, logs
from modelboxd.api.jobs import job_json
from modelboxd.api.stats import stats_json
from modelboxd.control.server import Command, CommandError, Held
from modelboxd.jobs.manager import JobManager, Reloaded
from modelboxd.jobs.runtime import Runtime
from modelboxd.settings import LEVELS
from modelboxd.stats.collect import Collector, TaskCounts

log = logging.getLogger(__name__)

LOOP_S = 5.0  # that the I/O loop may take to answer


class Commands:
    """The commands of one server."""

    def __init__(
        self,
        runtime: Runtime,
        jobs: JobManager,
        *,
        reload: Callable[[], Reloaded],
        stop: Callable[[str], None],
    ) -> None:
        """`reload()` does what SIGHUP does, `stop(reason)` what SIGTERM does."""
        self._runtime = runtime
        self._jobs = jobs
        self._reload = reload
        self._stop = stop
        self.stats = Collector(runtime, jobs, None)  # the API's, as soon as there is one

    def table(self) -> dict[str, Command]:
        """By name."""
        return {
            "log": self.log,
            "stack": self.stack,
            "slab": self.slab,
            "stat": self.stat,
            "jobs": self.jobs,
            "reload": self.reload,
            "drain": self.drain,
        }

    def log(self, request: dict[str, Any]) -> Any:
        """{"level": name} sets it. Returns the level that holds."""
        wish = request.get("level")
        if wish is not None:
            name = str(wish).upper()
            if name not in LEVELS:
                raise CommandError(f"there is no log level '{str(wish)[:40]}'", hint=f"one of {', '.join(LEVELS)}")
            before = logs.level()
            logs.set_level(name)
            log.warning("the log level is %s now, it was %s", name, before)
        return {"level": logs.level()}

    def stack(self, _: dict[str, Any]) -> Any:
        """The stacks of all threads of all processes, and what waits in the engine, as lines."""
        return {"lines": list(dump.lines(self._jobs.running(), self._runtime.executor, self._runtime.worker_stacks))}

    def slab(self, _: dict[str, Any]) -> Any:
        """The pool of buffers of each device, in bytes."""
        stats = self._runtime.pool.stats()
        free = stats.arena_bytes - stats.block_bytes
        pool = {item.name: getattr(stats, item.name) for item in fields(stats)}
        made = {"free_bytes": free, "cached_bytes": max(0, free - stats.fragmented_bytes)}
        return {"devices": [{"type": "cpu", "id": "0", **pool, **made, "max_bytes": self._runtime.pool.max_bytes}]}

    def stat(self, _: dict[str, Any]) -> Any:
        """What GET /v1/stats answers."""
        return stats_json(self.stats, self._runtime.io.run(self._tasks(), LOOP_S))

    async def _tasks(self) -> TaskCounts:
        return self.stats.tasks()

    def jobs(self, _: dict[str, Any]) -> Any:
        """What GET /v1/jobs answers."""
        return {"jobs": [job_json(view, nodes=False) for view in self._jobs.all()]}

    def reload(self, _: dict[str, Any]) -> Any:
        """What SIGHUP does; says what has changed. `failed`: by job, one reason or several lines of them."""
        done = asdict(self._reload())
        done["failed"] = {name: self._with_file(name, reason) for name, reason in done["failed"].items()}
        return done

    def _with_file(self, job: str, reason: str) -> str:
        """A reason that names its file."""
        try:
            file = self._jobs.show(job).file
        except ModelBoxError:
            return reason
        return reason if not file or Path(file).name in reason else f"{file}: {reason}"

    def drain(self, request: dict[str, Any]) -> Any:
        """{"keep": true} drains all jobs and goes on without them; else the server drains and ends, as by SIGTERM, and
        the connection with it."""
        sessions = sum(view.sessions for view in self._jobs.all())
        if request.get("keep") is True:
            log.warning("all jobs are being drained by modelbox-tool, %d sessions are under way", sessions)
            return {"drained": self._jobs.drain_all(), "sessions": sessions}
        self._stop("modelbox-tool server drain")
        return Held({"pid": os.getpid(), "sessions": sessions})
