"""The engine: what all jobs share (threads, memory, workers), and how a plan becomes a job."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelbox._core import ffi, lib
from modelbox._core.memory import check, new_error
from modelbox.errors import DriverError, GraphError, UnitError
from modelbox.spec import UnitKind, UnitSpec
from modelboxd.drivers.unit_toml import read_unit
from modelboxd.engine.builtin import BuiltinStep
from modelboxd.engine.clock import Clock, IoClock
from modelboxd.engine.job import Job, JobSettings
from modelboxd.engine.leftovers import Leftovers
from modelboxd.engine.native import NativeStep, SegmentStep
from modelboxd.engine.output import OutputStep
from modelboxd.engine.python_source import PythonSourceStep
from modelboxd.engine.sink import SinkStep
from modelboxd.engine.source import EntryStep, SourceStep
from modelboxd.engine.step import Step
from modelboxd.engine.unit import BuiltinUnit, Services, SinkUnit, SourceUnit
from modelboxd.engine.worker import WorkerStep
from modelboxd.graph.life import Life
from modelboxd.graph.model import Endpoint
from modelboxd.workers import interpreter
from modelboxd.workers.stacks import Asked

if TYPE_CHECKING:
    from modelbox._core.memory import Pool
    from modelboxd.engine.executor import Executor
    from modelboxd.graph import model
    from modelboxd.loop import IoThread
    from modelboxd.workers.group import WorkerGroup
    from modelboxd.workers.pool import WorkerPool
    from modelboxd.workers.process import External

log = logging.getLogger(__name__)

PATIENCE_S = 1e8  # units in this process: a debugger may hold open()
NO_LIMITS = Life(heartbeat_timeout_ms=0, orphan_timeout_ms=0, retire_timeout_ms=0, restart="never", max_restarts=0)
TAKEN_OVER = ("entry", "config", "environment", "description", "group", "base")  # of a changed TOML (reload)
SOURCE_BYTES = 64 << 20  # data of a source in Python that waits for its calls, where queue_bytes says nothing


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Defaults for the worker processes of Python nodes; node attributes of the same name win."""

    open_timeout_s: float = 60.0
    life: Life = field(default_factory=Life)


