"""The daemon: builds every part in order, runs the jobs, and takes all of it down again.

Order of start: memory, threads, I/O loop, driver scan, jobs. From the I/O loop on, what native code prints goes to
the log. Order of stop: sources stop taking work, sessions drain, units close, workers end, threads end.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from modelbox._core import lib
from modelbox._core.memory import Pool
from modelbox.errors import ConfigError, GraphError, InternalError, ModelBoxError, UnitNotFoundError
from modelbox.version import VERSION
from modelboxd import logs, paths, systemd
from modelboxd.cpus import cpu_count, memory_bytes
from modelboxd.drivers.registry import Registry
from modelboxd.engine.engine import Engine, WorkerSettings
from modelboxd.engine.executor import Executor
from modelboxd.engine.job import Job, JobSettings
from modelboxd.graph.check import GraphDefaults, check_graph
from modelboxd.graph.loader import load_graph
from modelboxd.graph.model import GraphSpec, Plan
from modelboxd.graph.plan import make_plan
from modelboxd.loop import IoThread
from modelboxd.prints import NativeOutput
from modelboxd.server.listener import Listeners
from modelboxd.settings import Settings
from modelboxd.workers.pool import WorkerPool

log = logging.getLogger(__name__)

INFERENCE = {"onnx": "inference_onnx"}  # virtual_type -> the built-in unit behind it
SHARED_CLOSE_S = 5.0


def make_registry(settings: Settings, graph: GraphSpec | None = None) -> Registry:
    """The units that a graph (or the server itself) sees: its own directories, the server's, the default one."""
    places = [Path(place) for place in (*(graph.driver_dirs if graph else ()), *settings.driver.dir)]
    default = paths.unit_dir()
    # driver.skip-default has no effect: the units that modelbox ships are there, and it comes last anyway.
    if default not in places:
        places.append(default)
    registry = Registry(
        places,
        builtin_dir=default,
        cache_file=paths.cache_dir() / "drivers.json",
        probe_timeout_s=settings.driver.probe_timeout,
    )
    registry.scan()
    return registry


def plan_graph(settings: Settings, path: Path) -> tuple[Plan, Registry]:
    """Reads, checks and plans a graph file. Raises GraphError."""
    spec = load_graph(path)
    registry = make_registry(settings, spec)
    defaults = GraphDefaults(
        settings.engine.queue_size, settings.engine.queue_size_external, queue_bytes=settings.engine.queue_bytes
    )
    try:
        graph = check_graph(spec, registry, defaults)
    except GraphError as error:
        _log_warnings(error.warnings)
        raise
    _log_warnings(graph.warnings)
    return make_plan(graph), registry


def _log_warnings(warnings: Sequence[ModelBoxError]) -> None:
    for warning in warnings:
        log.warning("%s", warning, extra={"node": warning.node})


