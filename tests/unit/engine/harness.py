"""Small graphs of in-process units for engine tests: sources that tests feed, sinks that record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from modelbox._core.memory import Pool
from modelbox.buffer import Buffer, BufferList
from modelbox.device import Device
from modelbox.errors import ModelBoxError, UnitNotFoundError
from modelbox.spec import FlowType, PortSpec, UnitKind, UnitSpec
from modelboxd.engine.engine import Engine
from modelboxd.engine.executor import Executor
from modelboxd.engine.job import Job, JobSettings
from modelboxd.engine.unit import BuiltinUnit, Entry, SourceUnit
from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import parse_graph
from modelboxd.graph.plan import make_plan
from modelboxd.loop import IoThread

LIMIT_S = 20.0
CPU = Device("cpu", "0")


def text_buffer(text: str) -> Buffer:
    return Buffer(CPU, text)


def texts(items: BufferList) -> list[str]:
    return [f"!{b.get_error_code()}: {b.get_error_msg()}" if b.has_error() else str(b) for b in items]


def spec(
    name: str,
    inputs: tuple[str, ...] = ("in",),
    outputs: tuple[str, ...] = ("out",),
    *,
    stream: bool = False,
    sees_errors: bool = False,
    max_batch: int = 0,
    kind: UnitKind = UnitKind.BUILTIN,
    role: str = "",
    strict: dict[str, str] | None = None,
) -> UnitSpec:
    """`role`: expand, collapse, condition or loop; `strict`: ports that insist on their type."""
    types = strict or {}

    return UnitSpec(
        name=name,
        device="cpu",
        version="1.0.0",
        description=name,
        kind=kind,
        path=f"{name}.toml",
        inputs=tuple(PortSpec(port, types.get(port, "raw"), strict=port in types) for port in inputs),
        outputs=tuple(PortSpec(port, types.get(port, "raw"), strict=port in types) for port in outputs),
        expand=role == "expand",
        collapse=role == "collapse",
        condition=role == "condition",
        loop=role == "loop",
        open_options=True,
        flow_type=FlowType.STREAM if stream else FlowType.NORMAL,
        exception_visible=sees_errors,
        max_batch_size=max_batch,
    )


class Source(SourceUnit):
    """Hands its entry to the test."""

    entry: Entry

    def start(self, entry: Entry) -> None:
        self.entry = entry

    def stop(self) -> None:
        pass


class Record:
    """What one session delivered and how it ended."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.ended: Future[ModelBoxError | None] = Future()

    def error(self) -> ModelBoxError | None:
        return self.ended.result(LIMIT_S)


class Sink(BuiltinUnit):
    """Records texts in session.private["record"]."""

    inline = True

    def process(self, call: Any) -> None:
        call.session.private["record"].got += texts(call.input("in"))


class Upper(BuiltinUnit):
    def process(self, call: Any) -> None:
        out = call.output("out")
        for buffer in call.input("in"):
            out.push_back(text_buffer(str(buffer).upper()))


def unit(function: Callable[[Any], None], *, is_inline: bool = False) -> type[BuiltinUnit]:
    """A built-in unit class out of a function of the call."""

    class Made(BuiltinUnit):
        inline = is_inline

        def process(self, call: Any) -> None:
            function(call)

    return Made


class FakeClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 100.0
        self._calls: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        with self._lock:
            self._calls.append((when, function, args))

    def timers(self) -> int:
        """How many are set."""
        return len(self._calls)

    def advance(self, seconds: float) -> None:
        """Time passes; what is due by then is called, in order."""
        end = self._now + seconds
        while True:
            with self._lock:
                due = sorted((call for call in self._calls if call[0] <= end), key=lambda call: call[0])
                if not due:
                    break
                self._calls.remove(due[0])
            self._now = max(self._now, due[0][0])
            due[0][1](*due[0][2])
        self._now = end


class Registry:
    def __init__(self, specs: list[UnitSpec]) -> None:
        self.specs = {item.name: item for item in specs}

    def find(self, name: str, device: str = "", version: str = "") -> UnitSpec:
        try:
            return self.specs[name]
        except KeyError:
            raise UnitNotFoundError(f"create flowunit '{name}' failed.") from None


class Bench:
    """An engine with given units; run(dot) starts a job, send() feeds its source."""

    def __init__(
        self,
        units: dict[str, tuple[UnitSpec, type[BuiltinUnit] | None]],
        *,
        threads: int = 2,
        workers: Any = None,
        make_workers: Callable[[str], Any] | None = None,
        settings: JobSettings | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        base: dict[str, tuple[UnitSpec, type[BuiltinUnit] | None]] = {
            "source": (spec("source", (), ("out",)), Source),
            "sink": (spec("sink", ("in",), (), stream=True, sees_errors=True, max_batch=1 << 20), Sink),
            "upper": (spec("upper"), Upper),
        }
        base.update(units)
        self.registry = Registry([replace(item, name=name) for name, (item, _) in base.items()])
        self.executor = Executor(threads)
        self.executor.start()
        self.pool = Pool(guard_all=True)
        self.io = IoThread()
        self.engine = Engine(
            self.executor,
            self.pool,
            self.io,
            make_workers or (lambda python: workers),
            cpus=threads,
            job_settings=settings or JobSettings(drain_timeout_s=LIMIT_S, close_timeout_s=LIMIT_S),
            builtins={name: made for name, (_, made) in base.items() if made is not None},
            clock=clock,
        )
        self.jobs: list[Job] = []

    def run(self, dot: str, toml: str = "") -> Job:
        """`toml`: more sections of the graph file."""
        graph = parse_graph(f'[graph]\nformat = "graphviz"\ngraphconf = """{dot}"""\n{toml}', "test.toml")
        job = self.engine.create_job("test", make_plan(check_graph(graph, self.registry)))
        job.start()
        self.jobs.append(job)
        return job

    def entry(self, job: Job) -> Entry:
        source = job.sources[0].unit
        assert isinstance(source, Source)
        return source.entry

    def open(self, job: Job) -> tuple[Any, Record]:
        record = Record()
        session = self.entry(job).open({"record": record}, lambda ended: record.ended.set_result(ended.error))
        return session, record

    def send(
        self, job: Job, *items: str, end: bool = True, session: Any = None, record: Record | None = None
    ) -> Record:
        if session is None:
            session, record = self.open(job)
        assert record is not None
        self.entry(job).send(session, "out", [text_buffer(item) for item in items], end=end)
        return record

    def close(self) -> None:
        for job in self.jobs:
            job.stop()
        assert self.executor.stop(LIMIT_S)


class Gate:
    """Holds units back until a test lets them go."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.reached = threading.Semaphore(0)

    def wait(self) -> None:
        self.reached.release()
        assert self._open.wait(LIMIT_S)

    def wait_reached(self) -> None:
        assert self.reached.acquire(timeout=LIMIT_S)

    def open(self) -> None:
        self._open.set()