class Engine:
    """Makes jobs out of plans. One per daemon; also usable in a process of its own (benchmarks, tests)."""

    def __init__(
        self,
        executor: Executor,
        pool: Pool,
        io: IoThread,
        workers: Callable[[str], WorkerPool],
        *,
        listeners: Any = None,
        cpus: int = 1,
        job_settings: JobSettings | None = None,
        worker_settings: WorkerSettings | None = None,
        builtins: Mapping[str, type[BuiltinUnit]] | None = None,
        inference: Mapping[str, UnitSpec] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`workers` makes the worker pool of an interpreter when its first node needs it; `builtins` are classes of
        built-in units by name that need no file; `inference` says which built-in unit runs a virtual_type."""
        self.executor = executor
        self.pool = pool
        self.io = io
        self._make_workers = workers
        self._workers: dict[str, WorkerPool] = {}  # by interpreter
        self._listeners = listeners
        self._cpus = cpus
        self._job_settings = job_settings or JobSettings()
        self._worker_settings = worker_settings or WorkerSettings()
        self._builtins: dict[str, type[BuiltinUnit]] = dict(builtins or {})
        self._inference = dict(inference or {})
        self._clock = clock
        self._leftovers = Leftovers(IoClock(io), self._trim)
        self._libraries: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _trim(self) -> None:
        self.pool.trim()
        lib.mb_trim_malloc()
        self._forget_gone()

    def _forget_gone(self) -> None:
        """What a process has dropped is free only when none maps it any more."""
        for pool in list(self._workers.values()):
            pool.forget_gone()

    def asked(self) -> list[Asked]:
        """The processes of Python units, for their stacks. [any thread]"""
        return [one for pool in list(self._workers.values()) for one in pool.asked()]

    # ---- jobs --------------------------------------------------------------------------------------------

    def create_job(self, name: str, plan: model.Plan, *, listeners: Any = None) -> Job:
        """A job that is ready to start(); `listeners` in place of those of the engine. Raises GraphError, DriverError,
        ConfigError."""
        graph, settings = plan.graph, self._job_settings
        if graph.session_timeout_s is not None:
            settings = replace(settings, session_timeout_s=graph.session_timeout_s)
        services = Services(name, self.pool, self.io, listeners or self._listeners, self._cpus, self.executor.threads)
        job = Job(
            name,
            self.executor,
            self.pool,
            services,
            settings=settings,
            priority=graph.priority,
            library_unit=self._library_unit,
            start_workers=self._start_workers,
            clock=self._clock,
        )
        job.on_quiet = self._leftovers.touch
        by_node: dict[str, Step] = {}
        joined = [planned.first for planned in plan.steps if planned.kind == "output" and planned.first.match]
        for planned in plan.steps:
            if planned.kind == "output" and planned.first.match:
                if planned.first is not joined[-1]:
                    continue
                step: Step = OutputStep(job, planned.index, joined)
                by_node |= {node.name: step for node in joined}
            else:
                step = self._make_step(job, planned)
                by_node |= {node.name: step for node in planned.nodes}
            job.steps.append(step)
        if not job.sources and not job.inputs.steps:
            raise GraphError(f"graph '{plan.graph.name}': start node is not exist.", hint="add a node without inputs")
        for step in job.steps:
            self._connect(step, by_node)
        return job

    def _make_step(self, job: Job, planned: model.Step) -> Step:
        node, index, nodes = planned.first, planned.index, planned.nodes
        if planned.kind == "segment":
            return SegmentStep(job, index, nodes)
        if planned.kind == "native":
            return NativeStep(job, index, nodes)
        if planned.kind == "worker":
            if node.unit.inputs:
                return WorkerStep(job, index, nodes)
            python_source = PythonSourceStep(job, index, nodes)
            job.sources.append(python_source)
            return python_source
        if planned.kind == "input":
            entry = job.inputs.steps[node.name] = EntryStep(job, index, nodes)
            job.inputs.match = job.inputs.match and node.match
            return entry
        if planned.kind == "output":
            return OutputStep(job, index, nodes)
        unit_class = self._builtin_class(node)
        if issubclass(unit_class, SourceUnit):
            source = SourceStep(job, index, nodes, unit_class)
            job.sources.append(source)
            return source
        if issubclass(unit_class, SinkUnit) and len(node.sources[node.unit.inputs[0].name]) == 1:
            return SinkStep(job, index, nodes, unit_class)
        return BuiltinStep(job, index, nodes, unit_class)

    def _connect(self, step: Step, by_node: dict[str, Step]) -> None:
        last = step.nodes[-1]
        for number, port in enumerate(step.output_ports):
            for endpoint in last.targets.get(port, []):
                target = by_node[endpoint.node]
                lane = _lane(target, Endpoint(last.name, port), endpoint)
                step.targets[number].append((target, lane))
                if step not in target.upstream:
                    target.upstream.append(step)
        step.partners = [by_node[name] for name in last.partners]
        for partner in step.partners:
            partner.upstream.append(step)  # it waits for room among the results there

    # ---- units --------------------------------------------------------------------------------------------

    def _library_unit(self, spec: UnitSpec) -> Any:
        """The mb_unit of a native unit; its library is loaded on first use and stays loaded."""
        with self._lock:
            library = self._libraries.get(spec.path)
            if library is None:
                error = new_error()
                library = lib.mb_library_open(spec.path.encode(), error)
                if library == ffi.NULL:
                    check(error.status, error)
                self._libraries[spec.path] = library
        plugin = lib.mb_library_plugin(library)
        for number in range(plugin.unit_count):
            unit = plugin.units[number]
            if ffi.string(unit.name).decode() == spec.name and ffi.string(unit.device).decode() == spec.device:
                return unit
        raise DriverError(f"{spec.path}: no unit '{spec.name}' for {spec.device} inside (changed since the scan?)")

    def _builtin_class(self, node: model.Node) -> type[BuiltinUnit]:
        spec = node.unit
        if spec.kind is UnitKind.INFERENCE or spec.kind is UnitKind.VIRTUAL:
            behind = self._inference.get(spec.virtual_type)
            if behind is None:
                known = ", ".join(sorted(self._inference)) or "none"
                raise GraphError(
                    f"node '{node.name}': current environment does not support the inference type: "
                    f"'{spec.virtual_type}:{spec.device}'",
                    where=node.where,
                    hint=f"virtual_type in {spec.path}; supported here: {known}",
                )
            spec = behind
        with self._lock:
            unit_class = self._builtins.get(spec.name)
            if unit_class is None:
                unit_class = self._builtins[spec.name] = load_builtin(spec)
        return unit_class

    def _start_workers(
        self, job: str, node: model.Node, on_room: Callable[[], None], on_external: External | None = None
    ) -> WorkerGroup:
        pool = self._worker_pool(node.unit)
        defaults = self._worker_settings
        inside = not defaults.life.workers and not node.unit.python  # all in this process, one after the other
        return pool.start_group(
            node.unit,
            node.name,
            job,
            node.options,
            open_timeout_s=PATIENCE_S if inside else defaults.open_timeout_s,
            life=NO_LIMITS if inside else replace(defaults.life, workers=defaults.life.workers or 1).having(node.life),
            on_room=on_room,
            on_external=on_external,
            room=(0, 0) if node.drop else (node.queue_size_external, node.queue_bytes or SOURCE_BYTES),
            reread=lambda: reread(node),
            device_ids=[part.strip() for part in node.device_id.split(",") if part.strip()],
        )

    def _worker_pool(self, unit: UnitSpec) -> WorkerPool:
        """The pool of the unit's interpreter. Raises UnitError when that cannot run workers."""
        python = unit.python or sys.executable
        with self._lock:
            if python not in self._workers:
                if unit.python:
                    log.info("%s: units run in %s (%s)", unit.path, unit.python, interpreter.check_of(unit))
                pool = self._workers[python] = self._make_workers(python)
                pool.on_dropped = self._forget_gone
            return self._workers[python]

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the worker processes. Jobs must be stopped."""
        for pool in self._workers.values():
            pool.close(timeout_s)


def reread(node: model.Node) -> tuple[UnitSpec, dict[str, str]]:
    """The unit of a Python node and its options, from its TOML as it is now. Raises ModelBoxError where that says what
    a job cannot take over while it runs."""
    old = node.unit
    new = read_unit(Path(old.path), builtin_dir=Path(old.path))
    if new is None:
        raise DriverError(f"{old.path}: is no flow unit any more")
    changed = [item.name for item in fields(UnitSpec) if getattr(new, item.name) != getattr(old, item.name)]
    fixed = [name for name in changed if name not in TAKEN_OVER]
    if fixed:
        raise UnitError(f"{old.path}: {', '.join(fixed)} changed", hint="replace the job, or start it again")
    options = dict(new.config) | {key: text for key, text in node.options.items() if old.config.get(key) != text}
    return new, options


def _lane(target: Step, source: Endpoint, end: Endpoint) -> int:
    """Which lane of `target` an edge is; -1: it leads back into a loop."""
    node = next(node for node in target.nodes if node.name == end.node)
    edge = node.sources[end.port].index(source)
    if node.unit.loop:
        return -1 if edge == node.back_lane else 0
    port = target.nodes.index(node) if isinstance(target, OutputStep) else target.input_ports.index(end.port)
    return target.lanes.index(port) + edge


def load_builtin(spec: UnitSpec) -> type[BuiltinUnit]:
    """Imports the class of a built-in unit, `file@Class` beside its TOML. Raises DriverError."""
    module_name, _, class_name = spec.entry.partition("@")
    path = Path(spec.path).parent / f"{module_name}.py"
    full_name = f"modelboxd_flowunits.{module_name}"
    module = sys.modules.get(full_name)
    if module is None:
        source = importlib.util.spec_from_file_location(full_name, path)
        if source is None or source.loader is None or not path.is_file():
            raise DriverError(f"{spec.path}: entry '{spec.entry}': there is no file {path}")
        module = importlib.util.module_from_spec(source)
        sys.modules[full_name] = module
        try:
            source.loader.exec_module(module)
        except Exception as error:
            del sys.modules[full_name]
            raise DriverError(f"{spec.path}: cannot import {path}: {type(error).__name__}: {error}") from error
    unit_class = getattr(module, class_name, None)
    if not (inspect.isclass(unit_class) and issubclass(unit_class, BuiltinUnit)):
        raise DriverError(f"{spec.path}: {path} has no built-in unit class '{class_name}'")
    return unit_class