class Daemon:
    """One server process."""

    def __init__(self, settings: Settings, graphs: Sequence[Path], *, skip_bad: bool = False) -> None:
        """With `skip_bad` a graph that cannot be started is told and left out, as long as another one runs."""
        self.settings = settings
        self.graphs = list(graphs)
        self.jobs: list[Job] = []
        self.skipped = 0
        self._skip_bad = skip_bad
        self._stop = threading.Event()
        self._started = threading.Event()
        self._changed = threading.Event()
        self._signal = 0

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. Returns the exit code; raises ModelBoxError when it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._start_parts()
        # Threads that compute give the interpreter up by themselves; the I/O thread should not wait 5 ms for one
        # that does not. What was made so far stays: the garbage collector need not look at it again.
        sys.setswitchinterval(0.001)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        try:
            if not self._start_jobs():
                return 0
            state = f"{len(self.jobs)} jobs" + (f", {self.skipped} skipped" if self.skipped else "")
            log.info(
                "modelbox %s is ready: %s, %d threads (pid %d)", VERSION, state, self.executor.threads, os.getpid()
            )
            lib.mb_trim_malloc()  # what reading the graphs has left
            systemd.notify("READY=1", f"STATUS={state}")
            while not self._stop.is_set():
                self._stop.wait()
            log.info("stopping by %s", signal.Signals(self._signal).name)
            systemd.notify("STOPPING=1")
        finally:
            self._stop_parts()
        return 0

    def _start_jobs(self) -> bool:
        """Starts all jobs on a thread of their own, so that a signal is heard while a unit takes long to open.
        False when a signal came first; what was opening is then given up."""
        failure: list[Exception] = []

        def start() -> None:
            try:
                self._start_all()
            except Exception as error:
                failure.append(error)
            finally:
                self._started.set()
                self._changed.set()

        starter = threading.Thread(target=start, name="mb-start", daemon=True)
        starter.start()
        self._changed.wait()
        if not self._started.is_set():
            log.info("stopping by %s before the start was over", signal.Signals(self._signal).name)
            if self._engine is not None:
                self._engine.close(0.0)  # workers that are opening end, and with them the wait for them
            starter.join(SHARED_CLOSE_S)
            return False
        if failure:
            raise failure[0]
        return not self._stop.is_set()

    def _start_all(self) -> None:
        """Starts the jobs one after another. Raises the error of the first one that fails, or with `skip_bad` that
        of all when none runs."""
        failures: list[ModelBoxError] = []
        for path in self.graphs:
            if self._stop.is_set():
                return
            try:
                self.start_job(path)
            except ModelBoxError as error:
                if not self._skip_bad:
                    raise
                failures.append(error)
            except Exception as error:
                if not self._skip_bad:
                    raise
                log.exception("internal error", extra={"job": path.stem})
                text = f"internal error: {type(error).__name__}: {error}; please report this"
                failures.append(InternalError(text))
            else:
                continue
            if self._stop.is_set():  # then it is the stop that failed it
                return
            self.skipped += 1
            with logs.about(job=path.stem):
                for problem in problems_of(failures[-1]):
                    place = "" if str(path) in str(problem) else f"{path}: "
                    logs.report(f"job '{path.stem}' is skipped: {place}{problem}", node=problem.node)
        if failures and not self.jobs:
            # Exit code 78 tells a supervisor that trying again would not help.
            lasting = all(isinstance(error, (ConfigError, GraphError)) for error in failures)
            text = f"no graph could be started ({len(failures)} skipped)"
            raise ConfigError(text) if lasting else ModelBoxError(text)

    def _on_signal(self, number: int, _: object) -> None:
        self._signal = number
        self._stop.set()
        self._changed.set()

    # ---- parts ------------------------------------------------------------------------------------------

    def _start_parts(self) -> None:
        settings = self.settings
        lib.mb_tune_malloc()
        memory = settings.memory
        there = memory_bytes()
        self.pool = Pool(memory.arena, memory.max or there // 2, memory.max_buffer, memory.keep, memory.guard)
        self.cpus = cpu_count()
        cpus = pool_cpus(settings)
        self.executor = Executor(settings.engine.threads or len(cpus) or self.cpus, cpus=cpus)
        self.executor.start()
        self.io = IoThread()
        self.io.start()
        self._native_output = NativeOutput(self.io)
        self.listeners = Listeners(self.io, close_timeout_s=SHARED_CLOSE_S, bodies_limit=memory.bodies or there // 8)
        self._engine: Engine | None = None

    def _make_engine(self, registry: Registry) -> Engine:
        inference = {}
        for virtual_type, name in INFERENCE.items():
            try:
                inference[virtual_type] = registry.find(name)
            except UnitNotFoundError as error:
                log.warning('models with virtual_type = "%s" cannot run: %s', virtual_type, error)
        python = self.settings.python
        return Engine(
            self.executor,
            self.pool,
            self.io,
            lambda: WorkerPool(self.io, self.pool),
            listeners=self.listeners,
            cpus=self.cpus,
            job_settings=JobSettings(
                drain_timeout_s=self.settings.server.drain_timeout,
                session_timeout_s=self.settings.engine.session_timeout,
                max_queue_bytes=self.settings.engine.max_queue_bytes,
            ),
            worker_settings=WorkerSettings(python.workers, python.open_timeout, python.process_timeout_ms),
            inference=inference,
        )

    def start_job(self, path: Path) -> Job:
        """Builds and starts the job of a graph file. Raises ModelBoxError."""
        with logs.about(job=path.stem):
            plan, registry = plan_graph(self.settings, path)
        name = plan.graph.flow_name or path.stem
        with logs.about(job=name):
            if self._engine is None:
                self._engine = self._make_engine(registry)
            job = self._engine.create_job(name, plan)
            job.start()
            self.jobs.append(job)
            log.info("job '%s' runs: %d nodes in %d steps", job.name, len(plan.graph.nodes), len(plan.steps))
        return job

    def _stop_parts(self) -> None:
        self.listeners.stop()
        stoppers = [threading.Thread(target=self._stop_job, args=(job,)) for job in self.jobs]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        if self._engine is not None:
            self._engine.close()
        if not self.executor.stop(SHARED_CLOSE_S):
            log.warning("a unit did not return; its thread is left behind")
        self._native_output.close()
        self.io.stop()
        log.info("stopped")

    def _stop_job(self, job: Job) -> None:
        with logs.about(job=job.name):
            lost = job.stop()
        log.info("job '%s' stopped, %d sessions lost", job.name, lost, extra={"job": job.name})


def pool_cpus(settings: Settings) -> list[int]:
    """engine.cpus, all of which this process may use. Raises ConfigError."""
    allowed = os.sched_getaffinity(0)
    where = settings.origins.get("engine.cpus")
    cpus = []
    for text in settings.engine.cpus:
        if not (text.isascii() and text.isdigit() and int(text) in allowed):
            there = ", ".join(str(number) for number in sorted(allowed))
            raise ConfigError(f"engine.cpus: {text!r} is no CPU of this process", where=where, hint=f"it has: {there}")
        cpus.append(int(text))
    return cpus


def check(settings: Settings, path: Path) -> Plan:
    """The plan of a graph file, for --check. Raises GraphError."""
    return plan_graph(settings, path)[0]


def problems_of(error: ModelBoxError) -> tuple[ModelBoxError, ...]:
    """What a user reads of an error: one line per problem."""
    return error.problems if isinstance(error, GraphError) else (error,)
