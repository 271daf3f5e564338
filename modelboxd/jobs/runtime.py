"""What all jobs share, and how a graph becomes a job of the engine."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from modelbox._core import lib
from modelbox._core.memory import Pool
from modelbox.errors import ConfigError, GraphError, ModelBoxError, UnitNotFoundError
from modelboxd import paths
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
from modelboxd.server.listener import Endpoints, Listeners
from modelboxd.settings import Settings
from modelboxd.workers.inside import Inside, InsidePool
from modelboxd.workers.pool import WorkerPool
from modelboxd.workers.stacks import collect
from modelboxd.workers.values import Budget

log = logging.getLogger(__name__)

INFERENCE = {"onnx": "inference_onnx"}  # virtual_type -> the built-in unit behind it
CLOSE_S = 5.0
STACKS_S = 2.0  # that processes have to write their stacks


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


def plan_spec(settings: Settings, spec: GraphSpec) -> tuple[Plan, Registry]:
    """Checks and plans a graph. Raises GraphError."""
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


def plan_graph(settings: Settings, path: Path) -> tuple[Plan, Registry]:
    """Reads, checks and plans a graph file. Raises GraphError."""
    return plan_spec(settings, load_graph(path))


def _log_warnings(warnings: Sequence[ModelBoxError]) -> None:
    for warning in warnings:
        log.warning("%s", warning, extra={"node": warning.node})


def allowed_dirs(settings: Settings) -> list[Path]:
    """The driver directories that a graph which came over the API may name, resolved."""
    given = (*settings.driver.dir, *settings.driver.api_dir, str(paths.unit_dir()))
    return [Path(os.path.realpath(place)) for place in given]


def check_dirs(settings: Settings, spec: GraphSpec) -> None:
    """Raises GraphError when a graph of the API names another directory than the configuration allows."""
    allowed = allowed_dirs(settings)
    for place in spec.driver_dirs:
        real = Path(os.path.realpath(place))
        if not any(real.is_relative_to(folder) for folder in allowed):
            hint = "driver.dir and driver.api_dir of modelbox.conf say which are"
            raise GraphError(f"driver.dir: {place} is not allowed for jobs made over the API", hint=hint)


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


class Runtime:
    """Memory, threads, the I/O loop, HTTP ports and the engine: one of each, for all jobs."""

    def __init__(self, settings: Settings) -> None:
        """Starts everything that needs no graph. Raises ConfigError, ModelBoxError."""
        self.settings = settings
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
        # Units inside this process print to the terminal, and a debugger talks there.
        self.inside = Inside() if settings.python.workers == 0 else None
        self._native_output = NativeOutput(self.io) if self.inside is None else None
        self.listeners = Listeners(self.io, close_timeout_s=CLOSE_S, bodies_limit=memory.bodies or there // 8)
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()

    def make_job(self, job_id: str, plan: Plan, registry: Registry, endpoints: Endpoints) -> Job:
        """A job that is ready to start(). Raises ModelBoxError."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine(registry)
        return self._engine.create_job(job_id, plan, listeners=endpoints)

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
            self._make_workers,
            listeners=self.listeners,
            cpus=self.cpus,
            job_settings=JobSettings(
                drain_timeout_s=self.settings.server.drain_timeout,
                session_timeout_s=self.settings.engine.session_timeout,
                max_queue_bytes=self.settings.engine.max_queue_bytes,
                session_bytes=self.settings.python.session_bytes,
                all_values=Budget(self.pool.max_bytes // 2),
            ),
            worker_settings=WorkerSettings(python.open_timeout, python.life),
            inference=inference,
        )

    def _make_workers(self, interpreter: str) -> WorkerPool:
        if self.inside is None or interpreter != sys.executable:
            return WorkerPool(self.io, self.pool, python=interpreter)
        pool = InsidePool(self.io, self.pool)
        pool.inside = self.inside
        return pool

    def worker_stacks(self) -> list[str]:
        """The stacks of the python-master and all workers, a line per thread. Takes seconds where one of them hangs.
        [any thread but the I/O thread]"""
        with self._asking:
            return collect(self._engine.asked(), STACKS_S) if self._engine is not None else []

    def give_up_opening(self) -> None:
        """Workers that are opening end, and with them the wait for them."""
        if self._engine is not None:
            self._engine.close(0.0)

    def close(self) -> None:
        """Ends everything; jobs must be stopped."""
        if self._engine is not None:
            self._engine.close()
        if not self.executor.stop(CLOSE_S):
            log.warning("a unit did not return; its thread is left behind")
        if self._native_output is not None:
            self._native_output.close()
        self.io.stop()
